"""The Python client: submit, wait, read. Talks to the database; the broker is only told that there is work."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Self

from domain.errors import NotFoundError
from domain.jobs import JobSpec
from domain.settings import Settings
from domain.sources import check_source, scheme
from nightowl.doorbell import Doorbell
from storage import artifacts, batches, exports, jobs, migrations, parts, presence
from storage.artifacts import ArtifactStore, StoredFile, safe_name
from storage.listening import Listener
from storage.session import Database

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from domain.jobs import Job, Part
    from domain.params import Params
    from domain.states import JobState
    from storage.exports import Exported, Which
    from storage.presence import Presence, Standing

FIRST_LOOK_SECONDS = 0.02
LAST_LOOK_SECONDS = 1.0
SELDOM_SECONDS = 5.0
"""Time between two looks at a job whose end PostgreSQL will tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """Jobs that changed, oldest change first, and the cursor to ask with next time."""

    jobs: tuple[Job, ...]
    cursor: int


class Pace:
    """How long to wait before the next look at a job, and when to give up.

    Where nobody tells us, a tenth of the time that we have waited: a short job is seen to end at once, a long one costs
    few questions.
    """

    def __init__(self, job_id: str, timeout_seconds: float | None) -> None:
        self._job_id = job_id
        self._timeout = timeout_seconds
        self._began = time.monotonic()

    def pause(self, job: Job, *, told: bool) -> float:
        """Seconds. Raises TimeoutError."""
        waited = time.monotonic() - self._began
        if self._timeout is not None and waited >= self._timeout:
            raise TimeoutError(f"job {self._job_id} is {job.state} after {self._timeout} s")
        seconds = SELDOM_SECONDS if told else min(max(waited / 10, FIRST_LOOK_SECONDS), LAST_LOOK_SECONDS)
        return seconds if self._timeout is None else min(seconds, self._timeout - waited)


