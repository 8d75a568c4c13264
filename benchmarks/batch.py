"""What submitting a batch costs beside a bare bulk INSERT of the same rows, and whether memory grows with the members.

Two sources: `list`, JSON lines of URLs, which nobody opens here, so that what remains is the ledger; and `tar`, an
archive of small files, each of which is read, hashed and stored as a file of its own. Every submit runs in a process of
its own, whose peak memory is told. The bare INSERT puts the rows that the submit made (jobs, members, files) into an
empty ledger on the same kind of database: one executemany per table, one transaction, ready-made rows.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, insert, make_url, select, text
from sqlalchemy.pool import NullPool

from domain.settings import Settings
from nightowl import Client, Ocr
from storage import migrations
from storage.session import Database
from storage.tables import Artifact, Batch, Job, Member


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """Seconds of both, the CPU time of the bare INSERT over that of the submit, and the submit's peak in MiB."""

    submit: float
    bare: float
    cpu_ratio: float
    peak: float

    @property
    def ratio(self) -> float:
        """Rows/s of the submit over those of the bare INSERT."""
        return self.bare / self.submit


def main() -> None:
    options = _options()
    if options.submit:
        _submit(Path(options.submit))
        return
    print(f"machine: {platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    for kind in options.sources.split(","):
        peaks = {}
        for count in (options.members // 10, options.members):
            rounds = [
                _round(kind, count, options.server) for _ in range(options.rounds if count == options.members else 1)
            ]
            peaks[count] = max(one.peak for one in rounds)
            median = sorted(rounds, key=lambda one: one.ratio)[len(rounds) // 2]
            print(
                f"{kind:5} {count:7} members: submit {count / median.submit:8.0f} /s, bare INSERT "
                f"{count / median.bare:8.0f} /s, ratio {median.ratio:.2f} (by CPU time {median.cpu_ratio:.2f}), "
                f"peak {median.peak:.0f} MiB"
            )
        small, large = peaks.values()
        print(f"{kind:5} memory: {large / small:.2f} times with ten times the members")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--sources", default="list,tar")
    parser.add_argument("--server", help="URL of a PostgreSQL server; SQLite if unset")
    parser.add_argument("--submit", help=argparse.SUPPRESS)
    return parser.parse_args()


def _round(kind: str, count: int, server: str | None) -> Round:
    with tempfile.TemporaryDirectory(prefix="nightowl-bench-") as folder:
        source = _source(kind, count, Path(folder))
        urls = [make_database(Path(folder), server, name) for name in ("submitted", "bare")]
        environment = {**os.environ, "NIGHTOWL_DATA_DIR": folder, "NIGHTOWL_DATABASE_URL": urls[0]}
        command = [sys.executable, "-m", "benchmarks.batch", "--submit", str(source)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        told = json.loads(done.stdout)
        assert told["added"] == count, told
        bare = _bare(*urls)
        return Round(submit=told["seconds"], bare=bare[0], cpu_ratio=bare[1] / told["cpu"], peak=told["peak_mib"])


def _source(kind: str, count: int, folder: Path) -> Path:
    if kind == "list":
        path = folder / "members.jsonl"
        path.write_text("".join(f'{{"source": "https://example.org/archive/{n:07d}.pdf"}}\n' for n in range(count)))
        return path
    path = folder / "members.tar"
    with tarfile.open(path, "w") as archive:
        for number in range(count):
            content = f"{number}\n".encode() * 100
            info = tarfile.TarInfo(f"folder{number % 97}/{number:07d}.txt")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def make_database(folder: Path, server: str | None, name: str) -> str:
    if server is None:
        url = f"sqlite:///{folder}/{name}.db"
    else:
        admin = make_url(server).set(drivername="postgresql+psycopg")
        engine = create_engine(admin, isolation_level="AUTOCOMMIT", poolclass=NullPool)
        with engine.connect() as connection:
            connection.execute(text(f"DROP DATABASE IF EXISTS bench_{name} WITH (FORCE)"))
            connection.execute(text(f"CREATE DATABASE bench_{name}"))
        url = admin.set(database=f"bench_{name}").render_as_string(hide_password=False)
    database = Database(url)
    migrations.upgrade(database)
    database.close()
    return url


def _submit(source: Path) -> None:
    with Client(Settings()) as client:
        started, used = time.perf_counter(), time.process_time()
        report = client.submit_batch(Ocr(), source, name="bench")
        seconds, cpu = time.perf_counter() - started, time.process_time() - used
    print(json.dumps({"added": report.added, "seconds": seconds, "cpu": cpu, "peak_mib": _peak_mib()}))


def _peak_mib() -> float:
    """Of this process since its start. getrusage would tell the parent's, from before the exec, if that is higher."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def _bare(submitted: str, bare: str) -> tuple[float, float]:
    """Seconds, and seconds of CPU time, for the same rows, of which only the columns that the submit wrote."""
    origin, target = Database(submitted), Database(bare)
    rows: dict[Any, list[dict[str, Any]]] = {}
    with origin.engine.connect() as connection:
        for table in (Batch, Artifact, Job, Member):
            found = connection.execute(select(table.__table__)).mappings()
            rows[table] = [dict(row) for row in found]
    written = {name for name in rows[Job][0] if any(row[name] is not None for row in rows[Job][:100])}
    rows[Job] = [{name: row[name] for name in written} for row in rows[Job]]
    with target.engine.connect() as connection:
        started, used = time.perf_counter(), time.process_time()
        for table, values in rows.items():
            if values:
                connection.execute(insert(table.__table__), values)
        connection.commit()
        seconds, cpu = time.perf_counter() - started, time.process_time() - used
    origin.close()
    target.close()
    return seconds, cpu


if __name__ == "__main__":
    main()
