"""What the doorbell's questions cost behind a backlog, and how soon a single job's turn comes.

A batch of that many jobs waits in the ledger; then a job outside it is submitted, and workers ask what to ring for, as
they do after every slice. Told are the CPU time of one asking (SQLite's is in it), the place of the single job among
the messages, and what cancelling the batch takes in CPU time: to the last job in work, and to the last of all.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from domain.batches import BatchSpec, Found
from domain.jobs import JobSpec
from domain.params import Ocr
from storage import batches, due, jobs, migrations
from storage.due import Bell
from storage.session import Database

MESSAGES = 256
CHUNK = 1000
ROUNDS = 15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", default="100,10000,100000")
    options = parser.parse_args()
    print(f"machine: {platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    for count in map(int, options.jobs.split(",")):
        with tempfile.TemporaryDirectory(prefix="nightowl-bench-") as folder:
            print(_measured(Database(f"sqlite:///{Path(folder) / 'ledger.db'}"), count))


def _measured(database: Database, count: int) -> str:
    migrations.upgrade(database)
    batch_id = _fill(database, count)
    now = datetime.now(UTC)
    with database.write() as session:
        spec = JobSpec(kind=Ocr.kind, params=Ocr(), source="/single.pdf")
        single = jobs.submit(session, spec, now=now)[0].id
        jobs.unring(session, single)
    asked = [_ask(database, now + timedelta(seconds=number)) for number in range(ROUNDS)]
    place = asked[0][1].index(single) + 1
    urgent, whole = _cancel(database, batch_id)
    database.close()
    milliseconds = 1000 * statistics.median(seconds for seconds, _ in asked)
    return (
        f"{count:7} jobs wait: one asking {milliseconds:6.1f} ms, the single job is message {place}; "
        f"cancel: {urgent:.2f} s to the last in work, {whole:.1f} s to the last of all"
    )


def _fill(database: Database, count: int) -> str:
    spec, now = BatchSpec(name="bench", params=Ocr()), datetime.now(UTC)
    with database.write() as session:
        batch = batches.open_batch(session, spec, now=now)
    for first in range(0, count, CHUNK):
        chunk = [Found(path=f"{n}.pdf", source=f"/a/{n}.pdf") for n in range(first, min(first + CHUNK, count))]
        with database.write() as session:
            batches.add(session, batch, spec, chunk, stored={}, now=now, ring=0)
    return batch.id


def _ask(database: Database, now: datetime) -> tuple[float, list[str]]:
    """CPU seconds of one asking, and the jobs that it rings for. Every asking finds room for eight messages."""
    bell = Bell(now=now, stale_before=now - timedelta(seconds=60))
    began = time.process_time()
    with database.write() as session:
        due.room(session, bell, max_messages=MESSAGES)
        found = [item.job_id for ask in (due.finishes, due.slices, due.plans) for item in ask(session, bell, limit=8)]
    return time.process_time() - began, found


def _cancel(database: Database, batch_id: str) -> tuple[float, float]:
    began, now = time.process_time(), datetime.now(UTC)
    with database.write() as session:
        batches.mark_cancelled(session, batch_id, now=now)
    with database.write() as session:
        batches.cancel_some(session, batch_id, now=now, limit=CHUNK, urgent=True)
    urgent = time.process_time() - began
    while True:
        with database.write() as session:
            if not batches.cancel_some(session, batch_id, now=now, limit=CHUNK):
                return urgent, time.process_time() - began


if __name__ == "__main__":
    main()
