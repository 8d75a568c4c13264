"""What one submit may read, counted in bytes that really came."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from domain.errors import Code, SourceError
from domain.limits import FREE_BYTES

if TYPE_CHECKING:
    from domain.limits import Limits


class Readable(Protocol):
    """Something to read from, forwards. No more than `size` bytes come, and none at the end."""

    def read(self, size: int, /) -> bytes: ...


class LimitError(SourceError):
    """A bound on the whole batch is reached: nothing more of this archive is read."""

    default_code = Code.ARCHIVE_LIMIT


class DamagedError(SourceError):
    """The archive, or a member of it, is cut off or not what it says."""

    default_code = Code.ARCHIVE_DAMAGED


class Budget:
    """Counts entries and unpacked bytes of one submit, all archives and all depths together."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.entries = 0
        self.unpacked = 0
        self._packed = 0
        self._before = 0
        self._met: LimitError | None = None

    def begin_archive(self, packed_bytes: int) -> None:
        """From here on the ratio is that of this archive, whose file has so many bytes."""
        self._packed, self._before, self._met = packed_bytes, self.unpacked, None

    def grow_archive(self, packed_bytes: int) -> None:
        """For an archive whose size is only known as it comes."""
        self._packed += packed_bytes

    def check(self) -> None:
        """Raises the LimitError that somebody met who read a member of this archive."""
        if self._met is not None:
            raise self._met

    def count_entry(self) -> None:
        """Raises LimitError."""
        self.entries += 1
        if self.entries > self.limits.max_batch_entries:
            raise LimitError(
                f"more than {self.limits.max_batch_entries} entries (setting NIGHTOWL_LIMITS__MAX_BATCH_ENTRIES)"
            )

    def count_bytes(self, size: int) -> None:
        """Raises LimitError."""
        self.unpacked += size
        if (why := self._over()) is not None:
            self._met = LimitError(why)
            raise self._met

    def _over(self) -> str | None:
        """Which limit on bytes is passed, and by what."""
        if self.unpacked > self.limits.max_batch_bytes:
            return f"more than {self.limits.max_batch_bytes} bytes unpacked (setting NIGHTOWL_LIMITS__MAX_BATCH_BYTES)"
        unpacked = self.unpacked - self._before
        if unpacked > FREE_BYTES and unpacked > self.limits.max_archive_ratio * self._packed:
            return (
                f"it unpacks to more than {self.limits.max_archive_ratio:g} times its {self._packed} bytes "
                "(setting NIGHTOWL_LIMITS__MAX_ARCHIVE_RATIO)"
            )
        return None
