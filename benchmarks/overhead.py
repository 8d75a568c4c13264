"""What a job costs beside a bare Celery task: jobs/s through the whole stack, and no-ops/s on the same Redis.

Jobs of one part (a text file of one page) with the fake engine: submit, plan (a reader child opens the file), run (a
reader child renders the page), finish, each step committed to SQLite. No-ops: send, run, count. Both with 8 threads.
The CPU time of the workers says the same where other programs share the machine.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import redis

from domain.settings import Settings
from nightowl import Client, Ocr
from nightowl.stack import Stack

if TYPE_CHECKING:
    from collections.abc import Sequence

THREADS = 8


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory(prefix="nightowl-bench-") as folder:
        os.environ.update(
            NIGHTOWL_DATA_DIR=folder, NIGHTOWL_ENGINE="fake", NIGHTOWL_REUSE="false", NIGHTOWL_CONCURRENCY=str(THREADS)
        )
        settings = Settings()
        page = Path(folder) / "page.txt"
        page.write_text("One page of plain text.\n")
        with Stack(settings, log=Path(folder) / "worker.log"), Client(settings) as client:
            worker = _noop_worker(settings.redis_socket, Path(folder))
            try:
                rounds = [
                    _round(client, settings.redis_socket, page, options.jobs, worker.pid) for _ in range(options.rounds)
                ]
            finally:
                worker.terminate()
                worker.wait()
    _report(rounds, options.jobs)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


def _noop_worker(socket: Path, folder: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "NOOP_SOCKET": str(socket), "C_FORCE_ROOT": "1"}
    command = [sys.executable, "-m", "celery", "-A", "benchmarks.noop", "worker", "-P", "threads", "-c", str(THREADS)]
    root = Path(__file__).parent.parent
    with (folder / "noop.log").open("wb") as log:
        return subprocess.Popen([*command, "-Q", "noop"], env=environment, cwd=root, stdout=log, stderr=log)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Of one job or no-op: seconds on the clock, and seconds of CPU in the worker."""

    clock: float
    cpu: float


def _round(client: Client, socket: Path, page: Path, count: int, noop_worker: int) -> tuple[Cost, Cost]:
    """A job and a no-op. One of each runs before the clock starts, so that start-up is not counted."""
    client.wait(client.submit(Ocr(), page, fresh=True).id, timeout_seconds=120)
    _run_noops(socket, 1)
    job_worker = int(client.workers()[0].name.rpartition(":")[2])
    before = _cpu(job_worker)
    jobs = _run_jobs(client, page, count)
    job = Cost(clock=jobs / count, cpu=(_cpu(job_worker) - before) / count)
    before = _cpu(noop_worker)
    noops = _run_noops(socket, count)
    return job, Cost(clock=noops / count, cpu=(_cpu(noop_worker) - before) / count)


def _cpu(pid: int) -> float:
    """CPU seconds of a process and its children so far."""
    process = psutil.Process(pid)
    return sum(sum(one.cpu_times()[:2]) for one in (process, *process.children(recursive=True)))


def _run_jobs(client: Client, page: Path, count: int) -> float:
    started = time.perf_counter()
    jobs = [client.submit(Ocr(), page, fresh=True) for _ in range(count)]
    ended = [client.wait(job.id, timeout_seconds=600) for job in jobs]
    seconds = time.perf_counter() - started
    assert all(job.state == "succeeded" for job in ended), "a job did not succeed: the figure would mean nothing"
    return seconds


def _run_noops(socket: Path, count: int) -> float:
    from celery import Celery

    with redis.Redis(unix_socket_path=str(socket)) as counter:
        counter.set("noop-count", 0)
        app = Celery(broker=f"redis+socket://{socket}", set_as_current=False)
        started = time.perf_counter()
        for _ in range(count):
            app.send_task("noop", queue="noop", ignore_result=True)
        while int(counter.get("noop-count") or 0) < count:
            time.sleep(0.005)
        seconds = time.perf_counter() - started
        app.close()
    return seconds


def _report(rounds: Sequence[tuple[Cost, Cost]], count: int) -> None:
    print(f"machine: {platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"{count} jobs of one part, fake engine, SQLite, median of {len(rounds)} rounds")
    for name, costs in zip(("jobs through the stack", "bare Celery no-ops"), zip(*rounds, strict=True), strict=True):
        clock = statistics.median(cost.clock for cost in costs)
        cpu = statistics.median(cost.cpu for cost in costs)
        print(f"  {name:<24} {1 / clock:8.1f} /s  ({1000 * clock:.1f} ms each, {1000 * cpu:.1f} ms of CPU)")
    clock = statistics.median(job.clock / noop.clock for job, noop in rounds)
    cpu = statistics.median(job.cpu / noop.cpu for job, noop in rounds)
    print(f"  a job costs {clock:.1f} no-ops by the clock, {cpu:.1f} by the worker's CPU time")


if __name__ == "__main__":
    main()
