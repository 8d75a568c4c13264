"""Object stores through fsspec. The driver takes its credentials and its endpoint from the worker's environment or
fsspec's own configuration, never from the URL: of that only bucket and key are used.

A driver cannot be interrupted, so it reads in a thread of its own, which is left behind where it hangs.
"""

from __future__ import annotations

import logging
import queue
import threading
from typing import TYPE_CHECKING, TypeAlias

import fsspec

from domain import sources
from domain.errors import Code, SourceError
from worker.readers.patience import POLL_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.readers.fetch import Sink
    from worker.readers.patience import Patience

CHUNK_BYTES = 4 * 1024**2
PACKAGES = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "az": "adlfs",
}
# Their debug lines hold signed requests.
for _chatty in ("fsspec", "s3fs", "aiobotocore", "botocore", "gcsfs", "google", "adlfs", "azure"):
    logging.getLogger(_chatty).setLevel(logging.WARNING)

Item: TypeAlias = "int | bytes | SourceError | None"
"""What the thread hands over: the size if it is known, the bytes, what went wrong; None at the end."""


def download(url: str, sink: Sink, patience: Patience) -> None:
    """Raises SourceError, TimeUpError and LostError."""
    reading = _Reading(url, label=sink.label)
    announced: int | None = None
    try:
        for item in reading.items(patience):
            if isinstance(item, SourceError):
                raise item
            if isinstance(item, int):
                announced = item
                sink.announce(item)
            else:
                sink.write(item)
    finally:
        reading.give_up()
    if announced is not None and sink.size != announced:
        raise SourceError(
            f"{sink.label} ended after {sink.size} of {announced} bytes", code=Code.SOURCE_UNREACHABLE, retryable=True
        )


class _Reading:
    """The thread, and the short queue between it and us, which bounds the memory."""

    def __init__(self, url: str, *, label: str) -> None:
        self._url, self._label = url, label
        self._items: queue.Queue[Item] = queue.Queue(maxsize=2)
        self._given_up = threading.Event()
        threading.Thread(target=self._run, name="object-store", daemon=True).start()

    def items(self, patience: Patience) -> Iterator[int | bytes | SourceError]:
        while True:
            try:
                item = self._items.get(timeout=patience.left(POLL_SECONDS))
            except queue.Empty:
                continue
            if item is None:
                return
            yield item

    def give_up(self) -> None:
        self._given_up.set()

    def _run(self) -> None:
        try:
            self._read()
            self._put(None)
        except Exception as error:
            self._put(_explain(error, self._url, self._label))

    def _read(self) -> None:
        scheme, _, rest = self._url.partition("://")
        system = fsspec.filesystem(scheme.lower())
        # As fsspec.open does, but without taking options out of the URL.
        path = system._strip_protocol(f"{scheme.lower()}://{rest}")
        found = system.info(path)
        if found.get("type") == "directory":
            raise IsADirectoryError
        if found.get("size") is not None:
            self._put(int(found["size"]))
        with system.open(path, "rb", block_size=CHUNK_BYTES) as file:
            while not self._given_up.is_set() and (chunk := file.read(CHUNK_BYTES)):
                self._put(chunk)

    def _put(self, item: Item) -> None:
        while not self._given_up.is_set():
            try:
                return self._items.put(item, timeout=POLL_SECONDS)
            except queue.Full:
                continue


def _explain(error: Exception, url: str, label: str) -> SourceError:
    """Without the driver's own words, which may repeat the URL or a credential."""
    scheme = sources.scheme(url) or ""
    if isinstance(error, FileNotFoundError):
        return SourceError(f"{label} does not exist", code=Code.SOURCE_MISSING)
    if isinstance(error, PermissionError):
        return SourceError(f"{label} may not be read with the worker's credentials", code=Code.SOURCE_MISSING)
    if isinstance(error, IsADirectoryError):
        return SourceError(f"{label} is a folder, not a file", code=Code.SOURCE_UNSUPPORTED)
    if isinstance(error, ImportError):
        package = PACKAGES.get(scheme, f"that fsspec needs for {scheme}")
        why = f"the worker lacks a package for {scheme}://; pip install {package}"
        return SourceError(f"{label}: {why}", code=Code.SOURCE_UNSUPPORTED)
    if isinstance(error, ValueError) and scheme not in fsspec.available_protocols():
        return SourceError(f"{label}: fsspec knows no {scheme}://", code=Code.SOURCE_UNSUPPORTED)
    return SourceError(
        f"{label}: the object store failed ({type(error).__name__})", code=Code.SOURCE_UNREACHABLE, retryable=True
    )
