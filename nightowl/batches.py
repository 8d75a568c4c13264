"""Submitting a batch: members are hashed and stored as they come, and written to the ledger by the thousand.

What is in memory is one chunk of members, the contents of its small ones, and the content of one that is large. A
submit that is killed can be repeated: what was written is known again by its digest, and what was stored by its hash.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy.exc import IntegrityError

from domain.batches import BatchReport, Found, Skipped
from domain.errors import Code, ParamsError, SourceError
from domain.params import check_params
from domain.plain import one_line
from domain.sources import WEB, check_source
from nightowl.intake import formats
from nightowl.intake.archives import Archives, Content
from nightowl.intake.bounds import Budget, LimitError
from nightowl.intake.filters import Filter
from nightowl.intake.origins import Origins, Source, label_of, shown_source
from storage import artifacts, batches, due, jobs
from storage.artifacts import CHUNK_BYTES, PACKED_BYTES, SCHEME, content_file
from storage.due import Bell

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from sqlalchemy.orm import Session

    from domain.batches import Batch, BatchSpec
    from domain.params import Params
    from domain.settings import Settings
    from nightowl.doorbell import Doorbell
    from nightowl.intake.references import Reference
    from storage.artifacts import ArtifactStore, StoredFile
    from storage.session import Database

CHUNK_MEMBERS = 4000
"""The keys of members and files are hashes: a chunk touches about as many pages of their indexes as it has rows, and
SQLite writes each page that a transaction touched. Of 40,000 members, 4000 at a time write half the bytes of 1000."""
CHUNK_BYTES_HELD = 8 * 1024 * 1024
"""A chunk ends, too, where its small members have so many bytes together: they become one file."""
TRIES = 5
"""Chunks are written again where somebody else submits the same members at the same time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How the members of a submit are chosen and kept. `upload` copies local files into the artifact store."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    upload: bool = False
    dry_run: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Watcher:
    """Who is told while a batch is submitted: of each chunk, and of each member that was skipped."""

    progress: Callable[[BatchReport], None] = lambda _: None
    skipped: Callable[[Skipped], None] = lambda _: None
    found: Callable[[Found], None] = lambda _: None


