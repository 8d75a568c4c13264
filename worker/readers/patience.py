"""How long to wait for a network: one deadline for all of a fetch, and an event that ends it at once."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from domain.errors import LostError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
POLL_SECONDS = 0.1


class TimeUpError(Exception):
    """The deadline has passed."""


@dataclass(frozen=True, slots=True)
class Patience:
    """`until` is a time of the monotonic clock, in seconds."""

    until: float
    stop: threading.Event | None = None

    @classmethod
    def of(cls, seconds: float, stop: threading.Event | None) -> Patience:
        return cls(time.monotonic() + seconds, stop)

    def left(self, at_most: float = float("inf")) -> float:
        """Seconds to wait for the next step, more than 0.

        Raises:
            TimeUpError: the deadline has passed.
            LostError: the event is set.
        """
        if self.stop is not None and self.stop.is_set():
            raise LostError("fetching the source was stopped")
        seconds = self.until - time.monotonic()
        if seconds <= 0:
            raise TimeUpError
        return min(seconds, at_most)

    def wait_for(self, function: Callable[[], T], *, seconds: float) -> T:
        """The function's result, from a thread that is left behind where it takes too long: no name lookup can be
        interrupted.

        Raises:
            TimeoutError: it took longer than `seconds`.
        """
        future: Future[T] = Future()
        threading.Thread(target=_settle, args=(future, function), name="patience", daemon=True).start()
        give_up = time.monotonic() + seconds
        while not wait([future], timeout=self.left(POLL_SECONDS)).done:
            if time.monotonic() > give_up:
                raise TimeoutError
        return future.result()


def _settle(future: Future[T], function: Callable[[], T]) -> None:
    try:
        future.set_result(function())
    except BaseException as error:
        future.set_exception(error)
