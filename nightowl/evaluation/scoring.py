"""Scores of one item, and of a whole run."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from nightowl.evaluation import metrics, texts
from nightowl.evaluation.cider import Cider
from nightowl.evaluation.items import Task

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from nightowl.evaluation.items import Outcome
    from storage.evaluations import EvalItem

Scores = dict[str, float]

LOWER_IS_BETTER = frozenset({"cer", "wer", "unsupported", "seconds_per_page"})
MAIN = {Task.OCR: "cer", Task.SUMMARIZE: "rougeL", Task.CAPTION: "cider", Task.OWLEVAL: "words"}
"""What a report leads with and what two runs are compared by, where it was measured."""
AT = (1, 5, 10)


def score(task: Task, item: EvalItem, outcome: Outcome) -> Scores:
    """What can be said of one item by itself. A job that failed gave an empty text, and is measured as such."""
    if outcome.text is None and not item.references:
        return {}
    if task is Task.OCR:
        return _ocr(item, outcome)
    if item.labels.get("youku") == "category":
        return {"accuracy": float(category(outcome.text or "", item.labels["categories"]) == item.labels["category"])}
    return {**_likeness(outcome.text or "", item.references), **_on_screen(item, outcome), **_manner(outcome)}


def _ocr(item: EvalItem, outcome: Outcome) -> Scores:
    caseless = bool(item.labels.get("caseless"))
    reference = texts.folded(item.references[0], caseless=caseless)
    text = outcome.text or ""
    folded = texts.folded(text, caseless=caseless)
    letters, words = metrics.character_edits(reference, folded), metrics.word_edits(reference, folded)
    found = {"cer": letters.rate, "wer": words.rate, "characters": letters.total}
    if (order := metrics.order(item.references[0], text)) is not None:
        found["order"] = order
    if outcome.seconds is not None and outcome.pages:
        found["seconds_per_page"] = outcome.seconds / outcome.pages
    return found


def _likeness(text: str, references: Sequence[str]) -> Scores:
    if not references:
        return {}
    return {
        **metrics.rouge(text, references),
        "bleu": metrics.bleu(text, references),
        "meteor_exact_stem": metrics.meteor_exact_stem(text, references),
    }


def _on_screen(item: EvalItem, outcome: Outcome) -> Scores:
    wanted = item.labels.get("on_screen")
    if not wanted:
        return {}
    return {"on_screen": metrics.share_found(wanted, "\n".join([outcome.text or "", *_texts(outcome.data)]))}


def _texts(value: Any) -> Iterable[str]:
    """Every text in a result's data."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from _texts(one)
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _texts(one)


def _manner(outcome: Outcome) -> Scores:
    """How the text came about: its length, whether a model wrote it, how much of it the source does not support."""
    found: Scores = {"words": len(texts.tokens(outcome.text or ""))}
    if "method" in outcome.data:
        found["by_model"] = float(outcome.data["method"] == "model")
    if isinstance(marks := outcome.data.get("unsupported"), list):
        found["unsupported"] = len(marks)
    return found


def category(answer: str, names: Sequence[str]) -> str | None:
    """The category that an answer names first; of two that begin there, the longer."""
    places = [(answer.find(name), -len(name), name) for name in names if name in answer]
    return min(places)[2] if places else None


def with_cider(items: Sequence[EvalItem]) -> dict[int, float]:
    """CIDEr of each item with references and a prediction. It takes at least two: rarity is that among them."""
    measured = [item for item in items if item.references and item.prediction is not None]
    if len(measured) < 2:
        return {}
    cider = Cider([item.references for item in measured])
    return {item.number: cider.score(item.prediction or "", item.references) for item in measured}


def retrieval(items: Sequence[EvalItem]) -> Scores:
    """Videos and texts found by each other, through the words of the captions: the share with the right one among the
    first 1, 5 and 10. A list of one cannot be searched."""
    listed = [item for item in items if item.labels.get("youku") == "retrieval" and item.prediction and item.references]
    if len(listed) < 2:
        return {}
    cider = Cider([item.references for item in listed])
    videos = [cider.vector(item.prediction or "") for item in listed]
    words = [cider.vector(item.references[0]) for item in listed]
    table = [[cider.likeness(video, text) for text in words] for video in videos]
    turned = [list(column) for column in zip(*table, strict=True)]
    return {**_recalls("video_to_text", table), **_recalls("text_to_video", turned)}


def _recalls(name: str, table: Sequence[Sequence[float]]) -> Scores:
    """Row i should find column i; equal ones before it count against it."""
    ranks = [sum(value >= row[at] for value in row) for at, row in enumerate(table)]
    return {f"{name}_r{most}": fmean(rank <= most for rank in ranks) for most in AT}


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The items with one label, or all, and the means of their scores."""

    name: str
    items: int
    failed: int
    scores: Mapping[str, float]


def groups(task: Task, items: Sequence[EvalItem]) -> list[Group]:
    """One per label `group` where there are several, and last "all"."""
    by_label: dict[str, list[EvalItem]] = defaultdict(list)
    for item in items:
        by_label[str(item.labels.get("group", ""))].append(item)
    parts = [_group(task, name, found) for name, found in by_label.items()] if len(by_label) > 1 else []
    return [*parts, _group(task, "all", items)]


def _group(task: Task, name: str, items: Sequence[EvalItem]) -> Group:
    names = list(dict.fromkeys(score for item in items for score in item.scores))
    means = {
        one: fmean(item.scores[one] for item in items if one in item.scores)
        for one in names
        if one not in ("characters",)
    }
    return Group(name=name, items=len(items), failed=sum(item.error is not None for item in items), scores=means)


def overall(task: Task, items: Sequence[EvalItem]) -> dict[str, Any]:
    """What the row of a run says: the groups, and what can be measured of the whole only."""
    whole: Scores = dict(retrieval(items))
    written = [item for item in items if item.references and item.prediction is not None]
    if written and task is not Task.OCR:
        whole["corpus_bleu"] = metrics.corpus_bleu(
            [item.prediction or "" for item in written], [item.references for item in written]
        )
    if task is Task.OCR and (total := sum(item.scores.get("characters", 0) for item in items)):
        wrong = sum(item.scores["cer"] * item.scores["characters"] for item in items if "cer" in item.scores)
        whole["cer_of_all_characters"] = wrong / total
    found = [
        {"name": group.name, "items": group.items, "failed": group.failed, "scores": dict(group.scores)}
        for group in groups(task, items)
    ]
    return {"groups": found, "whole": whole}
