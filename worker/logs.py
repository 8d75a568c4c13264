"""Log lines on stderr: text for people, JSON for machines; each with the job and slice it is about."""

from __future__ import annotations

import json
import logging
import sys
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from domain.plain import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator

_about: ContextVar[dict[str, Any]] = ContextVar("about", default={})  # noqa: B039 - never mutated, only replaced

STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
SECRET = frozenset({"data"})
"""Celery puts the arguments of a task that failed there: sources with signed queries, passwords."""


@contextmanager
def about(**fields: Any) -> Iterator[None]:
    """Every line logged inside carries these fields."""
    token = _about.set({**_about.get(), **fields})
    try:
        yield
    finally:
        _about.reset(token)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    extra = {name: value for name, value in vars(record).items() if name not in STANDARD | SECRET}
    return {**_about.get(), **extra}


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        fields = "".join(f" {name}={value}" for name, value in _fields(record).items() if name in ("job", "slice"))
        line = f"{moment} {record.levelname.lower():7} {one_line(record.getMessage())}{fields}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def configure(*, level: str, format: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if format == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for chatty in ("httpx", "kombu", "celery.worker.strategy", "celery.app.trace", "PIL", "alembic"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