def default_name(params: Params, given: Sequence[Source]) -> str:
    """The same name for the same sources and kind, so that a second submit goes on with the first.

    What comes through a pipe is new each time.
    """
    if not all(isinstance(one, str | Path) for one in given):
        return one_line(f"{params.kind}-{label_of(given[0])}-{secrets.token_hex(4)}")
    places = "\n".join(shown_source(one) for one in given)
    mark = hashlib.sha256(places.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return one_line(f"{params.kind}-{label_of(given[0])[:100]}-{mark}")


class Submitter:
    """One submit of one batch."""

    def __init__(
        self,
        *,
        settings: Settings,
        database: Database,
        store: ArtifactStore,
        doorbell: Doorbell,
        spec: BatchSpec,
        options: Options,
        watcher: Watcher,
    ) -> None:
        self._settings, self._database, self._store, self._doorbell = settings, database, store, doorbell
        self._spec, self._options, self._watcher = spec, options, watcher
        self._stored: dict[str, StoredFile] = {}
        self._small: dict[str, tuple[str, bytes]] = {}
        self._held = 0
        self._skipped: Counter[str] = Counter()
        self._added = self._already = 0
        self._rings = True

    def run(self, given: Iterable[Source]) -> BatchReport:
        """Raises SourceError where a source cannot be opened at all, ConflictError where the name is not for this."""
        batch = None if self._options.dry_run else self._open()
        chunk: list[Found | Skipped] = []
        for entry in self._entries(given):
            chunk.append(entry)
            if len(chunk) >= CHUNK_MEMBERS or self._held >= CHUNK_BYTES_HELD:
                self._write(batch, chunk)
                chunk = []
        self._write(batch, chunk)
        if batch is not None:
            with self._database.write() as session:
                batches.close_submit(session, batch.id, now=datetime.now(UTC))
        return self._report(batch)

    def _open(self) -> Batch:
        with self._database.write() as session:
            return batches.open_batch(session, self._spec, now=datetime.now(UTC))

    def _report(self, batch: Batch | None) -> BatchReport:
        return BatchReport(batch=batch, added=self._added, already=self._already, skipped=dict(self._skipped))

    # From members to entries of the manifest.

    def _entries(self, given: Iterable[Source]) -> Iterator[Found | Skipped]:
        budget = Budget(self._settings.limits)
        filter = Filter(self._options.include, self._options.exclude)
        by_url = frozenset(self._settings.source_protocols) | WEB
        origins = Origins(archives=Archives(budget=budget, filter=filter), by_url=by_url)
        for piece in origins.members(given):
            if isinstance(piece, Skipped):
                yield piece
                continue
            try:
                yield self._content(piece) if isinstance(piece, Content) else self._reference(piece)
            except LimitError:
                continue  # the archive says so itself when it is asked for its next member
            except (SourceError, ParamsError) as error:
                yield Skipped(path=piece.path, code=error.code, message=error.message)

    def _content(self, member: Content) -> Found:
        """A member of an archive: stored here, once for each content."""
        if self._options.dry_run:
            size = self._measured(member.stream.read, member.path)
            return Found(path=member.path, source="", size=size, format=member.format, stamp=member.path)
        return self._kept(member.stream.read, member.path, member.format)

    def _kept(self, read: Callable[[int], bytes], path: str, format: str | None) -> Found:
        first = _filled(read, CHUNK_BYTES)
        self._settings.limits.check_source_bytes(len(first), name=path)
        if len(first) <= PACKED_BYTES:
            return self._held_back(first, path, format)
        bounded = _Bounded(read, len(first), self._settings, path).read
        stored = self._store.keep(first, bounded, name=path.rpartition("/")[2])
        self._stored[stored.id] = stored
        return Found(path=path, source=f"{SCHEME}{stored.id}", sha256=stored.sha256, size=stored.size, format=format)

    def _held_back(self, content: bytes, path: str, format: str | None) -> Found:
        """A small one, to be stored with the others of its chunk."""
        sha256 = hashlib.sha256(content).hexdigest()
        if sha256 not in self._small:
            self._small[sha256] = (path.rpartition("/")[2], content)
            self._held += len(content)
        return Found(path=path, source=f"{SCHEME}{sha256}", sha256=sha256, size=len(content), format=format)

    def _store_small(self) -> None:
        """Those that are not here yet, in one file."""
        with self._database.read() as session:
            here = artifacts.kept(session, self._small)
        packs = {file.url.partition("#")[0]: self._store.exists(file) for file in here}
        known = {file.id for file in here if packs[file.url.partition("#")[0]]}
        new = {sha256: named for sha256, named in self._small.items() if sha256 not in known}
        places = self._store.pack({sha256: content for sha256, (_, content) in new.items()}) if new else {}
        for sha256, (name, content) in new.items():
            self._stored[sha256] = content_file(sha256, name=name, size=len(content), url=places[sha256])
        self._small.clear()
        self._held = 0

    def _measured(self, read: Callable[[int], bytes], path: str) -> int:
        size = 0
        while data := read(CHUNK_BYTES):
            size += len(data)
            self._settings.limits.check_source_bytes(size, name=path)
        self._settings.limits.check_source_bytes(size, name=path)
        return size

    def _reference(self, member: Reference) -> Found:
        params = self._own_params(member)
        if member.file is None:
            url = member.url or ""
            return Found(path=member.path, source=url, size=member.size, stamp=member.stamp or url, params=params)
        try:
            found = self._local(member.file, member.path)
        except OSError as error:
            message = f"{member.path} cannot be read: {error.strerror or error}"
            raise SourceError(message, code=Code.SOURCE_MISSING) from error
        return replace(found, params=params)

    def _own_params(self, member: Reference) -> Params | None:
        """The batch's params with those of the row on top. Raises ParamsError."""
        if not member.params:
            return None
        params = check_params(self._spec.kind, {**self._spec.params.to_json(), **member.params})
        self._settings.limits.check_params(params.to_json())
        return params

    def _local(self, file: Path, path: str) -> Found:
        """A file of this machine: read once for its hash, and left where it lies unless it is to be uploaded."""
        if not file.is_file():
            raise SourceError(f"{path} does not exist or is not a file ({file})", code=Code.SOURCE_MISSING)
        with file.open("rb", buffering=0) as opened:
            head = opened.read(CHUNK_BYTES)
            format = formats.tell(head[: formats.HEAD_BYTES], path)
            if format in formats.ARCHIVES:
                raise SourceError(f"{path} is a {format} archive; submit it by itself", code=Code.SOURCE_UNSUPPORTED)
            if self._options.upload and not self._options.dry_run:
                return self._kept(_after(head, opened.read), path, format)
            digest, size, data = hashlib.sha256(), 0, head
            while data:
                digest.update(data)
                size += len(data)
                self._settings.limits.check_source_bytes(size, name=path)
                data = opened.read(CHUNK_BYTES)
        self._settings.limits.check_source_bytes(size, name=path)
        check_source(str(file.absolute()))
        return Found(path=path, source=str(file.absolute()), sha256=digest.hexdigest(), size=size, format=format)

    # From entries to rows.

    def _write(self, batch: Batch | None, chunk: list[Found | Skipped]) -> None:
        if batch is None:
            self._count_only(chunk)
        elif chunk:
            if self._small:
                self._store_small()
            added = self._add(batch, chunk)
            self._added += len(added.jobs)
            self._already += added.already
            self._tell(added.skipped)
            self._ring(added.rung)
        self._stored.clear()
        self._watcher.progress(self._report(batch))

    def _count_only(self, chunk: list[Found | Skipped]) -> None:
        for entry in chunk:
            if isinstance(entry, Found):
                self._added += 1
                self._watcher.found(entry)
        self._tell(entry for entry in chunk if isinstance(entry, Skipped))

    def _tell(self, skipped: Iterable[Skipped]) -> None:
        for entry in skipped:
            self._skipped[entry.code] += 1
            self._watcher.skipped(entry)

    def _add(self, batch: Batch, chunk: list[Found | Skipped]) -> batches.Added:
        for _ in range(TRIES - 1):
            try:
                return self._add_once(batch, chunk)
            except IntegrityError:
                continue
        return self._add_once(batch, chunk)

    def _add_once(self, batch: Batch, chunk: list[Found | Skipped]) -> batches.Added:
        now = datetime.now(UTC)
        with self._database.write() as session:
            ring = self._room(session, now) if self._rings else 0
            return batches.add(session, batch, self._spec, chunk, stored=self._stored, now=now, ring=ring)

    def _room(self, session: Session, now: datetime) -> int:
        """How many of a chunk are rung for at once; workers ring for the rest as they get on."""
        room = due.room(session, bell(self._settings, now), max_messages=self._settings.max_messages)
        return min(room.batches, room.total, self._spec.share or room.total)

    def _ring(self, rung: Sequence[str]) -> None:
        for sent, job_id in enumerate(rung):
            if not self._doorbell.ring(job_id, priority=self._spec.priority):
                self._rings = False
                with self._database.write() as session:
                    jobs.unring_many(session, rung[sent:])
                return


def bell(settings: Settings, now: datetime) -> Bell:
    return Bell(now=now, stale_before=now - timedelta(seconds=settings.ring_seconds))


class _Bounded:
    """Reads on, as long as the whole stays under the limit for one source."""

    def __init__(self, read: Callable[[int], bytes], size: int, settings: Settings, path: str) -> None:
        self._read, self._size, self._settings, self._path = read, size, settings, path

    def read(self, size: int) -> bytes:
        data = self._read(size)
        self._size += len(data)
        self._settings.limits.check_source_bytes(self._size, name=self._path)
        return data


def _filled(read: Callable[[int], bytes], size: int) -> bytes:
    """So many bytes, or fewer at the end."""
    first = read(size)
    if len(first) == size or not first:
        return first
    pieces, got = [first], len(first)
    while got < size and (data := read(size - got)):
        pieces.append(data)
        got += len(data)
    return b"".join(pieces)


def _after(first: bytes, read: Callable[[int], bytes]) -> Callable[[int], bytes]:
    """Reads the first bytes, and then on."""
    left = [first]

    def both(size: int) -> bytes:
        return left.pop() if left and left[0] else read(size)

    return both
