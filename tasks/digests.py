"""A page is digested once: a second style, length or kind of the same document costs only the reduce.

A digest is found again by everything that it depends on: the bytes of the source, the page, the engine and its model,
and the words of the prompt. Whoever wrote it, it is the same, so a worker that lost its part may keep one too.
"""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from storage import digests
from storage.digests import Digest
from tasks.work import Finished

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tasks.work import PartWork

FORM = 1
"""Counts up when digests are made in another way."""


def made_once(work: PartWork[Any], make: Callable[[], Finished], *, focus: str | None) -> Finished:
    """What `make` gives, or gave when it was asked for the same before (then `data.cached` is true). A job that is to
    be done `fresh` is not given what was made before."""
    key = _key(work, focus)
    if not work.job.fresh and (found := _find(work, key)) is not None:
        return Finished(text=found.text, data={**found.data, "cached": True})
    made = make()
    with work.context.database.write() as session:
        kept = Digest(text=made.text, data=made.data)
        digests.keep(session, key, kept, job_id=work.job.id, now=work.context.clock())
    return made


def _find(work: PartWork[Any], key: str) -> Digest | None:
    with work.context.database.read() as session:
        return digests.find(session, key)


def _key(work: PartWork[Any], focus: str | None) -> str:
    stat = work.source.path.stat()
    parts = [
        FORM,
        _sha256(work.source.path, stat.st_mtime_ns, stat.st_size),
        dict(work.part.spec),
        [work.engine.name, work.engine.model, work.engine.context_tokens, work.engine.page_pixels],
        work.prompts.digest("", label=work.prompts.label(work.part.spec), focus=focus),
        [work.prompts.describe_picture, work.prompts.describe_scene],
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@lru_cache(maxsize=64)
def _sha256(path: Path, changed_ns: int, size: int) -> str:
    """Of a file's content; its time and size tell whether it is still the same file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
