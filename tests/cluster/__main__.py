"""`python -m tests.cluster`: a batch on three hosts, of which one is cut off and joined again, and one is killed.

Three hosts with a worker each, one PostgreSQL, one Redis, one S3-like store, the fake engine. A batch comes as a tar;
each fiftieth of its members is damaged and each twentieth has several pages. When a fifth is over, the first host is
cut off; when half is over, the second is killed with all its children; later the first is joined again. Told is what
came of it; the exit status is 1 where a promise was broken:

- every job is over, and as many succeeded and failed as were made to; members = jobs;
- `nightowl doctor --ledger` finds nothing;
- the result of every job is read back from the store, and is the one of its own source;
- what others stored while the first host was away is as it was, and that host works again afterwards;
- the cut stopped nobody else for longer than the ledger promises.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from domain.settings import Settings
from nightowl import Client, Ocr
from storage import migrations
from storage.attempts import worker_name
from storage.session import STILL_SECONDS, Database
from tests.cluster import hosts, servers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.cluster.hosts import Hosts

HOSTS = 3
CUT, KILLED = 0, 1
BATCH = "cluster"
BAD_EVERY, LONG_EVERY = 50, 20
LONG_LINES = 120
"""Of a text that is laid out on several pages."""
LEASE_SECONDS = 10.0
AWAY_SECONDS = 60.0
"""Longer than anybody waits for a silent peer, so that both sides have hung up when the host comes back."""
MOST_STILL_SECONDS = STILL_SECONDS + LEASE_SECONDS
ROOT = Path(__file__).parents[2]

SETTINGS = {
    "NIGHTOWL_ENGINE": "fake",
    "NIGHTOWL_LEASE_SECONDS": str(LEASE_SECONDS),
    "NIGHTOWL_SWEEP_SECONDS": "1",
    "NIGHTOWL_RING_SECONDS": "15",
    "NIGHTOWL_READERS": "1",
    "NIGHTOWL_CONCURRENCY": "4",
    "NIGHTOWL_LOG_LEVEL": "warning",
    "NIGHTOWL_STACK": "1",  # workers end with this process
    "OMP_NUM_THREADS": "1",
}


@dataclass(slots=True)
class Found:
    """What came of it. `wrong` is each broken promise as a sentence."""

    facts: dict[str, Any] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def expect(self, what: str, found: object, wanted: object) -> None:
        self.facts[what] = found
        if found != wanted:
            self.wrong.append(f"{what}: {found}, and not {wanted}")


class Cluster:
    """The servers and the hosts. Use as a context manager."""

    def __init__(self, made: Hosts) -> None:
        self.hosts = made
        self.folder = Path(tempfile.mkdtemp(prefix="nightowl-cluster-", dir="/tmp"))
        self._stack = ExitStack()
        self._pids: dict[int, int] = {}

    def __enter__(self) -> Cluster:
        with ExitStack() as stack:
            stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
            stack.enter_context(self.hosts)
            address = self.hosts.address
            postgres = stack.enter_context(servers.Postgres(address, network=self.hosts.network))
            redis = stack.enter_context(servers.Redis(address))
            store = stack.enter_context(servers.S3(address))
            self.environment = servers.environment(
                **SETTINGS,
                **store.environment,
                NIGHTOWL_DATABASE_URL=postgres.url,
                NIGHTOWL_BROKER_URL=redis.url,
                NIGHTOWL_ARTIFACTS_URL=f"{store.make_bucket()}/store",
                NIGHTOWL_CONFIG=str(self.folder / "none.toml"),
            )
            os.environ.update(self.environment)
            self.database = Database(postgres.url)
            stack.callback(self.database.close)
            migrations.upgrade(self.database)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start(self, host: int) -> None:
        """A worker, with a data folder that nobody else has."""
        data = {"NIGHTOWL_DATA_DIR": str(self.folder / f"host{host}"), "PYTHONPATH": str(ROOT)}
        self.hosts.start(host, [sys.executable, "-m", "worker"], {**self.environment, **data}, self.log(host))

    def log(self, host: int) -> Path:
        return self.folder / f"host{host}.log"

    def ask(self, query: str, **values: object) -> list[Any]:
        with self.database.read() as session:
            return list(session.execute(text(query), values).all())

    def number(self, query: str, **values: object) -> int:
        return int(self.ask(query, **values)[0][0] or 0)

    @property
    def over(self) -> int:
        return self.number("SELECT count(*) FROM jobs WHERE finished_at IS NOT NULL")


def main() -> int:
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything that was started is stopped
    made, why = (hosts.Groups(HOSTS), "asked for") if options.groups else hosts.choose(HOSTS)
    print(f"machine: {platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"hosts: {HOSTS} {made.kind}" + (f" ({why})" if why else ""))
    found = Found()
    with Cluster(made) as cluster:
        try:
            _run(cluster, found, members=options.members, away=options.away, limit=options.limit)
        except BaseException:
            for host in range(HOSTS):
                print(f"--- host {host}\n{cluster.log(host).read_text()[-3000:]}" if cluster.log(host).exists() else "")
            raise
        if found.wrong and options.keep:
            shutil.copytree(cluster.folder, options.keep, dirs_exist_ok=True)
    for name, value in found.facts.items():
        print(f"{name}: {value}")
    for sentence in found.wrong:
        print(f"BROKEN {sentence}")
    return 1 if found.wrong else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__.partition("\n")[0])
    parser.add_argument("--members", type=int, default=5000)
    parser.add_argument("--away", type=float, default=AWAY_SECONDS, help="least seconds that a host is cut off")
    parser.add_argument("--limit", type=float, default=1800, help="seconds for the batch")
    parser.add_argument("--groups", action="store_true", help="process groups, though namespaces could be had")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="copy the logs there if a promise was broken")
    return parser.parse_args()


# The batch.


def is_bad(number: int) -> bool:
    return number % BAD_EVERY == 0


def content(number: int) -> bytes:
    """A text that only this member has; some are laid out on several pages, some are no PDF though they say so."""
    if is_bad(number):
        return b"%PDF-1.7\nmember " + str(number).encode() + b" ends here"
    lines = LONG_LINES if number % LONG_EVERY == 1 else 3
    return "".join(f"Member {number} says line {line} of its own.\n" for line in range(lines)).encode()


def path(number: int) -> str:
    return f"{number % 100:02}/{number:05}.{'pdf' if is_bad(number) else 'txt'}"


def write_tar(file: Path, members: int) -> None:
    with tarfile.open(file, "w") as archive:
        for number in range(members):
            data = content(number)
            entry = tarfile.TarInfo(path(number))
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


# The run.


def _run(cluster: Cluster, found: Found, *, members: int, away: float, limit: float) -> None:
    began = time.monotonic()
    archive = cluster.folder / "members.tar"
    write_tar(archive, members)
    for host in range(HOSTS):
        cluster.start(host)
    with Client(Settings()) as client, ThreadPoolExecutor(1) as pool:
        submit = pool.submit(client.submit_batch, Ocr(), archive, name=BATCH)
        end = time.monotonic() + limit
        _wait(cluster, lambda: cluster.over >= members // 5, end, "a fifth of the batch")
        _faults(cluster, found, members=members, away=away, end=end)
        submit.result()
        _wait(cluster, lambda: client.batch(BATCH).is_over, end, "the batch")
        found.facts["all over after"] = f"{time.monotonic() - began:.0f} s"
        _check_counts(client, cluster, found, members)
        _check_results(client, found)
    _check_ledger(cluster, found)


def _faults(cluster: Cluster, found: Found, *, members: int, away: float, end: float) -> None:
    held = _worker(cluster, CUT)
    cluster.hosts.cut(CUT)
    since, at, over = time.monotonic(), _now(cluster), cluster.over
    found.facts["over when the first host was cut off"] = over
    _wait(cluster, lambda: cluster.over >= members // 2, end, "half of the batch, with a host cut off")
    found.facts["killed processes"], found.facts["over when they were"] = cluster.hosts.kill(KILLED), cluster.over
    _wait(cluster, lambda: time.monotonic() - since >= away and cluster.over >= members * 6 // 10, end, "the join")
    found.facts["over while it was away"] = cluster.over - over
    found.facts["attempts of it that were buried"] = cluster.number(
        "SELECT count(*) FROM attempts WHERE worker = :worker AND state = 'lost'", worker=held
    )
    found.expect("it was still up when it was joined", cluster.hosts.alive(CUT), True)
    before, joined = _stored(cluster), _now(cluster)
    longest = _longest_gap(cluster, since=at)
    found.facts["away for"] = f"{time.monotonic() - since:.0f} s"
    found.facts["longest time in which nobody stored a part"] = f"{longest:.1f} s"
    if longest > MOST_STILL_SECONDS:
        found.wrong.append(f"the cut stopped everybody for {longest:.1f} s")
    cluster.hosts.join(CUT)
    back = time.monotonic()
    query = "SELECT count(*) FROM attempts WHERE worker = :worker AND started_at > :joined"
    _wait(cluster, lambda: cluster.number(query, worker=held, joined=joined), end, "work of the host that came back")
    found.facts["it worked again after"] = f"{time.monotonic() - back:.1f} s"
    _wait(cluster, lambda: cluster.over >= members, end, "the batch")
    found.facts["attempts of it after the join"] = cluster.number(query, worker=held, joined=joined)
    after = _stored(cluster)
    changed = sum(1 for key, value in before.items() if after.get(key) != value)
    found.expect("parts changed after they were stored", changed, 0)
    found.expect("it is still up", cluster.hosts.alive(CUT), True)


def _worker(cluster: Cluster, host: int) -> str:
    """What the ledger calls the worker of a host."""
    return worker_name(cluster.hosts.pid(host))


def _now(cluster: Cluster) -> Any:
    return cluster.ask("SELECT clock_timestamp()")[0][0]


def _stored(cluster: Cluster) -> dict[tuple[str, int], tuple[Any, ...]]:
    rows = cluster.ask("SELECT job_id, number, text, attempts, finished_at FROM parts WHERE state = 'succeeded'")
    return {(row[0], row[1]): tuple(row[2:]) for row in rows}


def _longest_gap(cluster: Cluster, *, since: Any) -> float:
    """Between two parts that were stored one after the other, by the workers' clocks."""
    times = [
        row[0]
        for row in cluster.ask(
            "SELECT finished_at FROM parts WHERE finished_at > :since ORDER BY finished_at", since=since
        )
    ]
    return max(((later - earlier).total_seconds() for earlier, later in itertools.pairwise(times)), default=0.0)


