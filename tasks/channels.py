"""What a channel takes: how long a text may be, and how many hashtags it may have. Texts are cut to it, and say so."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.text import count_words, limit_words

if TYPE_CHECKING:
    from collections.abc import Mapping

_HASHTAG = re.compile(r"(?<![\w&])#(?!\d+\b)\w+")
_END = re.compile(r"[.!?](?=\s|$)|[。！？]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """`characters` is the most a text may have, hashtags and all; None for no limit but that of words."""

    characters: int | None = None
    hashtags: int = 0


CHANNELS: Mapping[str, Channel] = {
    "product_page": Channel(),
    "email": Channel(),
    "social": Channel(characters=280, hashtags=3),
    "ad": Channel(characters=180),
    "press": Channel(),
}
"""Social: the shortest post that the big services take, and as many hashtags as their own guides advise at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """A text that fits, with its measures. `cut`: something of it was left out for that."""

    text: str
    words: int
    characters: int
    hashtags: int
    cut: bool

    def to_json(self) -> dict[str, Any]:
        return {"words": self.words, "characters": self.characters, "hashtags": self.hashtags, "cut": self.cut}


def fit(text: str, *, channel: str, max_words: int) -> Fitted:
    """At most so many words, and what the channel takes: surplus hashtags go first, then what is too long."""
    limits = CHANNELS[channel]
    whole = text.strip()
    fitted = limit_words(_with_hashtags(whole, limits.hashtags), max_words)
    if limits.characters is not None:
        fitted = _shortened(fitted, limits.characters)
    return Fitted(
        text=fitted,
        words=count_words(fitted),
        characters=len(fitted),
        hashtags=len(_HASHTAG.findall(fitted)),
        cut=fitted != whole,
    )


def _with_hashtags(text: str, most: int) -> str:
    """Without the hashtags after the first `most`; inside a sentence the word stays, without its sign."""
    found = list(_HASHTAG.finditer(text))[most:]
    for match in reversed(found):
        tail = _HASHTAG.sub("", text[match.start() :]).strip()
        word = "" if not tail else match.group()[1:]
        text = text[: match.start()] + word + text[match.end() :]
    return re.sub(r"[ \t]+(?=\n|$)", "", re.sub(r"[ \t]{2,}", " ", text)).strip()


def _shortened(text: str, most: int) -> str:
    """Ends at a sentence's end where that leaves half of what is allowed, else between words, with an ellipsis."""
    if len(text) <= most:
        return text
    ends = [match.end() for match in _END.finditer(text) if match.end() <= most]
    if ends and ends[-1] >= most / 2:
        return text[: ends[-1]]
    head = text[: most - 2]
    return head[: head.rfind(" ")].rstrip(" ,;:") + " …" if " " in head else head + " …"
