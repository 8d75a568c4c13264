"""From what was given to the members in it: which kind of thing each source is, and who reads it."""

from __future__ import annotations

import glob
import io
import os
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import urlsplit

import fsspec

from domain import sources
from domain.batches import Skipped
from domain.errors import Code, SetupError, SourceError
from nightowl.intake import folders, formats, names, pages
from nightowl.intake.archives import Archives, Content
from nightowl.intake.manifests import ENDINGS, Manifest
from nightowl.intake.names import RefusedNameError
from nightowl.intake.references import Reference
from nightowl.intake.streams import Peeked

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Source = str | Path | IO[bytes]
FAR_BYTES = 8 * 1024**2
"""What is asked of a server at a time, and so in memory; drivers would take up to 50 MiB."""
Piece = Reference | Content | Skipped


@dataclass(frozen=True, slots=True, kw_only=True)
class Origins:
    """`by_url` are the kinds of URL that workers may open themselves; what lies elsewhere is read here."""

    archives: Archives
    by_url: frozenset[str]

    def members(self, given: Iterable[Source]) -> Iterator[Piece]:
        """All members of all sources, in their order. With several sources, each path begins with its source's name.

        Raises:
            SourceError: a source does not exist, or cannot be opened at all.
            SetupError: a package is missing to open it.
        """
        given = list(given)
        for source in given:
            label = label_of(source)
            prefix = f"{label}/" if len(given) > 1 else ""
            for piece in self._of(source, label=label, prefix=prefix):
                if isinstance(piece, Skipped) or self._is_wanted(piece):
                    yield piece

    def _is_wanted(self, piece: Reference | Content) -> bool:
        filter = self.archives.filter
        return filter.includes(piece.path) and not filter.excludes(piece.path) and not names.is_litter(piece.path)

    def _of(self, source: Source, *, label: str, prefix: str) -> Iterator[Piece]:
        if not isinstance(source, str | Path):
            yield from self._pipe(source, label=label, prefix=prefix)
        elif sources.is_remote(str(source)):
            yield from self._remote(str(source), label=label, prefix=prefix)
        else:
            yield from self._local(str(source).removeprefix("file://"), label=label, prefix=prefix)

    # What comes through a pipe.

    def _pipe(self, file: IO[bytes], *, label: str, prefix: str) -> Iterator[Piece]:
        """An archive, or a list of paths, URLs and JSON objects, one a line."""
        file = file if hasattr(file, "peek") or file.seekable() else _buffered(file)
        format = formats.tell(_head(file), label)
        if format in formats.ARCHIVES:
            yield from self.archives.of_file(file, name=label, prefix=prefix, format=format or "")
        else:
            yield from self._listed(Manifest(name=label, folder=Path.cwd(), format="lines"), file)

    # What lies on this machine.

    def _local(self, text: str, *, label: str, prefix: str) -> Iterator[Piece]:
        path = sources.at_home(text)
        if path.is_dir():
            for piece in folders.walk(path, prefix=prefix):
                yield from self._found(piece)
        elif path.is_file():
            yield from self._file(path.absolute(), label=label, prefix=prefix)
        elif glob.has_magic(text):
            for piece in folders.match(str(path), prefix=prefix):
                yield from self._found(piece)
        else:
            raise SourceError(f"{text} does not exist", code=Code.SOURCE_MISSING)

    def _file(self, path: Path, *, label: str, prefix: str) -> Iterator[Piece]:
        """An archive, a manifest, or a file by itself."""
        if ending := ENDINGS.get(path.suffix.lower()):
            with path.open("rb") as file:
                yield from self._listed(Manifest(name=label, folder=path.parent, format=ending), file)
            return
        with path.open("rb") as file:
            format = formats.tell(file.read(formats.HEAD_BYTES), label)
            if format in formats.ARCHIVES:
                file.seek(0)
                yield from self.archives.of_file(file, name=label, prefix=prefix, format=format or "")
                return
        yield Reference(path=names.checked(label), file=path)

    def _found(self, piece: Reference | Skipped) -> Iterator[Piece]:
        """A file in a folder; an archive there is one in the batch's first depth."""
        self.archives.budget.count_entry()
        if isinstance(piece, Skipped) or piece.file is None or not self._is_wanted_or_archive(piece.path):
            yield piece
            return
        try:
            with piece.file.open("rb") as file:
                format = formats.tell(file.read(formats.HEAD_BYTES), piece.path)
                if format in formats.ARCHIVES:
                    file.seek(0)
                    yield from self.archives.of_file(
                        file, name=piece.path, prefix=f"{piece.path}/", format=format or ""
                    )
                    return
        except OSError as error:
            message = f"it cannot be read: {error.strerror or error}"
            yield Skipped(path=piece.path, code=Code.SOURCE_MISSING, message=message)
            return
        yield piece

    def _is_wanted_or_archive(self, path: str) -> bool:
        return not self.archives.filter.excludes(path) and not names.is_litter(path)

    def _listed(self, manifest: Manifest, file: IO[bytes]) -> Iterator[Piece]:
        for row in manifest.rows(file):
            self.archives.budget.count_entry()
            yield row

    # What lies elsewhere.

    def _remote(self, url: str, *, label: str, prefix: str) -> Iterator[Piece]:
        sources.check_source(url)
        with _faults(url):
            fs, path = fsspec.core.url_to_fs(url)
            listing = _listing(fs, url, path)
        if listing is not None:
            for found, facts in _told(listing, url):
                self.archives.budget.count_entry()
                yield from self._object(fs, found, facts, base=path, prefix=prefix)
            return
        with _far(fs, path, url) as file:
            yield from self._opened(file, url, label=label, prefix=prefix)

    def _opened(self, file: IO[bytes], url: str, *, label: str, prefix: str) -> Iterator[Piece]:
        format = formats.tell(_head(file), label)
        if format in formats.ARCHIVES:
            yield from self.archives.of_file(file, name=label, prefix=prefix, format=format or "")
        elif ending := ENDINGS.get(PurePosixPath(label).suffix.lower()):
            yield from self._listed(Manifest(name=label, base=url, format=ending), file)
        elif sources.scheme(url) in self.by_url:
            yield Reference(path=names.checked(label), url=url)
        else:
            yield Content(path=names.checked(label), stream=Peeked(file), format=format)

    def _object(self, fs: Any, found: str, facts: dict[str, Any], *, base: str, prefix: str) -> Iterator[Piece]:
        """A file of a remote folder: by its URL where the workers may open such, else read here."""
        fixed = base.split("*")[0].rstrip("/") if "*" in base else base
        relative = found.removeprefix(fixed).lstrip("/") or PurePosixPath(found).name
        try:
            path = names.checked(prefix + relative)
        except RefusedNameError as error:
            yield Skipped(path=names.shown(prefix + relative), code=error.code, message=error.message)
            return
        url = fs.unstrip_protocol(found)
        if sources.scheme(url) in self.by_url and PurePosixPath(path).suffix.lower() not in formats.ENDINGS:
            stamp = "\n".join(str(facts.get(key)) for key in ("size", "ETag", "etag", "mtime", "LastModified"))
            yield Reference(path=path, url=url, stamp=f"{url}\n{stamp}", size=facts.get("size"))
            return
        with _far(fs, found, url) as file:
            format = formats.tell(_head(file), path)
            if format in formats.ARCHIVES:
                yield from self.archives.of_file(file, name=path, prefix=f"{path}/", format=format or "")
            elif sources.scheme(url) in self.by_url:
                yield Reference(path=path, url=url, size=facts.get("size"))
            else:
                yield Content(path=path, stream=Peeked(file), format=format)


