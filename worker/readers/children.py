"""`Readers`: the rest of the worker reads sources through it, and never opens one itself.

Each call runs in a child process with a deadline and a memory limit. A child that crashes, hangs or eats memory costs
the call that it was serving and nothing else. child.py is the other side.
"""

from __future__ import annotations

import os
import signal
import threading
import time
import weakref
from concurrent.futures import CancelledError, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

from pebble import ProcessExpired, ProcessPool

from domain.errors import Code, LostError, ReaderError
from worker.readers import child
from worker.readers.spawning import SpawnContext

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt
    from pebble import ProcessFuture

    from domain.limits import Limits
    from worker.readers.base import Frames, Open, Page, Probe, ReadPage, Segment, Segmenting

T = TypeVar("T")

_POLL_SECONDS = 0.1
"""How often a waiting call looks whether it was cancelled."""
_GRACE_SECONDS = 90.0
"""For a child to start, and pebble to notice its end, on a busy machine; beyond that the pool itself is stuck."""
_TAKEN_SECONDS = 30.0
"""For a child to start and take the call. One that is killed between taking it and saying so takes it along, and pebble
waits for ever; another child is started then."""
_STARTS = 3
"""Tries to find a living child. An idle one may have been killed, which says nothing about this call."""


class _NotTakenError(Exception):
    """No child has taken the call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """One piece of work for a child. `what` and `doing` are for messages: "page 3 of x.pdf", "rendering"."""

    function: Callable[..., object]
    arguments: dict[str, Any]
    what: str
    doing: str
    path: Path | None
    cancel: threading.Event | None


class Readers:
    """Reads sources in `children` processes. Its methods block, and may be called from any thread.

    Each raises SourceError (the file), ReaderError (the child: time, memory, a crash) or LostError (`cancel` was set,
    or the readers were closed meanwhile).
    """

    def __init__(self, *, limits: Limits, children: int = 2, recycle_after: int = 200) -> None:
        self._limits = limits
        self._free = threading.Condition()
        self._slots = [_Slot(limits=limits, recycle_after=recycle_after) for _ in range(children)]
        self._idle = list(self._slots)
        self._closed = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def probe(self, source: Open, *, cancel: threading.Event | None = None) -> Probe:
        """What the file is: media, format, pages or seconds."""
        return self._read(child.probe, source, source.label, "opening", cancel)

    def page(self, source: Open, number: int, *, target_pixels: int, cancel: threading.Event | None = None) -> Page:
        """Page `number` (from 1) as a picture of about `target_pixels` on its longer side, with its text layer."""
        what = f"page {number} of {source.label}"
        return self._read(child.page, source, what, "rendering", cancel, number=number, target_pixels=target_pixels)

    def searchable(
        self, source: Open, pages: Sequence[ReadPage], *, cancel: threading.Event | None = None
    ) -> npt.NDArray[np.uint8]:
        """The bytes of a PDF of these pages with the text that was read on them, invisible, in its place."""
        what = f"the searchable PDF of {source.label}"
        return self._read(child.searchable, source, what, "making it", cancel, pages=tuple(pages))

    def segments(self, source: Open, how: Segmenting, *, cancel: threading.Event | None = None) -> tuple[Segment, ...]:
        """The segments of a video; together they cover it from 0 to its end. A long film is searched in stretches."""
        cuts = self._cuts(source, cancel) if how.mode == "scene" else ()
        return self._read(child.segments, source, source.label, "cutting into segments", cancel, how=how, cuts=cuts)

    def _cuts(self, source: Open, cancel: threading.Event | None) -> tuple[float, ...]:
        times: list[float] = []
        start: float | None = 0.0
        while start is not None:
            found = self._read(child.cuts, source, source.label, "looking for scene cuts", cancel, start=start)
            times += found.times
            start = found.next_start
        return tuple(times)

    def frames(
        self, source: Open, segment: Segment, *, count: int, max_side: int, cancel: threading.Event | None = None
    ) -> Frames:
        """Up to `count` frames of a segment, evenly spread, at most `max_side` pixels on the longer side."""
        what = f"segment {segment.number} of {source.label}"
        return self._read(
            child.frames, source, what, "decoding", cancel, segment=segment, count=count, max_side=max_side
        )

    def close(self) -> None:
        """Ends all children. Calls that are still waiting raise LostError. May be called twice."""
        with self._free:
            self._closed.set()
            self._free.notify_all()
        for slot in self._slots:
            slot.close()

    def _read(
        self,
        function: Callable[..., T],
        source: Open,
        what: str,
        doing: str,
        cancel: threading.Event | None,
        **arguments: Any,
    ) -> T:
        call = _Call(
            function=function,
            arguments={"source": source, **arguments},
            what=what,
            doing=doing,
            path=source.path,
            cancel=cancel,
        )
        return cast("T", self._run(call))

    def _run(self, call: _Call) -> object:
        slot = self._take(call)
        try:
            return slot.run(call, closed=self._closed)
        finally:
            with self._free:
                self._idle.append(slot)
                self._free.notify()

    def _take(self, call: _Call) -> _Slot:
        with self._free:
            while not self._idle:
                _check(call, self._closed)
                self._free.wait(_POLL_SECONDS)
            _check(call, self._closed)
            # The child that had this file last still has it open.
            slot = next((slot for slot in self._idle if slot.path == call.path), self._idle[0])
            self._idle.remove(slot)
            return slot


class _Slot:
    """One child at a time and the pool that keeps it alive.

    A pool each, because pebble's workers share their pipes: one that dies while it sends would take the others along.
    """

    def __init__(self, *, limits: Limits, recycle_after: int) -> None:
        self.path: Path | None = None
        self._limits, self._recycle_after = limits, recycle_after
        self._lock = threading.Lock()
        self._pool: ProcessPool | None = None
        self._shelf = os.memfd_create("nightowl-reader", os.MFD_CLOEXEC)
        # Not in close(): a call of another thread may still be reading from it.
        weakref.finalize(self, os.close, self._shelf)
        self._closed = False

    def run(self, call: _Call, *, closed: threading.Event) -> object:
        self.path = call.path
        for _ in range(_STARTS):
            try:
                future = self._schedule(call)
                self._wait(future, call, closed)
                return child.unpack(future.result(), shelf=self._shelf)
            except RuntimeError:  # pebble gives the pool up when a child dies that was doing nothing
                self._drop()
                _check(call, closed)
            except TimeoutError:
                raise _timeout(call, self._limits) from None
            except ProcessExpired as error:
                raise _crash(call, error.exitcode) from None
            except _NotTakenError:
                self._drop()
            except CancelledError:
                raise LostError(f"reading {call.what} was stopped") from None
        raise ReaderError(f"{call.what}: no reader child could be started", retryable=True)

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._drop()

    def _schedule(self, call: _Call) -> ProcessFuture[child.Parcel]:
        arguments = {
            "memory_mb": self._limits.read_memory_mb,
            "what": call.what,
            "shelf": f"/proc/{os.getpid()}/fd/{self._shelf}",
        }
        return self._ready().schedule(
            child.serve,
            args=(call.function, call.arguments),
            kwargs=arguments,
            timeout=self._limits.read_seconds,  # counts from when the child has taken the task
        )

    def _ready(self) -> ProcessPool:
        with self._lock:
            if self._closed:
                raise RuntimeError("closed")
            if self._pool is None or not self._pool.active:
                self._pool = ProcessPool(
                    max_workers=1,
                    max_tasks=self._recycle_after,
                    initializer=child.start,
                    initargs=(self._limits.read_memory_mb,),
                    context=SpawnContext(),
                )
            return self._pool

    def _wait(self, future: ProcessFuture[child.Parcel], call: _Call, closed: threading.Event) -> None:
        began = time.monotonic()
        patience = began + self._limits.read_seconds + _GRACE_SECONDS
        while not wait([future], timeout=_POLL_SECONDS).done:
            try:
                _check(call, closed)
            except LostError:
                cast("Any", future).cancel()  # pebble kills the child that runs it
                raise
            if not future.running() and not future.done() and time.monotonic() > began + _TAKEN_SECONDS:
                raise _NotTakenError
            if time.monotonic() > patience:
                self._drop()
                raise TimeoutError

    def _drop(self) -> None:
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            cast("Any", pool).stop()
            pool.join()


def _check(call: _Call, closed: threading.Event) -> None:
    if closed.is_set():
        raise LostError(f"reading {call.what} was stopped: the readers are closed")
    if call.cancel is not None and call.cancel.is_set():
        raise LostError(f"reading {call.what} was stopped: it was cancelled")


def _timeout(call: _Call, limits: Limits) -> ReaderError:
    return ReaderError(
        f"{call.what} timed out: it was still {call.doing} after {limits.read_seconds:g} s "
        "(setting NIGHTOWL_LIMITS__READ_SECONDS)",
        code=Code.READ_TIMEOUT,
    )


def _crash(call: _Call, exitcode: int) -> ReaderError:
    return ReaderError(
        f"{call.what}: the reader child died while {call.doing} ({_cause(exitcode)})",
        code=Code.READER_CRASHED,
        retryable=True,
    )


def _cause(exitcode: int) -> str:
    if exitcode >= 0:
        return f"exit code {exitcode}"
    try:
        name = signal.Signals(-exitcode).name
    except ValueError:
        name = f"signal {-exitcode}"
    return f"{name}: killed from outside, perhaps for the machine's memory" if name == "SIGKILL" else name
