"""What is said about a text that an engine wrote: whether it runs in circles, is cut off, is rubbish, or is missing.

An engine stops a cycle while it decodes, where it can (worker/engines/scheduler.py); here the text is looked at once
more, because an engine may be anybody's. A text that fails is asked for once more, at another temperature. What fails
again is kept as far as it goes, and marked; the rest of the job goes on.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from worker.engines.base import Completion, FinishReason, Purpose, Sampling
from worker.engines.scheduler import repetition_start

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from domain.jobs import Part
    from worker.engines.base import Request

AGAIN = Sampling(temperature=0.7, top_p=0.9, seed=1)
"""A model that ran into a cycle greedily mostly leaves it with a little chance; the seed keeps the result the same."""
GRAM = 5
"""Two texts are compared by the runs of so many letters that they share: blind to order and to white space. English
pages that have nothing to do with each other share 0.01 to 0.07 of these, a badly read hand and its letter 0.4."""
FEW_LETTERS = 20
"""Shorter texts are neither called rubbish nor unlike: a logo, a page number, a name."""
UNLIKE = 0.1
MOST_UNKNOWN, LEAST_LEGIBLE, MOST_NONSENSE = 0.1, 0.3, 0.4
"""Shares of the signs of a text, and of its letters."""
LONG_CONSONANTS = 5
VOWEL = re.compile(r"[aeiouyæøœıəɛɔ]")
LONG_WORD = 60
"""Letters without a space; no language that has spaces writes so long a word, but for addresses and code."""


class Mark(StrEnum):
    """What a reader of a part's text should know. Stable names (docs/kinds.md)."""

    SUSPECT = "suspect"  # the text ran in circles, twice; it is cut where the circle began
    RETRIED = "retried"  # the first text was not fit; this one is the second
    TRUNCATED = "truncated"  # the text ends before the page does
    EMPTY = "empty"  # there is ink, and nothing was read
    GARBLED = "garbled"  # letters without sense
    UNLIKE_LAYER = "unlike_layer"  # the text shares nothing with a good text layer


def guarded(complete: Callable[[Request], Completion], request: Request) -> Completion:
    """The completion of a request, asked for twice where the first text is not fit; `facts["marks"]` says what is wrong
    with it. Engines that recognize line by line do not loop, and give the same again: they are asked once."""
    first = complete(request)
    marks = marks_of(first, purpose=request.purpose)
    if first.lines or not marks & _WORTH_ANOTHER:
        return _marked(first, marks)
    second = complete(replace(request, sampling=AGAIN))
    again = marks_of(second, purpose=request.purpose)
    if len(again & _WORTH_ANOTHER) > len(marks & _WORTH_ANOTHER):
        return _marked(first, marks | {Mark.RETRIED})
    return _marked(second, again | {Mark.RETRIED})


_WORTH_ANOTHER = frozenset({Mark.SUSPECT, Mark.GARBLED, Mark.EMPTY})


def marks_of(completion: Completion, *, purpose: Purpose) -> frozenset[Mark]:
    marks: set[Mark] = set()
    if completion.finish_reason is FinishReason.REPETITION:
        marks.add(Mark.SUSPECT)
    if completion.finish_reason in {FinishReason.LENGTH, FinishReason.DEADLINE}:
        marks.add(Mark.TRUNCATED)
    if completion.lines and any(completion.lines):
        return frozenset(marks)
    if not completion.text.strip():
        marks.update({Mark.EMPTY} if purpose is Purpose.READ else ())
    elif cycle_start(completion.text) is not None:
        marks.add(Mark.SUSPECT)
    elif is_garbled(completion.text):
        marks.add(Mark.GARBLED)
    return frozenset(marks)


def _marked(completion: Completion, marks: frozenset[Mark]) -> Completion:
    facts: dict[str, Any] = {**completion.facts, "marks": sorted(marks)} if marks else dict(completion.facts)
    start = cycle_start(completion.text) if Mark.SUSPECT in marks else None
    return replace(completion, text=completion.text[:start], facts=facts)


def cycle_start(text: str) -> int | None:
    """Where a text begins to run in circles up to its end: the place after the first round, in characters; or None. By
    words, or by characters in a script without spaces (the rule is that of worker/engines/scheduler.py)."""
    spaced = len(text.split()) * LONG_WORD > len(text)
    pieces = list(re.finditer(r"\S+" if spaced else r"\S", text))
    found = _cycle_of(pieces)
    if found is None and len(pieces) > 1:
        found = _cycle_of(pieces[:-1])  # the last word may be cut off
    return None if found is None else pieces[found - 1].end()


def _cycle_of(pieces: Sequence[re.Match[str]]) -> int | None:
    ids = {piece: n for n, piece in enumerate(dict.fromkeys(piece[0] for piece in pieces))}
    return repetition_start([ids[piece[0]] for piece in pieces])


def is_garbled(text: str) -> bool:
    """Whether a text is no writing: signs that stand for no character, a jumble of scripts, or hardly a letter."""
    signs = [character for character in text if not character.isspace()]
    if len(signs) < FEW_LETTERS:
        return False
    legible = sum(character.isalnum() or unicodedata.category(character).startswith("M") for character in signs)
    unknown = sum(character == "\ufffd" or unicodedata.category(character) in {"Co", "Cn", "Cc"} for character in signs)
    return (
        unknown > MOST_UNKNOWN * len(signs) or legible < LEAST_LEGIBLE * len(signs) or _nonsense(text) > MOST_NONSENSE
    )


def _nonsense(text: str) -> float:
    """The share of the letters that stand in words which nobody writes: of several scripts, or long and without a vowel
    in Latin script."""
    letters = nonsense = 0
    for word in re.findall(r"[^\W\d_]+", text):
        letters += len(word)
        nonsense += len(word) if _is_nonsense(word) else 0
    return nonsense / letters if letters else 0.0


def _is_nonsense(word: str) -> bool:
    scripts = {_script(letter) for letter in word} - {"MODIFIER"}
    if len(scripts) > 1:
        return "CJK" not in scripts
    bare = unicodedata.normalize("NFKD", word).casefold()
    return scripts == {"LATIN"} and len(word) >= LONG_CONSONANTS and not VOWEL.search(bare)


def _script(letter: str) -> str:
    name = unicodedata.name(letter, "UNKNOWN").partition(" ")[0]
    return "CJK" if name in {"CJK", "HIRAGANA", "KATAKANA", "HALFWIDTH", "FULLWIDTH"} else name


def agreement(one: str, other: str) -> float:
    """How much of two texts is the same, 0 to 1, whatever the order: Dice's coefficient of their runs of letters."""
    first, second = _grams(one), _grams(other)
    total = first.total() + second.total()
    return 2 * (first & second).total() / total if total else 1.0


def _grams(text: str) -> Counter[str]:
    letters = "".join(filter(str.isalnum, unicodedata.normalize("NFKC", text).casefold()))
    return Counter(letters[n : n + GRAM] for n in range(max(1, len(letters) - GRAM + 1))) if letters else Counter()


def shares_nothing(text: str, layer: str) -> bool:
    """Whether a text has hardly a run of letters in common with a good layer of the same page."""
    enough = min(sum(map(str.isalnum, text)), sum(map(str.isalnum, layer))) >= FEW_LETTERS
    return enough and agreement(text, layer) < UNLIKE


def count_marks(parts: Iterable[Part]) -> dict[str, int]:
    """How many parts carry each mark."""
    counts = Counter(mark for part in parts for mark in part.data.get("marks", ()))
    return {mark: counts[mark] for mark in sorted(counts)}
