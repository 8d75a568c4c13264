"""What is compared of a text: its words, folded so that form does not count."""

from __future__ import annotations

import re
import unicodedata

_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
_TOKEN = re.compile(rf"[{_CJK}]|[^\W_{_CJK}]+")
_BROKEN = re.compile(r"(\w)-\s*\n\s*([a-z])")
_PAGE_MARK = re.compile(r"^=== page \d+ ===$", re.MULTILINE)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_RULE = re.compile(r"^[ \t]*\|?(?:[ \t]*:?-{2,}:?[ \t]*\|?)+[ \t]*$", re.MULTILINE)
_FENCE = re.compile(r"^\s*```.*$", re.MULTILINE)
_HEAD = re.compile(r"^\s{0,3}(?:#{1,6}|>)\s+", re.MULTILINE)
_BULLET = re.compile(r"^(\s*)[-*+]\s+", re.MULTILINE)
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
_MARKS = re.compile(r"\*\*|__|`|(?<!\w)[*_](?=\w)|(?<=\w)[*_](?!\w)")
_ESCAPE = re.compile(r"\\([\\`*_{}\[\]()#+.!|<>&-])")


def tokens(text: str) -> list[str]:
    """Words in lower case without signs; Chinese, Japanese and Korean text by its characters."""
    return [token.lower() for token in _TOKEN.findall(unicodedata.normalize("NFKC", text))]


def folded(text: str, *, caseless: bool = False) -> str:
    """On one line: white space is one space, and a word broken at the end of a line is whole."""
    whole = " ".join(_BROKEN.sub(r"\1\2", unicodedata.normalize("NFC", text)).split())
    return whole.lower() if caseless else whole


def without_page_marks(text: str) -> str:
    return _PAGE_MARK.sub("", text.replace("\f", "\n"))


def without_markdown(text: str) -> str:
    """The words of a Markdown text: no heading marks, bullets, table lines, emphasis, links, comments."""
    for pattern in (_COMMENT, _RULE, _FENCE, _HEAD):
        text = pattern.sub("", text)
    text = _MARKS.sub("", _LINK.sub(r"\1", _BULLET.sub(r"\1", text)))
    return _ESCAPE.sub(r"\1", text.replace("|", " "))
