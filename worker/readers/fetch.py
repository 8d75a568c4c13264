"""From a URL to a local file. Sizes, seconds and addresses are bounded; no secret of the URL is said or logged.

http and https are read by web.py, object stores through fsspec by objects.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from domain import sources
from domain.errors import Code, SourceError
from worker.readers.patience import Patience, TimeUpError

if TYPE_CHECKING:
    import threading

    from domain.limits import Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What may be fetched. `private_hosts` and `protocols` are the settings NIGHTOWL_SOURCE_…, as checked there."""

    limits: Limits
    private_hosts: tuple[str, ...] = ()
    protocols: tuple[str, ...] = ()


class Sink:
    """The file that is written to, which takes no more bytes than a source may have."""

    def __init__(self, file: IO[bytes], *, limits: Limits, label: str) -> None:
        self._file, self._limits = file, limits
        self.label = label
        self.size = 0

    def announce(self, size: int) -> None:
        """What the server says before the first byte. Raises SourceError where that is too much already."""
        self._limits.check_source_bytes(size, name=self.label)

    def write(self, chunk: bytes) -> None:
        """Raises SourceError before the byte that is too much is written."""
        self.size += len(chunk)
        if self.size > self._limits.max_source_bytes:
            raise SourceError(
                f"{self.label} has more than {self._limits.max_source_bytes} bytes "
                "(setting NIGHTOWL_LIMITS__MAX_SOURCE_BYTES)",
                code=Code.SOURCE_TOO_LARGE,
            )
        self._file.write(chunk)

    def close(self) -> None:
        """Raises SourceError where nothing came."""
        self._limits.check_source_bytes(self.size, name=self.label)
        self._file.flush()


def fetch(url: str, file: IO[bytes], rules: Rules, *, stop: threading.Event | None = None) -> None:
    """Write the content of a URL into `file`, which afterwards has at least one byte.

    Raises:
        SourceError: refused, missing, empty or too large; `retryable` where a network or a server failed.
        LostError: `stop` was set.
    """
    sources.check_source(url)
    sink = Sink(file, limits=rules.limits, label=sources.masked(url))
    patience = Patience.of(rules.limits.fetch_seconds, stop)
    try:
        _fetch(url, sink, rules, patience)
    except TimeUpError:
        raise SourceError(
            f"{sink.label} was not fetched within {rules.limits.fetch_seconds:g} s, {sink.size} bytes came "
            "(setting NIGHTOWL_LIMITS__FETCH_SECONDS)",
            code=Code.SOURCE_UNREACHABLE,
            retryable=True,
        ) from None
    sink.close()


def _fetch(url: str, sink: Sink, rules: Rules, patience: Patience) -> None:
    scheme = sources.scheme(url)
    if scheme in sources.WEB:
        from worker.readers import web

        web.download(url, sink, rules, patience)
    elif scheme in rules.protocols:
        from worker.readers import objects

        objects.download(url, sink, patience)
    else:
        allowed = ", ".join(("http", "https", *rules.protocols))
        raise SourceError(
            f"{sink.label}: sources at {scheme}:// are not supported; allowed are {allowed} "
            "(setting NIGHTOWL_SOURCE_PROTOCOLS); or upload the bytes",
            code=Code.SOURCE_UNSUPPORTED,
        )