def label_of(source: Source) -> str:
    """What people call the source."""
    if not isinstance(source, str | Path):
        return "stdin"
    text = str(source)
    if sources.is_remote(text):
        return sources.file_name(text) or "remote"
    if glob.has_magic(text) and not Path(text).exists():
        return "files"
    return sources.at_home(text.removeprefix("file://")).absolute().name or "root"


def refuse_archive(source: str, kind: str) -> None:
    """Raises SourceError for a local file that is an archive by name and content: it is a batch, and no one job."""
    path = Path(source)
    if path.suffix.lower() not in formats.ENDINGS or not path.is_file():
        return
    with path.open("rb") as file:
        format = formats.tell(file.read(formats.HEAD_BYTES), path.name)
    if format in formats.ARCHIVES:
        message = f"{path.name} is a {format} archive, of which every file is a job: nightowl batch {kind} {path.name}"
        raise SourceError(message, code=Code.SOURCE_UNSUPPORTED)


def _listing(fs: Any, url: str, path: str) -> Iterator[tuple[str, dict[str, Any]]] | None:
    """The files of a folder, of a pattern, or of a web server's index page, whose URL ends in /; None for a file."""
    if sources.scheme(url) in sources.WEB:
        return ((link, {}) for link in pages.files(fs, url)) if urlsplit(url).path.endswith("/") else None
    if fs.isdir(path):
        return ((facts["name"], facts) for _, _, files in fs.walk(path, detail=True) for facts in files.values())
    return iter(fs.glob(path, detail=True).items()) if glob.has_magic(path) else None


