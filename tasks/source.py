"""From a job's `source` to a local file that a reader child may open.

What lies on the network is fetched once, when the job is planned, and kept as an artifact of the job. The slices read
that: they see the content that was planned, and ask no server for each page.
"""

from __future__ import annotations

import logging
import os
import stat
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from domain import sources
from domain.errors import Code, NotFoundError, SourceError
from storage import artifacts
from worker.readers.base import Open
from worker.readers.fetch import Rules, fetch

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator, Sequence

    from domain.jobs import Job
    from domain.settings import Settings
    from storage.artifacts import StoredFile
    from tasks.context import Context

logger = logging.getLogger(__name__)


@contextmanager
def open_source(context: Context, job: Job) -> Iterator[Open | None]:
    """The job's source as a checked local file, for as long as the block runs; None for a job without a source.

    Raises:
        SourceError: the file is missing, empty or too large, or may not be read.
    """
    if job.source is None:
        yield None
    elif stored := _stored(context, job, job.source):
        with context.artifacts.local(stored) as path:
            yield _checked(context, job, path)
    elif context.settings.source_roots is None:
        yield _checked(context, job, local_path(job.source))
    else:
        with _below(local_path(job.source), context.settings.source_roots) as path:
            yield _checked(context, job, path)


@contextmanager
def fetch_source(context: Context, job: Job, stop: threading.Event) -> Iterator[Open | None]:
    """As `open_source`, for planning: what lies on the network is fetched, into a file that has no name.

    Such a file is gone with the process, however that ends. `keep_fetched` stores it.

    Raises:
        SourceError: as above; with `retryable` where a network or a server failed.
        LostError: `stop` was set.
    """
    if job.source is None or not sources.is_remote(job.source):
        with open_source(context, job) as source:
            yield source
        return
    if sources.lacks_query(job.source):
        raise SourceError(
            f"{job.source}: the query of this URL may be a signature and was removed when the job ended; "
            "submit the source again",
            code=Code.SOURCE_REFUSED,
        )
    with tempfile.TemporaryFile(prefix="nightowl-") as file:
        fetch(job.source, file, _rules(context.settings), stop=stop)
        logger.info("fetched the source: %d bytes", file.tell(), extra={"action": "fetched"})
        with _named(file.fileno(), sources.file_name(job.source)) as path:
            yield _checked(context, job, path)


def keep_fetched(context: Context, job: Job, source: Open) -> StoredFile | None:
    """Store what was fetched. The caller writes the row together with the plan. None for any other source."""
    if job.source is None or not sources.is_remote(job.source):
        return None
    return context.artifacts.put_file(source.path, name=source.label)


def _rules(settings: Settings) -> Rules:
    return Rules(
        limits=settings.limits, private_hosts=settings.source_private_hosts, protocols=settings.source_protocols
    )


def _stored(context: Context, job: Job, source: str) -> StoredFile | None:
    """The artifact that the source names, or that was made of it; None for a local file."""
    if source.startswith(artifacts.SCHEME):
        return _uploaded(context, source.removeprefix(artifacts.SCHEME))
    return _fetched(context, job, source) if sources.is_remote(source) else None


def _uploaded(context: Context, artifact_id: str) -> StoredFile:
    try:
        with context.database.read() as session:
            return artifacts.get(session, artifact_id)
    except NotFoundError as error:
        raise SourceError(f"the uploaded source {artifact_id} is gone", code=Code.ARTIFACT_MISSING) from error


def _fetched(context: Context, job: Job, source: str) -> StoredFile:
    with context.database.read() as session:
        found = artifacts.of_job(session, job.id, role="source")
    if not found:
        raise SourceError(
            f"the copy of {sources.masked(source)} that planning fetched is gone", code=Code.ARTIFACT_MISSING
        )
    return max(found, key=lambda file: file.id)  # of the last plan: ids are made in the order of time


def local_path(source: str) -> Path:
    """The path of a local source: a path, or file:// with no other host than this one. Raises SourceError."""
    if sources.scheme(source) != "file":
        return Path(source)
    parts = urlsplit(source)
    if parts.netloc not in ("", "localhost"):
        raise SourceError(
            f"{sources.masked(source)} names another machine; file:// reads local files only",
            code=Code.SOURCE_UNSUPPORTED,
        )
    return Path(unquote(parts.path))


@contextmanager
def _below(path: Path, roots: Sequence[Path]) -> Iterator[Path]:
    """A way to the file that leads to no other, even if the path is changed after it was checked.

    The file is opened first and then asked where it lies, so what was checked is what is read.
    """
    try:
        _require_below(path, Path(os.path.realpath(path)), roots)
    except ValueError as error:  # a NUL in the path
        raise _unreadable(path.name, path, error) from error
    descriptor = _open(path)
    try:
        _require_below(path, Path(f"/proc/self/fd/{descriptor}").readlink(), roots)
        with _named(descriptor, path.name) as name:
            yield name
    finally:
        os.close(descriptor)


def _require_below(path: Path, real: Path, roots: Sequence[Path]) -> None:
    if not any(real.is_relative_to(os.path.realpath(root)) for root in roots):
        allowed = ", ".join(map(str, roots)) or "none"
        raise SourceError(
            f"{path} does not lie below a folder that sources may come from: {allowed} (setting NIGHTOWL_SOURCE_ROOTS)",
            code=Code.SOURCE_REFUSED,
        )


def _open(path: Path) -> int:
    """A descriptor of a regular file; anything else is not opened at all, or at least not waited for."""
    try:
        _require_regular(path.stat(), path.name, path)
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        raise _unreadable(path.name, path, error) from error
    try:
        _require_regular(os.fstat(descriptor), path.name, path)
    except SourceError:
        os.close(descriptor)
        raise
    return descriptor


@contextmanager
def _named(descriptor: int, name: str) -> Iterator[Path]:
    """A path to an open file for other processes of this user, which reader children are.

    The link makes it a path of its own each time: a child keeps documents open by their paths, and the numbers of
    descriptors are used again.
    """
    with tempfile.TemporaryDirectory(prefix="nightowl-") as folder:
        path = Path(folder) / artifacts.safe_name(name)
        path.symlink_to(f"/proc/{os.getpid()}/fd/{descriptor}")
        yield path


def _checked(context: Context, job: Job, path: Path) -> Open:
    source = Open(path=path, limits=context.settings.limits, name=_name(job, path), password=job.password)
    try:
        status = path.stat()
        _require_regular(status, source.label, path)
        path.open("rb").close()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise _unreadable(source.label, path, error) from error
    size = status.st_size
    context.settings.limits.check_source_bytes(size, name=source.label)
    return source


def _require_regular(status: os.stat_result, label: str, path: Path) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise SourceError(f"{label} is not a file ({path})", code=Code.SOURCE_UNSUPPORTED)


def _unreadable(label: str, path: Path, error: OSError | ValueError) -> SourceError:
    if isinstance(error, FileNotFoundError):
        return SourceError(f"{label} does not exist ({path})", code=Code.SOURCE_MISSING)
    why = getattr(error, "strerror", None) or error
    return SourceError(f"{label} cannot be read: {why}", code=Code.SOURCE_MISSING)


def _name(job: Job, path: Path) -> str:
    """What messages call the file."""
    if job.source_name:
        return sources.file_name(job.source_name)
    if job.source and not job.source.startswith(artifacts.SCHEME):
        return sources.file_name(job.source)
    return path.name
