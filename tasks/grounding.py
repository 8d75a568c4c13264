"""Whether a generated text keeps to its source, and what to say instead where it does not.

A small language model loops and invents. Each sentence that it writes is held against the source: its numbers must
stand there, and most of its words; a sentence that was said before, or that was cut off, is dropped. Where too little
is left, sentences of the source itself are taken, and the result says so (`method`: "model" or "extractive").
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.text import count_words, limit_words, sentences, words

if TYPE_CHECKING:
    from collections.abc import Sequence

LEAST_SUPPORT = 0.65
"""Share of a sentence's words that must stand in the source. Chosen on SmolLM2's summaries of the sample report: those
that kept to the text had 0.7 and more, invented ones 0.2 to 0.5."""
LEAST_WORDS = 6
LONGEST_SENTENCE = 45
SHORT_WORD = 3
_NUMBER = re.compile(r"\d+")
_I = re.compile(r"\bI(?=[ '’])")
_LONG_WORD = re.compile(r"[^\W\d_]{2,}")
_END = re.compile(r"[.!?。！？:;][\"')\]”’]*$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What may be kept of a text. `method` is "model", or "extractive" where the source's own sentences took its place;
    `dropped` are the sentences that the source does not support."""

    text: str
    method: str
    dropped: tuple[str, ...] = ()


def support(text: str, source: str) -> float:
    """Share of the longer words of a text that stand in the source, by their first five letters (0 to 1)."""
    stems = {word[:5] for word in words(source)}
    longer = [word for word in words(text) if len(word) > SHORT_WORD or not word.isascii()]
    return sum(word[:5] in stems for word in longer) / len(longer) if longer else 1.0


def has_foreign_numbers(text: str, source: str) -> bool:
    """Whether a number of the text does not stand in the source."""
    return not set(_NUMBER.findall(text)) <= set(_NUMBER.findall(source))


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """The numbers and the names that stand in a source; names in lower case."""

    numbers: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()

    def to_json(self) -> dict[str, list[str]]:
        return {"numbers": sorted(self.numbers), "names": sorted(self.names)}


def known(text: str) -> Known:
    """What a page vouches for: its numbers, and its words that begin with a capital or have no case."""
    capital = {word.lower() for word in _LONG_WORD.findall(text) if not word.islower()}
    return Known(numbers=frozenset(_NUMBER.findall(text)), names=frozenset(capital))


def foreign(text: str, source: Known, *, with_names: bool = True) -> list[dict[str, Any]]:
    """The sentences with numbers or names that the source does not have, and which.

    A name is a word with a capital that does not begin its sentence; a script without capitals has none.
    """
    found = []
    for sentence in sentences(text):
        numbers = [number for number in dict.fromkeys(_NUMBER.findall(sentence)) if number not in source.numbers]
        names = [name for name in _names(sentence) if name.lower() not in source.names] if with_names else []
        if numbers or names:
            found.append({"text": sentence, "numbers": numbers, "names": names})
    return found


def _names(sentence: str) -> list[str]:
    inside = list(_LONG_WORD.finditer(sentence))[1:]
    return list(dict.fromkeys(m.group() for m in inside if m.group()[0].isupper() and not _begins(sentence, m.start())))


def _begins(sentence: str, at: int) -> bool:
    """Whether something begins there: after a colon, a quote or a dash a capital says nothing."""
    return sentence[:at].rstrip()[-1:] in ":“„«\"'(-–—•"


def check(text: str, source: str, *, most_words: int, least_words: int = LEAST_WORDS) -> Checked:
    """Keep the sentences that the source supports; if less than `least_words` are left, take the source's own."""
    kept: list[str] = []
    dropped: list[str] = []
    for sentence in sentences(text):
        if sentence in kept or sentence in dropped:
            continue
        good = support(sentence, source) >= LEAST_SUPPORT and not has_foreign_numbers(sentence, source)
        good = good and not _is_about_itself(sentence, source)
        (kept if good and is_whole(sentence) else dropped).append(sentence)
    if count_words(" ".join(kept)) >= least_words:
        return Checked(text=limit_words(" ".join(kept), most_words), method="model", dropped=tuple(dropped))
    return Checked(text=extract(source, most_words=most_words), method="extractive", dropped=tuple(dropped))


def _is_about_itself(sentence: str, source: str) -> bool:
    """ "I have shortened the text": a model that speaks of its work, where nobody in the source says I."""
    return bool(_I.search(sentence)) and not _I.search(source)


def is_whole(sentence: str) -> bool:
    """Whether it ends as a sentence does: a generation that reached its length is cut off in the middle of one."""
    return bool(_END.search(sentence))


def extract(source: str, *, most_words: int) -> str:
    """The sentences of a text whose words are the most frequent in it, in their order (Nenkova & Vanderwende, 2005)."""
    candidates = [sentence for sentence in dict.fromkeys(sentences(source)) if _is_prose(sentence)]
    if not candidates:
        return limit_words(" ".join(source.split()), most_words)
    chosen: list[str] = []
    for sentence in _ranked(candidates, source):
        if count_words(" ".join([*chosen, sentence])) <= most_words:
            chosen.append(sentence)
    chosen = chosen or [limit_words(_ranked(candidates, source)[0], most_words)]
    return " ".join(sorted(chosen, key=lambda sentence: candidates.index(sentence) if sentence in candidates else 0))


def _ranked(candidates: Sequence[str], source: str) -> list[str]:
    frequency = Counter(word for word in words(source) if len(word) > SHORT_WORD or not word.isascii())

    def score(sentence: str) -> float:
        counted = [frequency[word] for word in words(sentence)]
        return sum(counted) / len(counted) if counted else 0.0

    return sorted(candidates, key=score, reverse=True)


def _is_prose(sentence: str) -> bool:
    """Not a row of a table, a heading or a footer."""
    length = count_words(sentence)
    numbers = sum(bool(_NUMBER.search(piece)) for piece in sentence.split())
    return LEAST_WORDS <= length <= LONGEST_SENTENCE and numbers <= length / 3 and is_whole(sentence)
