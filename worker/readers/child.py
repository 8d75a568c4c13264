"""What runs inside a reader child: its bounds, its readers, and the way its results travel back.

This module imports nothing but the standard library at its top, because `start` must set the bounds before numpy and
the decoders come in. children.py is the parent's side.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import multiprocessing
import os
import pickle
import resource
import select
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from worker.readers.base import Cuts, Frames, Open, Page, Probe, ReadPage, Segment, Segmenting
    from worker.readers.image import Images
    from worker.readers.pdf import Documents
    from worker.readers.video import Videos

# Read by the libraries when they are loaded. Threads of BLAS would each reserve memory of the child's small budget.
_QUIET = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "OPENCV_FFMPEG_LOGLEVEL": "-8",
    "OPENCV_LOG_LEVEL": "SILENT",
}
_MIB = 1024 * 1024
_M_MMAP_THRESHOLD = -3
"""mallopt(3)"""
_CODE_MB = 1024
"""Address space on top of the data limit: libraries are mapped, not held."""
_MEMORY_WORDS = ("insufficient memory", "cannot allocate memory", "bad_alloc", "out of memory", "malloc")


@dataclass(frozen=True, slots=True)
class Parcel:
    """A result on its way to the parent: the pickle, and the sizes of the arrays that lie in the shared file."""

    pickled: bytes
    sizes: tuple[int, ...]


@dataclass(slots=True)
class _Bench:
    """The readers of this child, each made when it is first needed: a child that sees no video loads no decord."""

    documents: Documents | None = None
    images: Images | None = None
    videos: Videos | None = None


_bench = _Bench()


def start(memory_mb: int) -> None:
    """Called once in a fresh child, before anything else."""
    os.environ.update(_QUIET)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal reaches children too; the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a Python handler would wait for the end of a C function
    _die_with_parent()
    _silence()
    _bound(memory_mb)
    _return_memory()


def serve(
    function: Callable[..., object], arguments: dict[str, Any], *, memory_mb: int, what: str, shelf: str
) -> Parcel:
    """Runs one task and packs its result. Whatever goes wrong leaves as one of our errors."""
    from domain.errors import Code, NightowlError, ReaderError

    try:
        return pack(function(**arguments), shelf=shelf)
    except NightowlError:
        raise
    except Exception as error:
        if is_memory(error):
            forget()
            raise ReaderError(
                f"{what}: more memory is needed than the {memory_mb} MiB of one reader child "
                "(setting NIGHTOWL_LIMITS__READ_MEMORY_MB)",
                code=Code.READ_MEMORY,
            ) from None
        message = f"{what}: unexpected {type(error).__name__}: {error}"[:500]
        raise ReaderError(message, code=Code.INTERNAL) from error


def probe(source: Open) -> Probe:
    from dataclasses import replace

    from worker.readers.sniff import name_warnings, sniff

    kind = sniff(source)
    found: Probe = _reader(kind.media).probe(source, format=kind.format)
    return replace(found, warnings=(*name_warnings(source.label, kind), *found.warnings))


def page(source: Open, number: int, target_pixels: int) -> Page:
    from worker.readers.sniff import sniff

    kind = sniff(source)
    result: Page = _page_reader(kind.media, source).page(
        source, number, target_pixels=target_pixels, format=kind.format
    )
    return result


def cuts(source: Open, start: float) -> Cuts:
    return _videos(source).cuts(source, start)


def searchable(source: Open, pages: Sequence[ReadPage]) -> Any:
    from worker.readers.searchable import make_searchable
    from worker.readers.sniff import sniff

    kind = sniff(source)
    _page_reader(kind.media, source)
    return make_searchable(source, media=kind.media, format=kind.format, pages=pages)


def segments(source: Open, how: Segmenting, cuts: Sequence[float]) -> tuple[Segment, ...]:
    return _videos(source).segments(source, how, cuts)


def frames(source: Open, segment: Segment, count: int, max_side: int) -> Frames:
    return _videos(source).frames(source, segment, count=count, max_side=max_side)


def forget() -> None:
    """Closes what is kept open between calls."""
    _bench.documents = _bench.images = _bench.videos = None


def is_memory(error: BaseException) -> bool:
    """MuPDF, OpenCV and FFmpeg each have words of their own for it."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(word in text for word in _MEMORY_WORDS)


