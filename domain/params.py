"""What a job is asked to do: its kind and its params, one pydantic model per kind. Unknown keys are refused by name."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

from domain.errors import ParamsError
from domain.kinds import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


_RANGE = re.compile(r"\s*(\d+)\s*(?:(-)\s*(\d+)?\s*)?")


def parse_pages(text: str) -> tuple[tuple[int, int | None], ...]:
    """Ranges of a page list: "1-3,7,10-" gives ((1, 3), (7, 7), (10, None)).

    Raises:
        ValueError: for anything else, naming the piece.
    """
    ranges = []
    for piece in text.split(","):
        match = _RANGE.fullmatch(piece)
        if not match:
            raise ValueError(f"pages: {piece!r} is not a page or a range such as 3, 1-4 or 7-")
        first = int(match[1])
        last = None if match[2] and not match[3] else int(match[3] or first)
        if first < 1 or (last is not None and last < first):
            raise ValueError(f"pages: {piece.strip()!r} must count up from page 1")
        ranges.append((first, last))
    return tuple(ranges)


def select_pages(text: str | None, total: int) -> tuple[int, ...]:
    """The pages 1..total that the list names, in order, each once. None means all; pages past the end are left out."""
    if text is None:
        return tuple(range(1, total + 1))
    chosen: set[int] = set()
    for first, last in parse_pages(text):
        chosen.update(range(first, min(total, total if last is None else last) + 1))
    return tuple(sorted(chosen))


def _checked_pages(text: str) -> str:
    parse_pages(text)
    return text


def _checked_language(text: str) -> str:
    if not text.isprintable() or not any(character.isalpha() for character in text):
        raise ValueError(f"{text!r} is not the name or the code of a language, such as German, Deutsch or de")
    return text


Pages = Annotated[str, AfterValidator(_checked_pages), Field(max_length=1000)]
Language = Annotated[str, Field(min_length=2, max_length=40), AfterValidator(_checked_language)]
"""A language as people write it: its English name, its own name, or a code (German, Deutsch, de, de-AT). Any language
may be asked for; docs/prompts.md says what a kind makes of it."""
_BY_NAME = "by name or code (German, Deutsch, de)"


class Params(BaseModel):
    """The base of all params. `password` opens an encrypted document; it is never part of what is stored as params."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: ClassVar[Kind]

    password: SecretStr | None = Field(default=None, exclude=True, description="Password of an encrypted document.")

    def to_json(self) -> dict[str, Any]:
        """What the row stores: only what was set, and no password."""
        return self.model_dump(mode="json", exclude_unset=True)


class Ocr(Params):
    kind: ClassVar[Kind] = Kind.OCR

    mode: Literal["auto", "image", "text"] = Field(
        default="auto",
        description="auto: the text layer where it is good, else the image. image: always the image. "
        "text: only the text layer, in the order of the file.",
    )
    pages: Pages | None = Field(default=None, description='Pages to read, such as "1-3,7,10-"; all by default.')
    languages: tuple[Language, ...] = Field(
        default=("en",),
        min_length=1,
        description=f"Languages of the text in pictures, {_BY_NAME}; the engine warns of those that it cannot read.",
    )
    output: Literal["markdown", "text"] = Field(default="markdown", description="Form of the text.")
    outputs: tuple[Literal["markdown", "text", "hocr", "pdf"], ...] = Field(
        default=(),
        max_length=4,
        description="Files to make beside that of `output`: hocr for the places of the words, pdf for the pages with "
        "an invisible layer of the text to search in.",
    )
    check_layer: bool = Field(
        default=True,
        description="In auto mode, hold a few lines of a text layer against the picture, if the engine reads line by "
        "line; where they differ, the picture is read.",
    )


class Summarize(Params):
    kind: ClassVar[Kind] = Kind.SUMMARIZE

    length: Literal["short", "medium", "long"] = Field(default="medium", description="Length of the summary.")
    style: Literal["paragraph", "bullets", "executive"] = Field(default="paragraph", description="Form of the summary.")
    language: Language | None = Field(
        default=None, description=f"Language of the summary, {_BY_NAME}; that of the source if unset."
    )
    focus: str | None = Field(default=None, max_length=500, description="What the reader cares about.")
    pages: Pages | None = Field(default=None, description="Pages to summarize; all by default.")


