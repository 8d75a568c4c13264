"""What can go wrong, in one tree.

    NightowlError            anything that we raise on purpose; carries a Failure
    ├── SourceError          the input cannot be read, or is over a limit; retried only where a server was at fault
    ├── ReaderError          the child process that read it died, ran out of time or memory
    ├── EngineError          the model failed
    ├── ParamsError          params that do not fit the kind
    ├── StoreError           the artifact store cannot be reached, or takes no more
    ├── LostError            this worker no longer owns what it was writing; nothing was written
    ├── NotFoundError        no such job, artifact or batch
    ├── ConflictError        an idempotency key or a state that does not allow the call
    └── SetupError           the installation, not a job: a setting, a missing package, a database that was not migrated

A `Failure` is what a row keeps of it. `failure_from` turns any exception into one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from domain.plain import clean

SETUP_EXIT = 3
"""Exit status of a process that cannot be set up; a stack does not start such a worker again."""


class Code(StrEnum):
    """Stable, documented codes (docs/errors.md). A code never changes its meaning."""

    SOURCE_MISSING = "source_missing"
    SOURCE_EMPTY = "source_empty"
    SOURCE_TOO_LARGE = "source_too_large"
    SOURCE_UNSUPPORTED = "source_unsupported"
    SOURCE_DAMAGED = "source_damaged"
    SOURCE_REFUSED = "source_refused"
    SOURCE_UNREACHABLE = "source_unreachable"
    NO_PAGES = "no_pages"
    PAGE_DAMAGED = "page_damaged"
    PASSWORD_REQUIRED = "password_required"
    PASSWORD_WRONG = "password_wrong"
    TOO_MANY_PAGES = "too_many_pages"
    IMAGE_TOO_LARGE = "image_too_large"
    IMAGE_INVALID = "image_invalid"
    NO_VIDEO_STREAM = "no_video_stream"
    NO_FRAMES = "no_frames"
    CODEC_UNSUPPORTED = "codec_unsupported"
    VIDEO_TOO_LONG = "video_too_long"
    READ_TIMEOUT = "read_timeout"
    READ_MEMORY = "read_memory"
    READER_CRASHED = "reader_crashed"
    PARAMS_INVALID = "params_invalid"
    ENGINE_FAILED = "engine_failed"
    ENGINE_MEMORY = "engine_memory"
    CONTEXT_TOO_LONG = "context_too_long"
    DEADLINE = "deadline"
    WORKER_LOST = "worker_lost"
    RESULT_TOO_LARGE = "result_too_large"
    ARTIFACT_MISSING = "artifact_missing"
    STORE_UNREACHABLE = "store_unreachable"
    ARCHIVE_DAMAGED = "archive_damaged"
    ARCHIVE_LIMIT = "archive_limit"
    NAME_REFUSED = "name_refused"
    LINK_REFUSED = "link_refused"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    SETUP = "setup"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a part or a job failed: a code for programs, a sentence for people, and whether trying again can help."""

    code: str
    message: str
    retryable: bool = False

    def to_json(self) -> dict[str, object]:
        return {"code": self.code, "message": self.message, "retryable": self.retryable}


class NightowlError(Exception):
    """The base class. `code` says what it is; `retryable` whether the same work may succeed later."""

    default_code = Code.INTERNAL
    default_retryable = False

    def __init__(self, message: str, *, code: Code | None = None, retryable: bool | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = self.default_code if code is None else code
        self.retryable = self.default_retryable if retryable is None else retryable

    def __reduce__(self) -> tuple[object, ...]:
        # Readers raise these in child processes; keyword-only arguments do not survive the default pickling.
        return _rebuild, (type(self), self.message, self.code, self.retryable)

    @property
    def failure(self) -> Failure:
        return Failure(code=self.code, message=self.message, retryable=self.retryable)


def _rebuild(cls: type[NightowlError], message: str, code: Code, retryable: bool) -> NightowlError:
    return cls(message, code=code, retryable=retryable)


class SourceError(NightowlError):
    """The source cannot be read as it is. Trying again cannot help, but where a network or a server failed."""

    default_code = Code.SOURCE_DAMAGED


class ReaderError(NightowlError):
    """The reader child died, or was stopped at its time or memory limit."""

    default_code = Code.READER_CRASHED


class EngineError(NightowlError):
    """The engine could not complete a request."""

    default_code = Code.ENGINE_FAILED
    default_retryable = True


class ParamsError(NightowlError):
    """The params do not fit the kind of job."""

    default_code = Code.PARAMS_INVALID


class StoreError(NightowlError):
    """The artifact store cannot be reached, refuses us, or has no room."""

    default_code = Code.STORE_UNREACHABLE
    default_retryable = True


class LostError(NightowlError):
    """The lease of this attempt was taken away; a guarded write changed no row."""

    default_code = Code.WORKER_LOST


class NotFoundError(NightowlError):
    """No such row."""

    default_code = Code.NOT_FOUND


class ConflictError(NightowlError):
    """The state of the row, or a key that is in use, does not allow this."""

    default_code = Code.CONFLICT


class SetupError(NightowlError):
    """The installation needs a hand: the message says which and what to do."""

    default_code = Code.SETUP


def failure_from(error: BaseException) -> Failure:
    """What a row keeps of any exception. An unexpected one is named by its type; the log has the traceback."""
    if isinstance(error, NightowlError):
        return replace(error.failure, message=clean(error.message))
    if isinstance(error, MemoryError):
        return Failure(code=Code.ENGINE_MEMORY, message="the worker ran out of memory", retryable=True)
    message = clean(f"unexpected {type(error).__name__}: {error}")[:500]
    return Failure(code=Code.INTERNAL, message=message, retryable=True)
