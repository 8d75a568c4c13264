"""From the name of an engine to the engine. Heavy modules are imported only when their engine is asked for."""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

from domain.errors import SetupError
from worker.engines.base import Engine

if TYPE_CHECKING:
    from worker.engines.base import EngineConfig

logger = logging.getLogger(__name__)

MPLUG_OWL = "mplug-owl"
BUILT_IN = {
    "experts": "worker.engines.experts:create",
    MPLUG_OWL: "worker.engines.owl:create",
    "fake": "worker.engines.fake:create",
}
AUTO = "auto"


def create_engine(name: str, config: EngineConfig) -> Engine:
    """`experts`, `mplug-owl`, `fake`, `auto`, or `package.module:factory`, where the factory takes an EngineConfig.

    Raises SetupError where the name leads nowhere, or to something that is not an Engine.
    """
    chosen = resolve(name, model=config.model)
    factory = _load(BUILT_IN.get(chosen, chosen))
    engine = factory(config)
    if not isinstance(engine, Engine):
        raise SetupError(f"{name} made a {type(engine).__name__}, which is not an Engine (worker/engines/base.py)")
    logger.info("engine %s runs %s", engine.name, engine.model)
    return engine


def resolve(name: str, *, model: str | None) -> str:
    """What `auto` means: mplug-owl where a model is configured, else experts. Any other name stands for itself."""
    if name != AUTO:
        return name
    return MPLUG_OWL if model else "experts"


def _load(path: str) -> Any:
    module_name, colon, attribute = path.partition(":")
    if not colon or not module_name or not attribute:
        known = ", ".join([*BUILT_IN, AUTO])
        raise SetupError(f"there is no engine named {path!r}; there are {known}, and package.module:factory")
    try:
        module = import_module(module_name)
    except ImportError as error:
        raise SetupError(_import_failed(path, module_name, error)) from error
    factory = getattr(module, attribute, None)
    if not callable(factory):
        raise SetupError(f"the engine {path!r} cannot be made: {module_name} has no callable named {attribute!r}")
    return factory


def _import_failed(path: str, module_name: str, error: ImportError) -> str:
    hint = "; pip install 'nightowl[engine]'" if path in BUILT_IN.values() else ""
    return f"the engine {path!r} cannot be made: importing {module_name} failed: {error}{hint}"
