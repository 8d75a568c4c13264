"""Archives of any kind and depth, as the members that lie in them."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import IO, TYPE_CHECKING

from domain.batches import Skipped
from nightowl.intake import formats, names
from nightowl.intake.bounds import DamagedError, LimitError
from nightowl.intake.entries import Refused
from nightowl.intake.names import RefusedNameError
from nightowl.intake.streams import CHUNK_BYTES, Counted, Packed, Peeked, unpacked
from nightowl.intake.tars import read_tar
from nightowl.intake.zips import read_zip

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nightowl.intake.bounds import Budget, Readable
    from nightowl.intake.entries import Entry
    from nightowl.intake.filters import Filter
    from nightowl.intake.zips import Seekable

SPOOL_BYTES = 16 * 1024**2
"""A zip that lies in another archive is read by its directory, from memory or, above this, from a temporary file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """A member whose bytes come here and now: read `stream` before the next member is asked for."""

    path: str
    stream: Peeked = field(repr=False)
    format: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Level:
    """Where we are: what people call the archive, what its members' paths begin with, how deep it lies."""

    name: str
    prefix: str
    depth: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Archives:
    """Opens archives, all under one budget."""

    budget: Budget
    filter: Filter

    def of_file(self, file: IO[bytes], *, name: str, prefix: str, format: str) -> Iterator[Content | Skipped]:
        """The members of an archive that is a file or a pipe. The last thing said is why it broke off, if it did."""
        level = _Level(name=name, prefix=prefix, depth=1)
        stream: Readable = file
        if file.seekable():
            self.budget.begin_archive(file.seek(0, 2))
            file.seek(0)
        else:
            self.budget.begin_archive(0)
            stream = Packed(file, self.budget)
        try:
            yield from self._inside(Peeked(stream), format, level, file=file if file.seekable() else None)
        except (LimitError, DamagedError) as error:
            yield _broken_off(level, error)

    def _inside(
        self, stream: Peeked, format: str, level: _Level, *, file: IO[bytes] | None = None, is_counted: bool = False
    ) -> Iterator[Content | Skipped]:
        """Raises LimitError and DamagedError."""
        if format == "zip":
            with _seekable(stream, file) as whole:
                for entry in read_zip(whole):
                    yield from self._member(entry, level, is_counted=False)
        elif format == "tar":
            for entry in read_tar(stream if is_counted else Counted(stream, self.budget)):
                yield from self._member(entry, level, is_counted=True)
        else:
            yield from self._compressed(Peeked(Counted(unpacked(stream, format), self.budget)), level)

    def _compressed(self, stream: Peeked, level: _Level) -> Iterator[Content | Skipped]:
        """A compressed tar, or one compressed file."""
        head = stream.peek(formats.HEAD_BYTES)
        if formats.tell(head, level.name) == "tar":
            yield from self._inside(stream, "tar", level, is_counted=True)
            return
        name = PurePosixPath(level.name).stem if "." in level.name else f"{level.name} (content)"
        yield from self._taken(stream, level.prefix.removesuffix("/") + "/" + name if level.prefix else name, level)

    def _member(self, entry: Entry | Refused, level: _Level, *, is_counted: bool) -> Iterator[Content | Skipped]:
        self.budget.count_entry()
        try:
            path = level.prefix + names.checked(entry.name)
        except RefusedNameError as error:
            yield Skipped(path=names.shown(level.prefix + entry.name), code=error.code, message=error.message)
            return
        if names.is_litter(path) or self.filter.excludes(path):
            return
        if isinstance(entry, Refused):
            yield Skipped(path=path, code=entry.code, message=entry.why, size=entry.size)
            return
        yield from self._taken(
            Peeked(entry.content if is_counted else Counted(entry.content, self.budget)), path, level
        )

    def _taken(self, stream: Peeked, path: str, level: _Level) -> Iterator[Content | Skipped]:
        """A member, or the members of the archive that it is."""
        try:
            format = formats.tell(stream.peek(formats.HEAD_BYTES), path)
        except DamagedError as error:
            yield Skipped(path=path, code=error.code, message=error.message)
            return
        if format in formats.ARCHIVES:
            yield from self._nested(stream, path, format or "", level)
        elif self.filter.includes(path):
            yield Content(path=path, stream=stream, format=format)
            self.budget.check()  # who read it may have met a limit; without this, the last member would be lost unsaid

    def _nested(self, stream: Peeked, path: str, format: str, level: _Level) -> Iterator[Content | Skipped]:
        most = self.budget.limits.max_archive_depth
        if level.depth >= most:
            error = LimitError(
                f"it is a {format} archive {level.depth + 1} deep; the limit is {most} "
                "(setting NIGHTOWL_LIMITS__MAX_ARCHIVE_DEPTH)"
            )
            yield Skipped(path=path, code=error.code, message=error.message)
            return
        below = _Level(name=path, prefix=f"{path}/", depth=level.depth + 1)
        try:
            yield from self._inside(stream, format, below, is_counted=False)
        except DamagedError as error:
            yield _broken_off(below, error)


@contextmanager
def _seekable(stream: Peeked, file: IO[bytes] | None) -> Iterator[Seekable]:
    """The archive as a file of which any place can be read."""
    if file is not None:
        yield file
        return
    with tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES, prefix="nightowl-") as spool:
        while data := stream.read(CHUNK_BYTES):
            spool.write(data)
        yield spool


def _broken_off(level: _Level, error: LimitError | DamagedError) -> Skipped:
    message = f"{error.message}; what it held before that was taken"
    return Skipped(path=level.name, code=error.code, message=message)
