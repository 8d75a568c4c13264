"""What a job costs beside a bare Celery task: jobs/s through the whole stack, and no-ops/s on the same Redis.

Jobs of one part (a text file of one page) with the fake engine: submit, plan (a reader child opens the file), run (a
reader child renders the page), finish, each step committed to the ledger. No-ops: send, run, count. Both with as many
processes of 8 threads. The CPU time of the workers says the same where other programs share the machine.

At the end the ledger is asked what became of the jobs: each must have succeeded, with its one part stored.
`--processes 2 --jobs 100000 --rounds 1 --batch` is the long run; `--server` does it on PostgreSQL.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import redis
from sqlalchemy import func, select

from benchmarks.batch import make_database
from domain.settings import Settings
from domain.states import JobState, PartState
from nightowl import Client, Ocr
from nightowl.stack import Stack
from storage.session import Database
from storage.tables import Part

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


THREADS = 8
LONGEST_SECONDS = 4 * 3600
FEW = 2000
"""Up to so many jobs the ledger is asked often; a question about all of many takes a while itself."""


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory(prefix="nightowl-bench-") as folder:
        os.environ.update(
            NIGHTOWL_DATA_DIR=folder, NIGHTOWL_ENGINE="fake", NIGHTOWL_REUSE="false", NIGHTOWL_CONCURRENCY=str(THREADS)
        )
        if options.server:
            os.environ["NIGHTOWL_DATABASE_URL"] = make_database(Path(folder), options.server, "overhead")
        settings = Settings()
        page = Path(folder) / "page.txt"
        page.write_text("One page of plain text.\n")
        with ExitStack() as stack:
            stack.enter_context(Stack(settings, log=Path(folder) / "worker.log"))
            client = stack.enter_context(Client(settings))
            for number in range(1, options.processes):
                stack.enter_context(_worker(number, Path(folder)))
            noop_workers = [
                stack.enter_context(_noop_worker(settings.redis_socket, Path(folder), number))
                for number in range(options.processes)
            ]
            bench = Bench(client, settings.redis_socket, page, noop_workers)
            rounds = [bench.round(options.jobs, as_batch=options.batch) for _ in range(options.rounds)]
    _report(rounds, options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=1, help="worker processes, and as many for the no-ops")
    parser.add_argument("--batch", action="store_true", help="submit the jobs as one batch, not one by one")
    parser.add_argument("--server", help="URL of a PostgreSQL server; SQLite if unset")
    return parser.parse_args()


@contextmanager
def _worker(number: int, folder: Path) -> Iterator[int]:
    """A worker beside that of the stack."""
    environment = {**os.environ, "NIGHTOWL_STACK": "1", "NIGHTOWL_NODE": f"beside-{number}"}
    with _process(["-m", "worker"], environment, folder / f"worker-{number}.log") as pid:
        yield pid


@contextmanager
def _noop_worker(socket: Path, folder: Path, number: int) -> Iterator[int]:
    environment = {**os.environ, "NOOP_SOCKET": str(socket), "C_FORCE_ROOT": "1"}
    command = ["-m", "celery", "-A", "benchmarks.noop", "worker", "-P", "threads", "-c", str(THREADS), "-Q", "noop"]
    with _process([*command, "-n", f"noop-{number}@%h"], environment, folder / f"noop-{number}.log") as pid:
        yield pid


@contextmanager
def _process(arguments: list[str], environment: dict[str, str], log: Path) -> Iterator[int]:
    root = Path(__file__).parent.parent
    with log.open("wb") as file:
        process = subprocess.Popen([sys.executable, *arguments], env=environment, cwd=root, stdout=file, stderr=file)
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Of one job or no-op: seconds on the clock, and seconds of CPU in the workers."""

    clock: float
    cpu: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """`submit` is the part of the clock that the caller took to submit a job."""

    job: Cost
    noop: Cost
    submit: float