def _wait(cluster: Cluster, condition: Callable[[], object], end: float, what: str) -> None:
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} did not come in time; {cluster.over} jobs are over")
        time.sleep(0.25)


# What must be so at the end.


def _check_counts(client: Client, cluster: Cluster, found: Found, members: int) -> None:
    bad = sum(map(is_bad, range(members)))
    summary = client.batch(BATCH)
    found.expect(
        "jobs by state",
        {state.value: n for state, n in summary.states.items() if n},
        {"failed": bad, "succeeded": members - bad},
    )
    found.expect("members", cluster.number("SELECT count(*) FROM members WHERE job_id IS NOT NULL"), members)
    found.expect("jobs", cluster.number("SELECT count(*) FROM jobs"), members)
    found.expect(
        "codes of the failed",
        dict(
            tuple(row) for row in cluster.ask("SELECT error_code, count(*) FROM jobs WHERE state = 'failed' GROUP BY 1")
        ),
        {"source_damaged": bad},
    )
    found.expect(
        "parts that are not stored", cluster.number("SELECT count(*) FROM parts WHERE state <> 'succeeded'"), 0
    )
    found.facts["parts"] = cluster.number("SELECT count(*) FROM parts")
    found.facts["attempts by state"] = dict(
        tuple(row) for row in cluster.ask("SELECT state, count(*) FROM attempts GROUP BY 1")
    )


