"""The Celery application. Imports no torch, no decoder, and reads no setting before its configuration is asked for."""

from __future__ import annotations

from typing import Any

from celery import Celery
from kombu import Queue

from domain.messages import celery_options
from domain.settings import Settings


def _options() -> dict[str, Any]:
    settings = Settings()
    return {
        **celery_options(settings),
        "imports": ("tasks.celery",),
        "task_queues": [Queue(name) for name in settings.queues],
        "worker_pool": "worker.pool:TaskPool",
        "worker_disable_prefetch": True,
        "worker_consumer": "worker.consumer:Consumer",
        "worker_concurrency": settings.concurrency,
        "worker_prefetch_multiplier": 1,
        "worker_hijack_root_logger": False,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "broker_connection_max_retries": None,
    }


app = Celery("nightowl")
app.add_defaults(_options)
