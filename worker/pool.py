"""Celery's pool of threads, and a bell to its loop: a message is fetched when a thread is free to begin it.

Celery would fetch as many messages again as it has threads. They would wait here, out of reach of a job that comes
first, and be lost with this process. Without that (`worker_disable_prefetch`) its loop looks for free threads when it
wakes, which is once a second unless something happens; here each thread that falls free wakes it.
"""

from __future__ import annotations

import os
from typing import Any

from celery.concurrency.thread import TaskPool as CeleryPool


class TaskPool(CeleryPool):  # type: ignore[misc]  # Celery is untyped
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def register_with_event_loop(self, hub: Any) -> None:
        """Again after each lost connection: the loop has forgotten then."""
        hub.add_reader(self._bell, os.eventfd_read, self._bell)

    def on_apply(self, *args: Any, **options: Any) -> Any:
        result = super().on_apply(*args, **options)
        result.f.add_done_callback(lambda _: os.eventfd_write(self._bell, 1))
        return result