class Bench:
    def __init__(self, client: Client, socket: Path, page: Path, noop_workers: Sequence[int]) -> None:
        self._client, self._socket, self._page, self._noop_workers = client, socket, page, noop_workers
        self._database = Database(client.settings.database)
        self._number = 0
        self._ended = 0

    def round(self, count: int, *, as_batch: bool) -> Round:
        """One job and one no-op for each worker run before the clock starts, so that start-up is not counted."""
        self._wait_for_workers()
        warm = 4 * THREADS * len(self._noop_workers)
        self._submit_each(warm)
        self._await_all(warm)
        self._run_noops(warm)
        workers = [int(one.name.rpartition(":")[2]) for one in self._client.workers()]
        before, started = _cpu(workers), time.perf_counter()
        submit = self._submit_batch if as_batch else self._submit_each
        submit(count)
        submitted = time.perf_counter()
        self._await_all(count)
        job = Cost(clock=(time.perf_counter() - started) / count, cpu=(_cpu(workers) - before) / count)
        before, begun = _cpu(self._noop_workers), time.perf_counter()
        self._run_noops(count)
        noop = Cost(clock=(time.perf_counter() - begun) / count, cpu=(_cpu(self._noop_workers) - before) / count)
        return Round(job=job, noop=noop, submit=(submitted - started) / count)

    def _wait_for_workers(self) -> None:
        limit = time.monotonic() + 120
        while len(self._client.workers()) < len(self._noop_workers):
            assert time.monotonic() < limit, "a worker did not start"
            time.sleep(0.1)

    def _submit_each(self, count: int) -> None:
        for _ in range(count):
            self._client.submit(Ocr(), self._page, fresh=True)

    def _submit_batch(self, count: int) -> None:
        self._number += 1
        members = self._page.with_name("members.jsonl")
        with members.open("w") as file:
            for number in range(count):
                file.write(json.dumps({"source": str(self._page), "name": f"{number:07d}.txt"}) + "\n")
        report = self._client.submit_batch(Ocr(), members, name=f"bench-{self._number}", fresh=True)
        assert report.added == count, report

    def _await_all(self, count: int) -> None:
        """Until no job is open; then each that was ever submitted must have succeeded."""
        limit = time.monotonic() + LONGEST_SECONDS
        pause = 0.02 if count <= FEW else 2.0
        while (found := self._client.counts()).get(JobState.PENDING) or found.get(JobState.RUNNING):
            assert time.monotonic() < limit, found
            time.sleep(pause)
        self._ended += count
        assert found == {JobState.SUCCEEDED: self._ended}, f"{found}, but {self._ended} were submitted"
        with self._database.read() as session:
            stored = session.scalar(select(func.count()).where(Part.state == PartState.SUCCEEDED))
        assert stored == self._ended, f"{stored} parts are stored, but there should be {self._ended}"

    def _run_noops(self, count: int) -> None:
        from celery import Celery

        with redis.Redis(unix_socket_path=str(self._socket)) as counter:
            counter.set("noop-count", 0)
            app = Celery(broker=f"redis+socket://{self._socket}", set_as_current=False)
            for _ in range(count):
                app.send_task("noop", queue="noop", ignore_result=True)
            while int(counter.get("noop-count") or 0) < count:
                time.sleep(0.005)
            app.close()


def _cpu(pids: Sequence[int]) -> float:
    """CPU seconds so far of processes, their children, and the children that they have buried."""
    total = 0.0
    for pid in pids:
        process = psutil.Process(pid)
        total += sum(process.cpu_times()[:4]) + sum(
            sum(one.cpu_times()[:4]) for one in process.children(recursive=True)
        )
    return total


def _report(rounds: Sequence[Round], options: argparse.Namespace) -> None:
    print(f"machine: {platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(
        f"{options.jobs} jobs of one part {'as one batch' if options.batch else 'one by one'}, fake engine, "
        f"{'PostgreSQL' if options.server else 'SQLite'}, {options.processes} worker process(es) of {THREADS} threads, "
        f"median of {len(rounds)} round(s)"
    )
    for name, costs in (("jobs", [one.job for one in rounds]), ("bare no-ops", [one.noop for one in rounds])):
        clock = statistics.median(cost.clock for cost in costs)
        cpu = statistics.median(cost.cpu for cost in costs)
        print(
            f"  {name:<12} {1 / clock:8.1f} /s  ({1000 * clock:.2f} ms each, {1000 * cpu:.2f} ms of the workers' CPU)"
        )
    submit = statistics.median(one.submit for one in rounds)
    print(f"  submitting   {1 / submit:8.1f} /s  ({1000 * submit:.2f} ms each, in the time above)")
    clock = statistics.median(one.job.clock / one.noop.clock for one in rounds)
    cpu = statistics.median(one.job.cpu / one.noop.cpu for one in rounds)
    print(f"  a job costs {clock:.1f} no-ops by the clock, {cpu:.1f} by the workers' CPU time")
    print(f"  lost: 0 of {options.jobs * len(rounds)}; each succeeded, and has its one part")


if __name__ == "__main__":
    main()
