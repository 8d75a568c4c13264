"""The Python client: submit, wait, read. Talks to the database; the broker is only told that there is work."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from domain.batches import BATCH_PRIORITY, BatchSpec
from domain.errors import NotFoundError, ParamsError
from domain.jobs import JobSpec
from domain.plain import clean, one_line
from domain.settings import Settings
from domain.sources import at_home, check_callback, check_source, scheme
from nightowl.batches import Options, Submitter, Watcher, bell, default_name
from nightowl.doorbell import Doorbell
from nightowl.intake.origins import refuse_archive, shown_source
from storage import artifacts, batches, due, exports, jobs, migrations, parts, presence
from storage.artifacts import ArtifactStore, StoredFile, safe_name
from storage.listening import Listener
from storage.session import Database

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from domain.batches import Batch, BatchReport, BatchSummary, Member
    from domain.jobs import Job, Part
    from domain.params import Params
    from domain.states import JobState
    from nightowl.intake.origins import Source
    from storage.exports import Exported, Which
    from storage.presence import Presence, Standing

BATCH_CHUNK = 500
"""Jobs of a batch that one transaction cancels or opens again."""
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
        callback: str | None = None,
        fresh: bool = False,
    ) -> Job:
        """Store a job and ring for it.

        `source` is a path, a URL as text (file, http, https, s3 and others; see docs/sources.md), or the bytes
        themselves. `upload` copies a local file into the artifact store;
        by default this is done where the store is remote, since the workers then may not see this machine's files.
        `key` makes the call idempotent: the same key again returns the same job. Above 0, `priority` goes first.
        `callback` is a URL that is told when the job ends (docs/callbacks.md); by default that of the settings.
        `fresh` does the work though an earlier job did the same (docs/adr/0014-not-twice.md).

        Raises:
            ConflictError: the key belongs to a job with another kind, source or params.
            ParamsError: the params are over the limit, or the key cannot be stored.
            SourceError: the bytes are over the limit, the name cannot be stored, or a URL holds a user or password.
        """
        self.settings.limits.check_params(params.to_json())
        _check_texts(key=key, engine=engine)
        name = clean(name)
        if isinstance(source, str | Path):
            check_source(str(source))
            refuse_archive(str(source), params.kind)
        stored = self._upload(source, name, upload=not self._artifacts.is_local if upload is None else upload)
        spec = JobSpec(
            kind=params.kind,
            params=params,
            source=f"{artifacts.SCHEME}{stored.id}" if stored else _address(source),
            source_name=name or (stored.name if stored else None) or _name(source),
            key=key,
            priority=priority,
            engine=engine,
            callback=check_callback(callback) if callback else self.settings.callback_url,
            fresh=fresh,
        )
        with self._database.write() as session:
            if stored:
                artifacts.add(session, stored, role="source", job_id=None)
            now = datetime.now(UTC)
            is_crowded = priority <= 0 and due.is_crowded(session, bell(self.settings, now), self.settings.max_messages)
            job, is_new = jobs.submit(session, spec, now=now)
            if is_crowded and is_new:
                jobs.unring(session, job.id)
        if is_new and not is_crowded and not self._doorbell.ring(job.id, priority=priority):
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
        """The parts of a job, in order; of the job whose result it was given, if it was. Raises NotFoundError."""
        with self._database.read() as session:
            job = jobs.get(session, job_id)
            return parts.of_job(session, job.reused_from if job.result and job.reused_from else job.id)

    def submit_batch(
        self,
        params: Params,
        source: Source | list[Source] | tuple[Source, ...],
        *,
        name: str | None = None,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        priority: int = BATCH_PRIORITY,
        engine: str | None = None,
        share: int | None = None,
        fresh: bool = False,
        upload: bool | None = None,
        dry_run: bool = False,
        callback: str | None = None,
        callback_each: bool = False,
        watcher: Watcher | None = None,
    ) -> BatchReport:
        """Make a job of every file in a folder, an archive, a manifest or a list. See docs/batches.md.

        `source` is a path, a pattern, a URL, a binary file that is read as it comes, or several of these. The same
        sources again, under the same name, add what is missing. `include` and `exclude` are patterns of members' paths.
        `share` bounds the parts of the batch that are in flight; `fresh` refuses results of earlier jobs.

        Raises:
            ParamsError: the params are over the limit.
            SourceError: a source does not exist, or cannot be opened at all. What is wrong inside it is recorded.
            ConflictError: the name is that of a batch with another kind or other params.
        """
        self.settings.limits.check_params(params.to_json())
        _check_texts(name=name, engine=engine)
        given = list(source) if isinstance(source, list | tuple) else [source]
        spec = BatchSpec(
            name=name or default_name(params, given),
            params=params,
            source=one_line(", ".join(shown_source(one) for one in given))[:1000],
            engine=engine,
            priority=priority,
            share=share,
            fresh=fresh,
            callback=check_callback(callback) if callback else self.settings.callback_url,
            tells_each=callback_each,
        )
        options = Options(
            include=tuple(include),
            exclude=tuple(exclude),
            upload=not self._artifacts.is_local if upload is None else upload,
            dry_run=dry_run,
        )
        submitter = Submitter(
            settings=self.settings,
            database=self._database,
            store=self._artifacts,
            doorbell=self._doorbell,
            spec=spec,
            options=options,
            watcher=watcher or Watcher(),
        )
        report = submitter.run(given)
        return replace(report, reused=self.batch(report.batch.id).reused) if report.batch else report

    def batch(self, name_or_id: str) -> BatchSummary:
        """How a batch stands. Raises NotFoundError."""
        with self._database.read() as session:
            return batches.summary(session, batches.find(session, name_or_id))

    def batches(self, *, limit: int = 20) -> list[Batch]:
        """The newest batches first."""
        with self._database.read() as session:
            return batches.recent(session, limit=limit)

    def members(
        self, name_or_id: str, *, skipped: bool | None = None, after: str = "", limit: int = 1000
    ) -> list[Member]:
        """A page of a batch's manifest, in the order of digests; `after` is the digest of the last page's last.

        Only the skipped, or only the others, where that is said. Raises NotFoundError.
        """
        with self._database.read() as session:
            batch = batches.find(session, name_or_id)
            return batches.members(session, batch.id, skipped=skipped, after=after, limit=limit)

    def wait_batch(
        self,
        name_or_id: str,
        *,
        timeout_seconds: float | None = None,
        seen: Callable[[BatchSummary], None] | None = None,
    ) -> BatchSummary:
        """Poll until no job of the batch is open. `seen` is told at each look. Raises TimeoutError, NotFoundError."""
        limit = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        while True:
            found = self.batch(name_or_id)
            if seen:
                seen(found)
            if found.is_over:
                return found
            if limit is not None and time.monotonic() + LAST_LOOK_SECONDS > limit:
                raise TimeoutError(f"batch {name_or_id}: {found.open} jobs are open after {timeout_seconds} s")
            time.sleep(LAST_LOOK_SECONDS)

    def cancel_batch(self, name_or_id: str) -> BatchSummary:
        """End all open jobs of a batch: what is in work at once, then the rest, some at a time."""
        with self._database.write() as session:
            batch = batches.find(session, name_or_id)
            batches.mark_cancelled(session, batch.id, now=datetime.now(UTC))
        while self._chunk(batches.cancel_some, batch.id, urgent=True):
            pass
        while self._chunk(batches.cancel_some, batch.id) or self._is_open(batch.id):
            pass
        return self.batch(batch.id)

    def _chunk(self, work: Callable[..., int], batch_id: str, **how: Any) -> int:
        with self._database.write() as session:
            return work(session, batch_id, now=datetime.now(UTC), limit=BATCH_CHUNK, **how)

    def _is_open(self, batch_id: str) -> bool:
        """Whether jobs are left that a worker held at that moment."""
        with self._database.read() as session:
            left = batches.count_open(session, batch_id)
        if left:
            time.sleep(FIRST_LOOK_SECONDS)
        return left > 0

    def retry_batch(self, name_or_id: str, *, password: str | None = None) -> int:
        """Open all jobs of a batch again that failed, were cancelled or are partial. Returns how many those are."""
        began = datetime.now(UTC)
        with self._database.write() as session:
            batch = batches.find(session, name_or_id)
            jobs.open_again(session, batch.id)
        count = 0
        while True:
            with self._database.write() as session:
                some = batches.retry_some(session, batch.id, ended_before=began, limit=BATCH_CHUNK, password=password)
            if not some:
                return count
            count += some

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


def _check_texts(**texts: str | None) -> None:
    """Raises ParamsError."""
    for name, text in texts.items():
        if clean(text) != text:
            raise ParamsError(f"the {name} {one_line(str(text))} is not UTF-8, or has a NUL in it; no row holds it")


def _address(source: str | Path | bytes | None) -> str | None:
    """What the job's row says: a URL as it is, a path made absolute."""
    if source is None or isinstance(source, bytes):
        return None
    if scheme(str(source)):
        return str(source)
    return str(at_home(source).absolute())


def _name(source: str | Path | bytes | None) -> str | None:
    if source is None or isinstance(source, bytes) or scheme(str(source)):
        return None
    return str(source)
