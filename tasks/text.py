"""Small questions about plain text: sentences, words, pieces that fit a budget, passages that fit a question."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
_WORD = re.compile(rf"[{_CJK}]|[^\W{_CJK}]+")
_TOKEN = re.compile(rf"[{_CJK}]|[^\s{_CJK}]+")
_SENTENCE = re.compile(r".*?(?:[.!?][\"')\]”’]*(?=\s|$)|[。！？][\"')\]”’」』]*|$)", re.DOTALL)
_PARAGRAPH = re.compile(r"\n\s*\n")
PASSAGE_WORDS = 120
_FORM = """
a an and are be been by can could did do does for from had has have how in is it its many me much of on or should tell
that the their there these they this to was were what when where which who whom whose why will with would you
"""
FORM_WORDS = frozenset(_FORM.split())
"""Words that make an English sentence a question and say nothing of what it asks about."""


def sentences(text: str) -> list[str]:
    """Split at sentence ends and empty lines; line breaks inside a sentence become spaces."""
    paragraphs = [" ".join(paragraph.split()) for paragraph in _PARAGRAPH.split(text)]
    return [piece.strip() for paragraph in paragraphs for piece in _SENTENCE.findall(paragraph) if piece.strip()]


def words(text: str) -> list[str]:
    """The words in lower case without signs; Chinese, Japanese and Korean text by its characters."""
    return [word.lower() for word in _WORD.findall(text)]


def content_words(question: str) -> list[str]:
    """The words of a question that say what it is about; all of them where none does."""
    found = words(question)
    return [word for word in found if word not in FORM_WORDS] or found


def count_words(text: str) -> int:
    """What stands between spaces; Chinese, Japanese and Korean text by its characters."""
    return len(_TOKEN.findall(text))


def limit_words(text: str, most: int) -> str:
    """At most that many words, ending at a sentence end where at least half of them remain, else with an ellipsis."""
    text = text.strip()
    tokens = list(_TOKEN.finditer(text))
    if len(tokens) <= most:
        return text
    head = text[: tokens[most - 1].end()]
    whole = [match.end() for match in _SENTENCE.finditer(text) if match.group().strip() and match.end() <= len(head)]
    if whole and count_words(head[: whole[-1]]) >= most / 2:
        return head[: whole[-1]]
    return head.rstrip(",;:") + " …"


def alike(one: str, other: str) -> float:
    """How much two texts are the same words in the same order, 0 to 1."""
    return SequenceMatcher(None, words(one), words(other), autojunk=False).ratio()


def split_to_budget(text: str, budget: int, count: Callable[[str], int]) -> list[str]:
    """Cut a text into consecutive pieces of at most `budget` tokens, between sentences where it can be."""
    if count(text) <= budget:
        return [text]
    pieces: list[str] = []
    current = ""
    for sentence in _short_enough(sentences(text), budget, count):
        longer = f"{current} {sentence}".strip()
        if current and count(longer) > budget:
            pieces.append(current)
            longer = sentence
        current = longer
    return [*pieces, current] if current else pieces


def _short_enough(parts: Iterable[str], budget: int, count: Callable[[str], int]) -> Iterable[str]:
    """Halve any part that is over the budget by itself."""
    for part in parts:
        if count(part) <= budget or len(part) < 2:
            yield part
        else:
            middle = part.rfind(" ", 0, len(part) // 2 + 1)
            middle = middle if middle > 0 else len(part) // 2
            yield from _short_enough((part[:middle].strip(), part[middle:].strip()), budget, count)


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """A stretch of the text of part `number`."""

    number: int
    text: str


def passages(number: int, text: str) -> list[Passage]:
    """Stretches of about 120 words, cut between sentences."""
    pieces = split_to_budget(text, PASSAGE_WORDS, count_words) if text.strip() else []
    return [Passage(number=number, text=piece) for piece in pieces]


def best_passages(
    question: str, candidates: Sequence[Passage], *, budget: int, count: Callable[[str], int]
) -> list[Passage]:
    """The passages that share the rarest words with the question, within the budget, in their own order.

    Scored by the sum of the inverse document frequencies of shared words (the idf of BM25, Robertson & Zaragoza 2009).
    """
    asked = set(content_words(question))
    bags = [set(words(passage.text)) for passage in candidates]
    frequency = Counter(word for bag in bags for word in bag & asked)
    weight = {word: math.log(1 + (len(bags) - n + 0.5) / (n + 0.5)) for word, n in frequency.items()}
    related = [index for index, bag in enumerate(bags) if bag & asked] or range(len(candidates))
    ranked = sorted(related, key=lambda i: -sum(weight[word] for word in bags[i] & asked))
    chosen, used = [], 0
    for index in ranked:
        size = count(candidates[index].text) + 8
        if used + size <= budget:
            chosen.append(index)
            used += size
    return [candidates[index] for index in sorted(chosen)]
