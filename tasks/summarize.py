"""Kind `summarize`: a digest of every part, then a tree of merges that stays inside the context, then the summary."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from domain.errors import Code, SourceError
from domain.kinds import Kind
from tasks import grounding
from tasks.grounding import Checked
from tasks.looking import look
from tasks.planning import plan_parts, where
from tasks.text import count_words, limit_words, sentences, split_to_budget
from tasks.work import Finished

if TYPE_CHECKING:
    from collections.abc import Sequence

    from domain.params import Summarize
    from tasks.planning import Spec
    from tasks.work import Desk, JobWork, PartWork, Planning

kind = Kind.SUMMARIZE
needs_source = True

DIGEST_TOKENS = 96
MERGE_TOKENS = 160
SUMMARY_TOKENS = {"short": 110, "medium": 240, "long": 560}
FOCUS_WORDS = 60
"""Of what the reader cares about, so many words stand in the prompt of each page."""
DIGEST_WORDS = 60
SHORT_WORDS = 40
"""A text this short is its own digest."""


def plan(work: Planning[Summarize]) -> list[Spec]:
    return plan_parts(work)


def run(work: PartWork[Summarize]) -> Finished:
    seen = look(work)
    digested = digest(work, seen.text, where=work.prompts.label(work.part.spec), focus=work.params.focus)
    return Finished(text=digested.text, data={**seen.data, "words": count_words(seen.text), "method": digested.method})


def digest(work: Desk[Any], text: str, *, where: str, focus: str | None = None) -> Checked:
    """One or two sentences per piece of a text; a long page has several pieces. Nothing that the text does not say."""
    if count_words(text) <= SHORT_WORDS:
        return Checked(text=" ".join(text.split()), method="extractive")
    focus = limit_words(focus, FOCUS_WORDS) if focus else None
    budget = work.room(focus, new_tokens=DIGEST_TOKENS)
    pieces = split_to_budget(text, budget, work.engine.count_tokens)
    checked = [
        grounding.check(
            work.write(work.prompts.digest(piece, label=where, focus=focus), max_new_tokens=DIGEST_TOKENS),
            piece,
            most_words=DIGEST_WORDS,
        )
        for piece in pieces
    ]
    method = "model" if all(piece.method == "model" for piece in checked) else "extractive"
    return Checked(text=" ".join(piece.text for piece in checked), method=method)


def finish(work: JobWork[Summarize]) -> Finished:
    notes = [work.prompts.note(part.spec, part.text) for part in work.good if part.text]
    if not notes:
        raise SourceError("nothing to summarize: every page is blank", code=Code.NO_PAGES)
    room = SUMMARY_TOKENS[work.params.length]
    merged = reduce_notes(work, notes, budget=work.room(work.params.focus, new_tokens=room))
    text, data = _summary(work, "\n".join(merged), room)
    return Finished(text=text, data={**data, "key_points": key_points(work)})


def _summary(work: JobWork[Summarize], notes: str, room: int) -> tuple[str, dict[str, Any]]:
    written = work.write(work.prompts.summary(notes, work.params), max_new_tokens=room)
    if work.params.language is not None:
        return written, {"method": "model", "checked": False}  # a translation shares no words with its source
    # Every note is a paragraph of its own, or the end of one would run into the next.
    source = "\n\n".join(part.text for part in work.good if part.text)
    checked = grounding.check(written, source, most_words=work.prompts.wording.words[work.params.length])
    if work.params.style == "bullets":
        return "\n".join(f"- {sentence.lstrip('-• ')}" for sentence in sentences(checked.text)), _method(checked)
    return checked.text, _method(checked)


def _method(checked: Checked) -> dict[str, Any]:
    return {"method": checked.method, "checked": True}


def key_points(work: JobWork[Any]) -> list[dict[str, Any]]:
    """The first sentence of every digest, with its page or its times."""
    return [{**where(part.spec), "text": sentences(part.text)[0]} for part in work.good if part.text]


def reduce_notes(work: Desk[Any], notes: Sequence[str], *, budget: int) -> list[str]:
    """Merge neighbouring notes, level by level, until all fit the budget; the order of the document is kept."""
    count = work.engine.count_tokens
    while count("\n".join(notes)) > budget:
        merged = [_merge(work, group) for group in _groups(notes, work)]
        if count("\n".join(merged)) >= count("\n".join(notes)):
            return _clip(merged, budget, work)  # a model that does not shorten must not loop for ever
        notes = merged
    return list(notes)


def _merge(work: Desk[Any], notes: Sequence[str]) -> str:
    if len(notes) == 1:
        return notes[0]
    return work.write(work.prompts.join_digests("\n".join(notes)), max_new_tokens=MERGE_TOKENS)


def _groups(notes: Sequence[str], work: Desk[Any]) -> list[list[str]]:
    room = work.room(new_tokens=MERGE_TOKENS)
    groups: list[list[str]] = [[]]
    for note in _clip_each(notes, room // 2, work):
        if groups[-1] and work.engine.count_tokens("\n".join([*groups[-1], note])) > room:
            groups.append([])
        groups[-1].append(note)
    return groups


def _clip_each(notes: Sequence[str], most: int, work: Desk[Any]) -> list[str]:
    return [split_to_budget(note, most, work.engine.count_tokens)[0] for note in notes]


def _clip(notes: Sequence[str], budget: int, work: Desk[Any]) -> list[str]:
    """An equal share of the budget for each note."""
    return _clip_each(notes, max(budget // len(notes) - 1, 8), work)
