"""Kind `summarize`: a digest of every part, then a tree of merges that stays inside the context, then the summary."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from domain.errors import Code, SourceError
from domain.kinds import Kind
from tasks import grounding
from tasks.digests import made_once
from tasks.grounding import Checked, Known
from tasks.looking import look
from tasks.planning import plan_parts, where
from tasks.text import count_words, limit_words, sentences, split_to_budget, words
from tasks.work import Finished

if TYPE_CHECKING:
    from collections.abc import Sequence

    from domain.jobs import Part
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
BULLET = "-• "
MERGE_WORDS = 110
"""Most words of a merged note."""
LEAST_CITED = 0.5
"""Share of a sentence's words that a digest must have to be cited for it."""
NEARLY_AS_GOOD, MOST_CITED = 0.1, 3
"""Digests that support a sentence nearly as well as the best one are cited too, the first three."""


def plan(work: Planning[Summarize]) -> list[Spec]:
    return plan_parts(work)


def run(work: PartWork[Summarize]) -> Finished:
    return digest_part(work, focus=work.params.focus)


def digest_part(work: PartWork[Any], *, focus: str | None) -> Finished:
    """The digest of a page or a segment, with the numbers and names that its text has; made once per source."""

    def make() -> Finished:
        seen = look(work)
        digested = digest(work, seen.text, where=work.prompts.label(work.part.spec), focus=focus)
        facts = {
            "words": count_words(seen.text),
            "method": digested.method,
            "known": grounding.known(seen.text).to_json(),
        }
        return Finished(text=digested.text, data={**seen.data, **facts})

    return made_once(work, make, focus=focus)


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
    translated = work.params.language is not None
    marks = {
        "unsupported": grounding.foreign(text, known_of(work.good), with_names=not translated),
        "citations": [] if translated else cite(text, work.good),
        "key_points": key_points(work),
        "digests": dict(Counter(part.data.get("method", "model") for part in work.good if part.text)),
    }
    return Finished(text=text, data={**data, **marks})


def known_of(parts: Sequence[Part], *, also: str = "") -> Known:
    """The numbers and names of all pages, of what was said of them, and of another text."""
    texts = [*(part.text or "" for part in parts), also]
    said = grounding.known("\n\n".join(texts))
    words_said = {word for text in texts for word in words(text)}
    pages = [part.data.get("known", {}) for part in parts]
    return Known(
        numbers=said.numbers.union(*(page.get("numbers", ()) for page in pages)),
        names=said.names.union(words_said, *(page.get("names", ()) for page in pages)),
    )


def cite(text: str, parts: Sequence[Part]) -> list[dict[str, Any]]:
    """Each sentence with the places of the parts whose digests support it best; none where no digest does."""
    said = [part for part in parts if part.text]
    plain = [sentence.lstrip(BULLET) for sentence in sentences(text.replace("\n- ", "\n\n- "))]
    return [{"text": sentence, "sources": _sources(sentence, said)} for sentence in plain]


def _sources(sentence: str, parts: Sequence[Part]) -> list[dict[str, Any]]:
    shares = [(grounding.support(sentence, part.text or ""), part) for part in parts]
    best = max((share for share, _ in shares), default=0.0)
    if best < LEAST_CITED:
        return []
    return [where(part.spec) for share, part in shares if share >= best - NEARLY_AS_GOOD][:MOST_CITED]


def _summary(work: JobWork[Summarize], notes: str, room: int) -> tuple[str, dict[str, Any]]:
    written = work.write(work.prompts.summary(notes, work.params), max_new_tokens=room)
    if work.params.language is not None:
        return written, {"method": "model", "checked": False}  # a translation shares no words with its source
    # Every note is a paragraph of its own, or the end of one would run into the next.
    source = "\n\n".join(part.text for part in work.good if part.text)
    checked = grounding.check(written, source, most_words=work.prompts.wording.words[work.params.length])
    data = {"method": checked.method, "checked": True, "dropped": list(checked.dropped)}
    if work.params.style == "bullets":
        return "\n".join(f"- {sentence.lstrip(BULLET)}" for sentence in sentences(checked.text)), data
    return checked.text, data


def key_points(work: JobWork[Any]) -> list[dict[str, Any]]:
    """The first sentence of every digest, with its page or its times."""
    return [{**where(part.spec), "text": sentences(part.text)[0].lstrip(BULLET)} for part in work.good if part.text]


def reduce_notes(work: Desk[Any], notes: Sequence[str], *, budget: int) -> list[str]:
    """Merge neighbouring notes, level by level, until all fit the budget; the order of the document is kept."""
    count = work.engine.count_tokens
    while count("\n".join(notes)) > budget:
        merged = _merge_level(work, _groups(notes, work))
        if count("\n".join(merged)) >= count("\n".join(notes)):
            return _clip(merged, budget, work)  # a model that does not shorten must not loop for ever
        notes = merged
    return list(notes)


def _merge_level(work: Desk[Any], groups: Sequence[Sequence[str]]) -> list[str]:
    """One note of each group. What a merge adds to its notes is left out; notes that it does not keep to are cut."""
    several = [group for group in groups if len(group) > 1]
    prompts = [work.prompts.join_digests("\n".join(group)) for group in several]
    written = iter(work.write_all(prompts, max_new_tokens=MERGE_TOKENS))
    return [_kept(next(written), group) if len(group) > 1 else group[0] for group in groups]


def _kept(written: str, notes: Sequence[str]) -> str:
    return grounding.check(written, "\n\n".join(notes), most_words=MERGE_WORDS).text


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
