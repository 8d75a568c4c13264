"""The door to work in one process: many at a time, or one that must be alone.

Work that workers died of is done with nothing beside it. If the process dies once more, it is known why, and nothing
innocent is charged for it.
"""

from __future__ import annotations

import threading
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tasks.work import POLL_SECONDS, StoppedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Gate:
    """Lets in who comes, in the order of coming; who must be alone waits until all are out, and others wait for it.

    Nobody is passed over, so nobody starves: each waits no longer than the work takes that came before. Work that has
    entered must not enter again.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._queue: deque[object] = deque()
        self._inside = 0
        self._alone = False

    @contextmanager
    def work(self, *, alone: bool, stopped: Callable[[], bool]) -> Iterator[None]:
        """Work inside the block. Raises StoppedError where it would have to wait and `stopped` says so."""
        self._enter(alone=alone, stopped=stopped)
        try:
            yield
        finally:
            self._leave()

    def _enter(self, *, alone: bool, stopped: Callable[[], bool]) -> None:
        ticket = object()
        with self._changed:
            self._queue.append(ticket)
            try:
                while self._queue[0] is not ticket or self._alone or (alone and self._inside):
                    if stopped():
                        raise StoppedError("stopped while other work was alone in the process")
                    self._changed.wait(POLL_SECONDS)
                self._inside += 1
                self._alone = alone
            finally:
                self._queue.remove(ticket)
                self._changed.notify_all()

    def _leave(self) -> None:
        with self._changed:
            self._inside -= 1
            self._alone = False
            self._changed.notify_all()
