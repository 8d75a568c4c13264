"""The one place that wires what a worker works with: reader children and the engine."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from domain.messages import GPU
from worker.engines.base import EngineConfig
from worker.engines.registry import create_engine, resolve
from worker.readers.children import Readers

if TYPE_CHECKING:
    from domain.settings import Settings
    from worker.engines.base import Engine

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Runtime:
    """`engine` is None in a worker that only plans."""

    readers: Readers
    engine: Engine | None


def build(settings: Settings) -> Runtime:
    """Raises SetupError where the engine cannot be made."""
    engine = _engine(settings) if GPU in settings.queues else None
    readers = Readers(limits=settings.limits, children=settings.readers, recycle_after=settings.reader_recycle)
    return Runtime(readers=readers, engine=engine)


def engine_config(settings: Settings) -> EngineConfig:
    return EngineConfig(
        cache_dir=settings.cache_dir,
        model=settings.model,
        adapter=settings.adapter,
        device=settings.device,
        dtype=settings.dtype,
        slots=settings.slots,
        context_tokens=settings.context_tokens,
        threads=settings.threads,
    )


def _engine(settings: Settings) -> Engine:
    name = resolve(settings.engine, model=settings.model)
    started = time.monotonic()
    engine = create_engine(name, engine_config(settings))
    logger.info(
        "engine %s ready: %s (asked for: %s; %.1f s)",
        engine.name, engine.model, settings.engine, time.monotonic() - started,
        extra={"action": "engine_ready", "engine": engine.name, "model": engine.model},
    )  # fmt: skip
    return engine


def calm_openmp() -> None:
    """Bound OpenMP's spinning, before torch loads: on a busy machine it slows threads to a crawl."""
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
