"""From a job's `source` to a local file that a reader child may open."""

from __future__ import annotations

import re
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from domain.errors import Code, NotFoundError, SourceError
from storage import artifacts
from worker.readers.base import Open

if TYPE_CHECKING:
    from collections.abc import Iterator

    from domain.jobs import Job
    from storage.artifacts import StoredFile
    from tasks.context import Context

_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.\-]*://")


@contextmanager
def open_source(context: Context, job: Job) -> Iterator[Open | None]:
    """The job's source as a checked local file, for as long as the block runs; None for a job without a source.

    Raises:
        SourceError: the file is missing, empty, too large, or its kind of address is not supported.
    """
    if job.source is None:
        yield None
    elif job.source.startswith(artifacts.SCHEME):
        stored = _stored(context, job.source.removeprefix(artifacts.SCHEME))
        with context.artifacts.local(stored) as path:
            yield _checked(context, job, path)
    else:
        yield _checked(context, job, local_path(job.source))


def _stored(context: Context, artifact_id: str) -> StoredFile:
    try:
        with context.database.read() as session:
            return artifacts.get(session, artifact_id)
    except NotFoundError as error:
        raise SourceError(f"the uploaded source {artifact_id} is gone", code=Code.ARTIFACT_MISSING) from error


def local_path(source: str) -> Path:
    """Raises SourceError for an address that is not a local file."""
    if source.startswith("file://"):
        return Path(unquote(urlsplit(source).path))
    if match := _URL.match(source):
        raise SourceError(
            f"sources at {match[0]} are not supported; give a local path, file://, or upload the bytes",
            code=Code.SOURCE_UNSUPPORTED,
        )
    return Path(source)


def _checked(context: Context, job: Job, path: Path) -> Open:
    source = Open(path=path, limits=context.settings.limits, name=_name(job, path), password=job.password)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise SourceError(f"{source.label} is not a file ({path})", code=Code.SOURCE_UNSUPPORTED)
        path.open("rb").close()
    except FileNotFoundError as error:
        raise SourceError(f"{source.label} does not exist ({path})", code=Code.SOURCE_MISSING) from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        why = getattr(error, "strerror", None) or error
        raise SourceError(f"{source.label} cannot be read: {why}", code=Code.SOURCE_MISSING) from error
    size = status.st_size
    context.settings.limits.check_source_bytes(size, name=source.label)
    return source


def _name(job: Job, path: Path) -> str:
    return Path(job.source_name).name if job.source_name else path.name
