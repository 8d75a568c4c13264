"""What is said over the queue: task names, queue names, and the options both ends of it must agree on.

Messages carry ids only. A lost, doubled or late message is harmless, so acknowledgement is early and results are off.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from domain.silence import socket_options

if TYPE_CHECKING:
    from domain.settings import Settings

SUBMIT = "nightowl.submit"
PLAN_JOB = "nightowl.plan_job"
RUN_SLICE = "nightowl.run_slice"
FINISH_JOB = "nightowl.finish_job"

CPU = "cpu"
GPU = "gpu"

INTERACTIVE = 0
"""Priority of a message where the job's own is above 0. kombu's Redis transport serves 0 first and has four steps."""
NORMAL = 3
BULK = 6
"""Where the job's own is below 0, as a batch's is."""


def queue_for(phase_queue: str, engine: str | None) -> str:
    """The queue of work that asks for one engine by name; any worker's queue where it asks for none."""
    return phase_queue if phase_queue == CPU or engine is None else f"{GPU}.{engine}"


def message_priority(job_priority: int) -> int:
    if job_priority > 0:
        return INTERACTIVE
    return NORMAL if job_priority == 0 else BULK


def celery_options(settings: Settings) -> dict[str, Any]:
    """Celery configuration of producers and workers alike."""
    return {
        "broker_url": settings.broker,
        "accept_content": ["json"],
        "task_serializer": "json",
        "result_serializer": "json",
        "task_ignore_result": True,
        "task_store_errors_even_if_ignored": False,
        "task_acks_late": False,
        "task_default_queue": CPU,
        "task_default_priority": NORMAL,
        "broker_connection_retry_on_startup": True,
        "broker_transport_options": {
            "queue_order_strategy": "priority",
            "socket_connect_timeout": 3,
            "socket_timeout": 30,
            "socket_keepalive": True,
            # A worker waits for the next message without an end, and a broker that fell silent may have forgotten the
            # connection long before: it would never send on it again.
            "socket_keepalive_options": socket_options(),
        },
        "enable_utc": True,
        "timezone": "UTC",
    }