def _check_results(client: Client, found: Found) -> None:
    """Each result file is read from the store; it and the text in the ledger are the words of their own member."""
    read = wrong = 0
    for row in _results(client):
        assert row.job is not None and row.path is not None
        own = _words(content(int(row.path[3:8])).decode())
        stored = [client.read(file).decode() for file in row.files]
        read += len(stored)
        wrong += len(stored) != 1 or {_words(row.job.result.text), _words(stored[0])} != {own}
    found.facts["result files read from the store"] = read
    found.expect("results that are missing or another member's", wrong, 0)


def _words(text: str) -> str:
    return " ".join(text.split())


def _results(client: Client) -> Iterator[Any]:
    from domain.states import JobState
    from storage.exports import Which

    return client.results(Which(batch_id=client.batch_id(BATCH), states=(JobState.SUCCEEDED,)))


def _check_ledger(cluster: Cluster, found: Found) -> None:
    line = [sys.executable, "-c", "from nightowl.cli import main; main()", "doctor", "--ledger", "--json"]
    done = subprocess.run(line, capture_output=True, text=True, env=cluster.environment, cwd=ROOT, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    found.facts["doctor --ledger"] = lines[-1] if lines else done.stderr[-500:]
    found.expect("exit status of doctor --ledger", done.returncode, 0)


if __name__ == "__main__":
    sys.exit(main())