def pack(result: object, *, shelf: str) -> Parcel:
    """Pixels go into the shared file, the rest into a pickle: the pipe is slow for megabytes."""
    buffers: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(result, protocol=5, buffer_callback=buffers.append)
    views = [buffer.raw() for buffer in buffers]
    if not views:
        return Parcel(pickled, ())
    try:
        with open(shelf, "r+b", buffering=0) as file:  # noqa: PTH123  (a path under /proc, not one of ours)
            file.truncate(0)
            for view in views:
                _write_all(file.fileno(), view)
    except OSError:
        return Parcel(pickle.dumps(result, protocol=5), ())
    return Parcel(pickled, tuple(view.nbytes for view in views))


def unpack(parcel: Parcel, *, shelf: int) -> Any:
    """The parent's half of `pack`; `shelf` is its descriptor of the shared file."""
    buffers, at = [], 0
    for size in parcel.sizes:
        buffer = bytearray(size)
        _read_all(shelf, memoryview(buffer), at)
        buffers.append(buffer)
        at += size
    os.ftruncate(shelf, 0)
    return pickle.loads(parcel.pickled, buffers=buffers)


def _write_all(descriptor: int, view: memoryview) -> None:
    while view.nbytes:
        view = view[os.write(descriptor, view) :]


def _read_all(descriptor: int, view: memoryview, at: int) -> None:
    while view.nbytes:
        got = os.preadv(descriptor, [view], at)
        if got == 0:
            raise EOFError("the shared file of a reader child is shorter than its result")
        view, at = view[got:], at + got


def _reader(media: str) -> Any:
    from worker.readers.base import Media

    if media == Media.DOCUMENT:
        from worker.readers.pdf import Documents

        _bench.documents = _bench.documents or Documents()
        return _bench.documents
    if media == Media.IMAGE:
        from worker.readers.image import Images

        _bench.images = _bench.images or Images()
        return _bench.images
    from worker.readers.video import Videos

    _bench.videos = _bench.videos or Videos()
    return _bench.videos


def _page_reader(media: str, source: Open) -> Any:
    from domain.errors import Code, SourceError
    from worker.readers.base import Media

    if media == Media.VIDEO:
        raise SourceError(f"{source.label} is a video: it has no pages", code=Code.NO_PAGES)
    return _reader(media)


def _videos(source: Open) -> Videos:
    from domain.errors import Code, SourceError
    from worker.readers.base import Media
    from worker.readers.sniff import sniff

    kind = sniff(source)
    if kind.media != Media.VIDEO:
        raise SourceError(f"{source.label} is not a video: the content is {kind.format}", code=Code.NO_VIDEO_STREAM)
    reader: Videos = _reader(kind.media)
    return reader


def _die_with_parent() -> None:
    """The kernel kills this process when the parent's end of the start-up pipe closes, whatever C code is running.

    PR_SET_PDEATHSIG would fire when the *thread* that started the child ends, and a thread that watches the parent
    would wait for the GIL, which decord and MuPDF may hold for ever.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    pipe = int(parent.sentinel)
    fcntl.fcntl(pipe, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(pipe, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([pipe], [], [], 0)[0]:  # it died before the kernel was asked
        os._exit(1)


def _silence() -> None:
    """Decoders print to both streams from C; what matters comes back as a warning or an error."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    os.close(nowhere)


def _bound(memory_mb: int) -> None:
    """RLIMIT_DATA counts private writable memory, which is what grows; RLIMIT_AS also counts mapped libraries."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _lower(resource.RLIMIT_DATA, memory_mb * _MIB)
    _lower(resource.RLIMIT_AS, (memory_mb + _CODE_MB) * _MIB)


def _return_memory() -> None:
    """Have blocks of a megabyte and more mapped, so that they go back to the system when they are freed.

    glibc raises that threshold by itself, up to 32 MiB: after a large picture a child would hold a gigabyte to its end.
    """
    with contextlib.suppress(AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _MIB)


def _lower(kind: int, limit: int) -> None:
    hard = resource.getrlimit(kind)[1]
    limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(kind, (limit, limit))