class Client:
    """A door to the ledger. Thread-safe. Close it, or use it in a `with` block.

    Raises SetupError where the database was not migrated to this version.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self._database = Database(self.settings.database)
        migrations.require_current(self._database)
        self._artifacts = ArtifactStore(self.settings.artifacts)
        self._doorbell = Doorbell(self.settings)
        self.listener = Listener(self._database)

    def submit(
        self,
        params: Params,
        source: str | Path | bytes | None = None,
        *,
        name: str | None = None,
        key: str | None = None,
        priority: int = 0,
        engine: str | None = None,
        upload: bool | None = None,
    ) -> Job:
        """Store a job and ring for it.

        `source` is a path, a URL as text (file, http, https, s3 and others; see docs/sources.md), or the bytes
        themselves. `upload` copies a local file into the artifact store;
        by default this is done where the store is remote, since the workers then may not see this machine's files.
        `key` makes the call idempotent: the same key again returns the same job. Above 0, `priority` goes first.

        Raises:
            ConflictError: the key belongs to a job with another kind, source or params.
            SourceError: the bytes are over the limit, or a URL holds a user or password.
        """
        if isinstance(source, str | Path):
            check_source(str(source))
        stored = self._upload(source, name, upload=not self._artifacts.is_local if upload is None else upload)
        spec = JobSpec(
            kind=params.kind,
            params=params,
            source=f"{artifacts.SCHEME}{stored.id}" if stored else _address(source),
            source_name=name or (stored.name if stored else None) or _name(source),
            key=key,
            priority=priority,
            engine=engine,
        )
        with self._database.write() as session:
            if stored:
                artifacts.add(session, stored, role="source", job_id=None)
            job, is_new = jobs.submit(session, spec, now=datetime.now(UTC))
        if is_new and not self._doorbell.ring(job.id, priority=priority):
            with self._database.write() as session:
                jobs.unring(session, job.id)
        return job

    def _upload(self, source: str | Path | bytes | None, name: str | None, *, upload: bool) -> StoredFile | None:
        if isinstance(source, bytes):
            label = name or "upload"
            self.settings.limits.check_source_bytes(len(source), name=label)
            return self._artifacts.put(source, name=label, media_type="application/octet-stream")
        if not upload or source is None or scheme(str(source)):
            return None
        path = Path(source)
        self.settings.limits.check_source_bytes(path.stat().st_size, name=path.name)
        return self._artifacts.put_file(path, name=name or path.name)

    def get(self, job_id: str) -> Job:
        """Raises NotFoundError."""
        with self._database.read() as session:
            return jobs.get(session, job_id)

    def find(self, prefix: str) -> Job:
        """The one job whose id begins so. Raises NotFoundError, also where several do."""
        with self._database.read() as session:
            if jobs.exists(session, prefix):
                return jobs.get(session, prefix)
            found = jobs.find_ids(session, prefix)
            if len(found) != 1:
                raise NotFoundError(
                    f"{'several jobs have ids that begin' if found else 'no job has an id that begins'} with {prefix!r}"
                )
            return jobs.get(session, found[0])

    def wait(self, job_id: str, *, timeout_seconds: float | None = None) -> Job:
        """Wait until it is over: PostgreSQL tells it, on SQLite we look. Raises TimeoutError, and NotFoundError."""
        ended, pace = threading.Event(), Pace(job_id, timeout_seconds)
        with self.listener.on(job_id, ended.set):
            while not (job := self.get(job_id)).state.is_final:
                ended.wait(pace.pause(job, told=self.listener.hears))
                ended.clear()
        return job

    def changes(self, since: int = 0, *, limit: int = 500) -> Changes:
        """Jobs that changed after the cursor. A job that changed twice appears once, as it is now."""
        with self._database.read() as session:
            found = jobs.changes(session, since=since, limit=limit)
        return Changes(jobs=tuple(found), cursor=found[-1].change_seq if found else since)

    def recent(self, *, limit: int = 20, states: Collection[JobState] = ()) -> list[Job]:
        """The newest jobs first."""
        with self._database.read() as session:
            return jobs.recent(session, limit=limit, states=states)

    def counts(self) -> dict[JobState, int]:
        """How many jobs are in which state."""
        with self._database.read() as session:
            return jobs.count_by_state(session)

    def parts(self, job_id: str) -> list[Part]:
        """The parts of a job, in order. Raises NotFoundError."""
        with self._database.read() as session:
            jobs.get(session, job_id)
            return parts.of_job(session, job_id)

    def cancel(self, job_id: str) -> Job:
        """End an open job; one that is over stays as it is. Raises NotFoundError."""
        with self._database.write() as session:
            jobs.cancel(session, job_id, now=datetime.now(UTC))
            return jobs.get(session, job_id)

    def retry(self, job_id: str, *, password: str | None = None) -> Job:
        """Try a failed, partial or cancelled job again; parts that succeeded are kept.

        The password of an encrypted source was cleared when the job ended, so it must be given again.

        Raises:
            ConflictError: the job is open, or succeeded.
            NotFoundError: there is no such job.
        """
        with self._database.write() as session:
            job = jobs.retry(session, job_id, password=password)
        if not job.parts.total:
            self._doorbell.ring(job_id, priority=job.priority)
        return job

    def last_change(self) -> int:
        """The highest change number that was given: the cursor of who wants to know of nothing that is past."""
        with self._database.read() as session:
            return presence.last_change(session)

    def standing(self, batch_id: str | None = None, *, since: int = 0) -> Standing:
        """How a batch stands; without one, all jobs that are open or have changed since then."""
        with self._database.read() as session:
            return presence.standing(session, batch_id=batch_id, since=since)

    def workers(self) -> list[Presence]:
        """The workers that have reported themselves lately."""
        lately = datetime.now(UTC) - timedelta(seconds=max(6 * self.settings.sweep_seconds, SELDOM_SECONDS))
        with self._database.read() as session:
            return presence.workers(session, seen_after=lately)

    def batch_id(self, name: str) -> str:
        """The id of the batch of this name, id or first letters of its id. Raises NotFoundError."""
        with self._database.read() as session:
            return batches.find(session, name).id

    def results(self, which: Which) -> Iterator[Exported]:
        """Jobs with their results, some rows at a time, as the ledger is at the first of them."""
        with self._database.read() as session:
            yield from exports.stream(session, which)

    def artifacts(self, job_id: str) -> list[StoredFile]:
        """The files that a job gave back."""
        with self._database.read() as session:
            return artifacts.of_job(session, job_id)

    def read(self, file: StoredFile) -> bytes:
        """The content of a stored file. Raises SourceError if it is gone."""
        return self._artifacts.read(file)

    def save(self, job_id: str, folder: Path) -> list[Path]:
        """Write the files that a job gave back into a folder, which is made. Returns their paths."""
        folder.mkdir(parents=True, exist_ok=True)
        written = []
        for file in self.artifacts(job_id):
            path = folder / safe_name(file.name)
            path.write_bytes(self.read(file))
            written.append(path)
        return written

    def close(self) -> None:
        self.listener.close()
        self._doorbell.close()
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _address(source: str | Path | bytes | None) -> str | None:
    """What the job's row says: a URL as it is, a path made absolute."""
    if source is None or isinstance(source, bytes):
        return None
    return str(source) if scheme(str(source)) else str(Path(source).expanduser().absolute())


def _name(source: str | Path | bytes | None) -> str | None:
    if source is None or isinstance(source, bytes) or scheme(str(source)):
        return None
    return str(source)
