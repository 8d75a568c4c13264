"""A bare Celery application with a task that only counts itself, for benchmarks/overhead.py."""

from __future__ import annotations

import os

import redis
from celery import Celery

SOCKET = os.environ.get("NOOP_SOCKET", "")
COUNTER = "noop-count"

app = Celery("noop", broker=f"redis+socket://{SOCKET}")
app.conf.update(task_ignore_result=True, worker_prefetch_multiplier=1)
_client = redis.Redis(unix_socket_path=SOCKET)


@app.task(name="noop")
def noop() -> None:
    _client.incr(COUNTER)
