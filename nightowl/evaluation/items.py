"""A data set as Nightowl sees it: items, each a job with what should come out of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from domain.params import Params


class Task(StrEnum):
    OCR = "ocr"
    SUMMARIZE = "summarize"
    CAPTION = "caption"
    OWLEVAL = "owleval"


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One job of a run. `name` joins it with the same item of another run.

    `labels` say what it is (group, class, abilities …) and are kept with its scores. `after` is the number of the item
    whose question and answer go before this question, in a conversation.
    """

    number: int
    name: str
    source: str | None
    params: Params
    references: tuple[str, ...] = ()
    labels: Mapping[str, Any] = field(default_factory=dict)
    after: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of an item: the job's text and data, or why there is none."""

    text: str | None
    data: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None
    seconds: float | None = None
    pages: int = 0
