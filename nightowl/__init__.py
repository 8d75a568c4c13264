"""What applications import: the client and the params of the five kinds. No torch, no decoder.

from nightowl import Client, Ocr
with Client() as client:
    job = client.submit(Ocr(), "scan.png")
    print(client.wait(job.id).result.text)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from domain.errors import Failure, NightowlError
    from domain.jobs import Job, Part, PartCounts, Result
    from domain.kinds import Kind
    from domain.params import Ask, Caption, Copywrite, Ocr, Summarize
    from domain.settings import Settings
    from domain.states import JobState, PartState
    from nightowl.asynchronous import AsyncClient
    from nightowl.client import Changes, Client

_HOMES = {
    "nightowl.asynchronous": ("AsyncClient",),
    "nightowl.client": ("Changes", "Client"),
    "domain.errors": ("Failure", "NightowlError"),
    "domain.jobs": ("Job", "Part", "PartCounts", "Result"),
    "domain.kinds": ("Kind",),
    "domain.params": ("Ask", "Caption", "Copywrite", "Ocr", "Summarize"),
    "domain.settings": ("Settings",),
    "domain.states": ("JobState", "PartState"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Ask",
    "AsyncClient",
    "Caption",
    "Changes",
    "Client",
    "Copywrite",
    "Failure",
    "Job",
    "JobState",
    "Kind",
    "NightowlError",
    "Ocr",
    "Part",
    "PartCounts",
    "PartState",
    "Result",
    "Settings",
    "Summarize",
]


def __getattr__(name: str) -> Any:
    """Names are loaded when they are used, so that `import nightowl` costs nothing."""
    if name not in _HOME:
        raise AttributeError(f"module 'nightowl' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
