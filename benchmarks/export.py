"""What exporting a batch costs: rows/s and the exporter's peak memory, at two sizes, in every format.

A batch whose jobs have succeeded is written into the ledger by SQL: jobs with a text of some lines and with data, each
tenth with subtitles in the artifact store, under paths as an archive of folders has. Then `nightowl export` runs as a
process of its own for each format; VmHWM is the kernel's word for the most memory it had.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import insert

from domain.states import JobState, MemberState
from storage import migrations
from storage.artifacts import ArtifactStore
from storage.jobs import new_id
from storage.session import Database
from storage.tables import Artifact, Batch, Job, Member

if TYPE_CHECKING:
    from collections.abc import Iterator

CHUNK = 1000
LINES = 12
OUTPUTS = ("out.jsonl", "out.csv", "out.parquet", "out.zip", "out")
EXPORT = """
import sys
from pathlib import Path
from nightowl.cli import app
try:
    app(standalone_mode=False)
finally:
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(peak.split()[1], flush=True)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--jobs", default="10000,100000")
    parser.add_argument("--open", type=int, default=0, metavar="N", help="each N-th job is not over yet")
    parser.add_argument("--server", metavar="URL", help="an empty PostgreSQL database; SQLite without it")
    options = parser.parse_args()
    print(f"machine: {platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print("members  output       s   rows/s  peak MiB  size MiB")
    for count in map(int, options.jobs.split(",")):
        with tempfile.TemporaryDirectory(prefix="nightowl-bench-", dir="/tmp") as name:
            folder = Path(name)
            url = options.server or f"sqlite:///{folder / 'nightowl.db'}"
            environment = {**os.environ, "NIGHTOWL_DATABASE_URL": url, "NIGHTOWL_DATA_DIR": str(folder)}
            _fill(url, folder / "artifacts", count, options.open)
            for output in OUTPUTS:
                print(_export(environment, folder / output, count), flush=True)


def _fill(url: str, store: Path, count: int, open_every: int) -> None:
    """The subtitles of all are one file; each job that has them has a row of its own."""
    database = Database(url)
    migrations.upgrade(database)
    kept = ArtifactStore(str(store)).put(
        b"1\n00:00:00,000 --> 00:00:01,000\nhi\n", name="captions.srt", media_type="text/plain"
    )
    with database.write() as session:
        session.execute(insert(Batch), [{"id": f"b{count}", "name": f"bench-{count}", "kind": "ocr"}])
    for first in range(0, count, CHUNK):
        numbers = range(first, min(first + CHUNK, count))
        made = [(number, new_id()) for number in numbers]
        with database.write() as session:
            session.execute(insert(Job), [_job(count, number, id, open_every) for number, id in made])
            session.execute(insert(Member), [_member(count, number, id) for number, id in made])
            session.execute(insert(Artifact), list(_files(made, kept.url)))
    database.close()


def _job(count: int, number: int, id: str, open_every: int) -> dict[str, Any]:
    now, is_open = datetime.now(UTC), bool(open_every) and number % open_every == 0
    text = "".join(f"Line {line} of what was read on page {number} of the archive.\n" for line in range(LINES))
    result = {"text": text, "data": {"pages": [{"page": 1, "origin": "layer", "words": 9 * LINES}]}, "artifacts": []}
    return {
        "id": id,
        "batch_id": f"b{count}",
        "kind": "ocr",
        "state": JobState.PENDING if is_open else JobState.SUCCEEDED,
        "params": {},
        "source": f"/archive/{number}.pdf",
        "result": None if is_open else result,
        "parts_total": 0 if is_open else 1,
        "parts_succeeded": 0 if is_open else 1,
        "change_seq": number + 1,
        "created_at": now,
        "finished_at": None if is_open else now,
    }


def _member(count: int, number: int, id: str) -> dict[str, Any]:
    path = f"{number // 1000:03}/box {number // 100 % 10}/{number:06}.pdf"
    return {
        "batch_id": f"b{count}",
        "digest": f"{number:040}",
        "path": path,
        "job_id": id,
        "state": MemberState.SUBMITTED,
    }


def _files(made: list[tuple[int, str]], url: str) -> Iterator[dict[str, Any]]:
    facts = {
        "role": "result",
        "name": "captions.srt",
        "media_type": "text/plain",
        "size": 36,
        "sha256": "0" * 64,
        "url": url,
    }
    for number, id in made:
        if number % 10 == 0:
            yield {**facts, "id": new_id(), "job_id": id}


def _export(environment: dict[str, str], output: Path, count: int) -> str:
    line = [sys.executable, "-c", EXPORT, "export", f"bench-{count}", "--output", str(output)]
    began = time.monotonic()
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=True)
    seconds, peak = time.monotonic() - began, int(done.stdout.split()[-1]) / 1024
    size = sum(path.stat().st_size for path in (output.rglob("*") if output.is_dir() else [output])) / 2**20
    return f"{count:7}  {output.name:11} {seconds:5.1f} {count / seconds:7.0f} {peak:9.1f} {size:9.1f}"


if __name__ == "__main__":
    main()