def _told(listing: Iterator[tuple[str, dict[str, Any]]], url: str) -> Iterator[tuple[str, dict[str, Any]]]:
    while True:
        with _faults(url):
            if (found := next(listing, None)) is None:
                return
        yield found


def _head(file: IO[bytes]) -> bytes:
    """The first bytes, not taken."""
    if file.seekable():
        head = file.read(formats.HEAD_BYTES)
        file.seek(0)
        return head
    peeked: bytes = file.peek(formats.HEAD_BYTES)  # type: ignore[attr-defined]
    return peeked


def _buffered(file: Any) -> IO[bytes]:
    return io.BufferedReader(file, buffer_size=64 * 1024)


@contextmanager
def _far(fs: Any, path: str, url: str) -> Iterator[IO[bytes]]:
    """A file that lies elsewhere, opened; as a pipe where the server gives it from its beginning only."""
    with _faults(url):
        is_pipe = sources.scheme(url) in sources.WEB and not fs.info(path).get("partial")
        file = fs.open(path, "rb", block_size=0 if is_pipe else FAR_BYTES)
    with file:
        yield _buffered(_Far(file, url, seekable=not is_pipe))


class _Far(io.RawIOBase):
    """A file of a driver. Whatever a read raises (each driver has its own) is a SourceError: the network failed."""

    def __init__(self, file: Any, url: str, *, seekable: bool) -> None:
        super().__init__()
        self._file, self._url, self._seekable = file, url, seekable

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._seekable

    def tell(self) -> int:
        return int(self._file.tell())

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self._file.seek(offset, whence))

    def readinto(self, buffer: Any) -> int:
        """As many bytes as there is room for, but at the end."""
        filled = 0
        try:
            while filled < len(buffer) and (data := self._file.read(len(buffer) - filled)):
                buffer[filled : filled + len(data)] = data
                filled += len(data)
        except Exception as error:
            message = f"{sources.masked(self._url)} broke off: {error or type(error).__name__}"
            raise SourceError(message, code=Code.SOURCE_UNREACHABLE) from error
        return filled


class _faults:
    """Says in one line what a driver raises of a URL."""

    def __init__(self, url: str) -> None:
        self._shown = sources.masked(url)

    def __enter__(self) -> None:
        return None

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, ImportError):
            raise SetupError(f"{self._shown} needs a package: {error}") from error
        if isinstance(error, FileNotFoundError):
            raise SourceError(f"{self._shown} does not exist", code=Code.SOURCE_MISSING) from error
        if isinstance(error, OSError | ValueError):
            raise SourceError(f"{self._shown} cannot be opened: {error}", code=Code.SOURCE_UNREACHABLE) from error


def shown_source(source: Source) -> str:
    """The source as a batch's row says it."""
    return expanded(str(source)) if isinstance(source, str | Path) else label_of(source)


def expanded(text: str) -> str:
    """A local path as it stands in a batch's row."""
    return os.path.abspath(text) if sources.scheme(text) is None else sources.masked(text)  # noqa: PTH100
