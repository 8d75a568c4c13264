"""The prompts of the kinds. Every wording is data: one file per language beside this one; here it is chosen and filled.

The languages are those of the multilingual checkpoint. A job whose `language` is another one, or whose engine is to be
told in English, gets the English wording and a sentence that names its language.
"""

from __future__ import annotations

import tomllib
import unicodedata
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from domain.errors import SetupError
from tasks.planning import clock

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from importlib.resources.abc import Traversable

    from domain.params import Copywrite, Params, Summarize

LANGUAGES = ("en", "zh", "ja", "fr", "ko", "de")
OTHER_LANGUAGES = "languages"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wording:
    """A language's file: its keys are these fields, en.toml explains them. `name` is the language's own and `english`
    the one in English, `names` are what users may call it; `words` are the most words of a summary (characters in
    Chinese, Japanese and Korean)."""

    name: str
    english: str
    names: tuple[str, ...]
    page: str
    span: str
    note: str
    in_language: str
    read_page: str
    hint: str
    describe_picture: str
    describe_scene: str
    digest: str
    digest_about: str
    join_digests: str
    summary: str
    summary_about: str
    copy: str
    for_audience: str
    in_tone: str
    answer: str
    question: str
    synopsis: str
    styles: Mapping[str, str]
    channels: Mapping[str, str]
    words: Mapping[str, int]

    @property
    def longest(self) -> str:
        """Longer than any instruction around a source: what a budget of tokens must leave room for."""
        styles, channels = max(self.styles.values(), key=_size), max(self.channels.values(), key=_size)
        asked = (
            self.digest + self.digest_about,
            self.join_digests,
            self.summary + styles + self.summary_about,
            self.copy + channels + self.for_audience + self.in_tone,
            self.answer,
            self.synopsis,
        )
        return max(asked, key=_size) + self.in_language + self.name


def _size(text: str) -> int:
    return len(text.encode())


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """What is said to a model in one job. `in_language` is the sentence that names the language, or nothing."""

    wording: Wording
    in_language: str = ""

    @property
    def read_page(self) -> str:
        return self.wording.read_page

    @property
    def describe_picture(self) -> str:
        return self.wording.describe_picture.format(in_language=self.in_language)

    @property
    def describe_scene(self) -> str:
        return self.wording.describe_scene.format(in_language=self.in_language)

    def hint(self, text: str) -> str:
        """A sentence that lends a reader the spelling of a text that may be wrong."""
        return self.wording.hint.format(text=text)

    def label(self, spec: Mapping[str, Any]) -> str:
        """What a model is told of the place of a part: page 3, or 0:05-0:12."""
        if "page" in spec:
            return self.wording.page.format(number=spec["page"])
        return self.wording.span.format(start=clock(spec["start"]), end=clock(spec["end"]))

    def note(self, spec: Mapping[str, Any], text: str) -> str:
        return self.wording.note.format(label=self.label(spec), text=text)

    def digest(self, text: str, *, label: str, focus: str | None) -> str:
        about = self.wording.digest_about.format(focus=focus) if focus else ""
        return self.wording.digest.format(text=text, label=label, about=about)

    def join_digests(self, notes: str) -> str:
        return self.wording.join_digests.format(notes=notes)

    def summary(self, notes: str, params: Summarize) -> str:
        return self.wording.summary.format(
            notes=notes,
            style=self.wording.styles[params.style],
            words=self.wording.words[params.length],
            about=self.wording.summary_about.format(focus=params.focus) if params.focus else "",
            in_language=self.in_language,
        )

    def copy(self, facts: str, params: Copywrite) -> str:
        return self.wording.copy.format(
            facts="\n".join(text for text in (params.brief, facts) if text),
            channel=self.wording.channels[params.channel],
            for_audience=self.wording.for_audience.format(audience=params.audience) if params.audience else "",
            in_tone=self.wording.in_tone.format(tone=params.tone) if params.tone else "",
            words=params.max_words,
            in_language=self.in_language,
        )

    def answer(self, question: str, evidence: str) -> str:
        return self.wording.answer.format(question=question, evidence=evidence, in_language=self.in_language)

    def question(self, question: str) -> str:
        """A question about the pictures of the request."""
        return self.wording.question.format(question=question, in_language=self.in_language)

    def synopsis(self, captions: str) -> str:
        return self.wording.synopsis.format(captions=captions, in_language=self.in_language)


def of_params(params: Params, *, in_english: bool = False) -> Prompts:
    """The prompts of a job: in its `language`. `ocr` has none and writes what it reads, so the first of its `languages`
    chooses there."""
    listed = getattr(params, "languages", None) or (None,)
    return for_language(getattr(params, "language", None) or listed[0], in_english=in_english)


def for_language(language: str | None, *, in_english: bool = False) -> Prompts:
    """The prompts for answers in a language, by name or code. `in_english`, or where the language has no file, they are
    English and name the language."""
    english = wording("en")
    if language is None:
        return Prompts(wording=english)
    meant = _meant(language)
    if isinstance(meant, Wording) and not in_english:
        return Prompts(wording=meant, in_language=meant.in_language.format(language=meant.name))
    called = meant.english if isinstance(meant, Wording) else meant
    return Prompts(wording=english, in_language=english.in_language.format(language=called))


def _meant(language: str) -> Wording | str:
    """The wording of a language, or its English name; what the user wrote if that is not known here."""
    for form in _forms(language):
        if (code := _codes().get(form)) is not None:
            return wording(code)
        if (name := _other_languages().get(form)) is not None:
            return name
    return language.strip()


def _forms(language: str) -> Iterator[str]:
    """What to look up, the most exact first: zh-hans-cn, zh-hans, zh (the lookup of RFC 4647, section 3.4)."""
    form = _folded(language)
    while form:
        yield form
        form = form.rpartition("-")[0]


def _folded(language: str) -> str:
    return unicodedata.normalize("NFKC", language).strip().casefold().replace("_", "-")


@cache
def wording(code: str) -> Wording:
    """The wording in one of LANGUAGES.

    Raises:
        SetupError: the file is not as it should be.
    """
    file = files(__name__) / f"{code}.toml"
    table = _read(file)
    try:
        return Wording(**{key: _frozen(value) for key, value in table.items()})
    except TypeError as error:  # a key too many or too few
        raise SetupError(f"{file}: {error}; the keys are those of en.toml") from error


@cache
def _codes() -> Mapping[str, str]:
    """The codes of LANGUAGES by what users may call them."""
    return MappingProxyType({_folded(name): code for code in LANGUAGES for name in wording(code).names})


@cache
def _other_languages() -> Mapping[str, str]:
    """English names by code."""
    return MappingProxyType(_read(files(__name__) / f"{OTHER_LANGUAGES}.toml"))


def _read(file: Traversable) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SetupError(f"{file} cannot be read: {error}") from error


def _frozen(value: Any) -> Any:
    match value:
        case list():
            return tuple(value)
        case dict():
            return MappingProxyType(value)
    return value
