"""When one job's result may stand for another's: everything that the result depends on, as one hash."""

from __future__ import annotations

import hashlib
import json
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from domain.kinds import Kind
    from domain.settings import Settings

RESULTS = 1
"""Count this up with a version that gives other results for the same content, params and checkpoint."""


def engine_revision(settings: Settings, *, wants_engine: str | None) -> str:
    """What will answer, as far as the settings say it: a worker that only plans has no engine to ask."""
    engine = wants_engine or settings.engine
    return json.dumps([RESULTS, engine, settings.model, settings.adapter, settings.dtype, settings.revision])


def work_key(*, kind: Kind, params: Mapping[str, Any], sha256: str, name: str | None, revision: str) -> str:
    """`params` are complete, with every default, so that a param left out and one set to its default are the same.

    Of the source's name only the ending counts: a comic book is told from an archive by it.
    """
    ending = PurePath(name or "").suffix.lower()
    text = json.dumps([kind.value, params, sha256, ending, revision], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