class Copywrite(Params):
    kind: ClassVar[Kind] = Kind.COPYWRITE

    brief: str | None = Field(
        default=None, max_length=8000, description="What to write about; needed without a source."
    )
    channel: Literal["product_page", "email", "social", "ad", "press"] = Field(
        default="product_page",
        description="Where the copy will stand. social holds 280 characters and 3 hashtags, ad 180 characters and no "
        "hashtag, the others no hashtag.",
    )
    tone: str | None = Field(default=None, max_length=200, description='Tone, such as "warm and plain".')
    audience: str | None = Field(default=None, max_length=200, description="Who it is for.")
    language: Language | None = Field(default=None, description=f"Language of the copy, {_BY_NAME}.")
    variants: int = Field(default=1, ge=1, le=10, description="How many versions to write.")
    max_words: int = Field(default=120, ge=5, le=1000, description="Most words of one version.")
    pages: Pages | None = Field(default=None, description="Pages of the source to use; all by default.")


class Caption(Params):
    kind: ClassVar[Kind] = Kind.CAPTION

    segment: Literal["scene", "seconds"] = Field(default="scene", description="Cut at scene changes or evenly.")
    seconds: float = Field(default=10.0, ge=0.5, le=3600, description="Length of a segment with segment=seconds.")
    frames: int = Field(default=4, ge=1, le=32, description="Frames looked at per segment.")
    language: Language | None = Field(default=None, description=f"Language of the captions, {_BY_NAME}.")
    pages: Pages | None = Field(default=None, description="Pages to caption where the source is a document.")


class ChatTurn(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    role: Literal["user", "assistant"]
    text: str = Field(min_length=1, max_length=8000)


class Ask(Params):
    kind: ClassVar[Kind] = Kind.ASK

    question: str | None = Field(default=None, min_length=1, max_length=8000, description="The question.")
    turns: tuple[ChatTurn, ...] | None = Field(
        default=None,
        max_length=50,
        description="A conversation instead of one question: user and assistant in turn, the user last.",
    )
    language: Language | None = Field(default=None, description=f"Language of the answer, {_BY_NAME}.")
    pages: Pages | None = Field(default=None, description="Pages to look at; all by default.")

    @model_validator(mode="after")
    def _one_of(self) -> Ask:
        if (self.question is None) == (self.turns is None):
            raise ValueError("give either question or turns")
        if self.turns is not None:
            _check_order(self.turns)
        return self


def _check_order(turns: Sequence[ChatTurn]) -> None:
    if not turns or turns[-1].role != "user":
        raise ValueError("the last of the turns must be the user's")
    for number, (one, next_one) in enumerate(pairwise(turns), start=1):
        if one.role == next_one.role:
            raise ValueError(
                f"turns {number} and {number + 1} are both the {one.role}'s; user and assistant speak in turn"
            )


PARAMS: Mapping[Kind, type[Params]] = {model.kind: model for model in (Summarize, Ocr, Copywrite, Caption, Ask)}


def check_params(kind: Kind, values: Mapping[str, Any]) -> Params:
    """The params model of `kind` made from plain values.

    Raises:
        ParamsError: naming each wrong key, what was found and what is allowed.
    """
    model = PARAMS[kind]
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise ParamsError("; ".join(_explain(model, error))) from error


def _explain(model: type[Params], error: ValidationError) -> Iterable[str]:
    for problem in error.errors(include_url=False, include_input=False):
        key = ".".join(str(step) for step in problem["loc"])
        if problem["type"] == "extra_forbidden":
            known = ", ".join(sorted(model.model_fields))
            yield f"unknown param {key!r} for {model.kind}; known are {known}"
        else:
            yield f"param {key}: {problem['msg']}" if key else f"params of {model.kind}: {problem['msg']}"
