"""The client's end of the queue: one message says that a job waits. If it cannot be sent, the sweep makes up for it."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

from domain.messages import CPU, PLAN_JOB, celery_options, message_priority

if TYPE_CHECKING:
    from domain.settings import Settings

logger = logging.getLogger(__name__)


class Doorbell:
    """Thread-safe. Celery is imported at the first ring."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._app: Any = None
        self._lock = threading.Lock()

    def ring(self, job_id: str, *, priority: int) -> bool:
        """False if the broker cannot be reached."""
        from kombu.exceptions import OperationalError

        if self._settings.embeds_redis and not self._settings.redis_socket.exists():
            return False  # no stack is up; saves the time-out
        try:
            self._celery().send_task(
                PLAN_JOB,
                args=(job_id,),
                queue=CPU,
                priority=message_priority(priority),
                ignore_result=True,
                retry=False,
            )
        except (OperationalError, OSError) as error:
            logger.warning("the broker cannot be reached, the job waits for the next sweep: %s", error)
            return False
        return True

    def _celery(self) -> Any:
        from celery import Celery

        with self._lock:
            if self._app is None:
                self._app = Celery("nightowl-client", set_as_current=False)
                self._app.conf.update(celery_options(self._settings))
            return self._app

    def close(self) -> None:
        with self._lock:
            if self._app is not None:
                self._app.close()
                self._app = None
