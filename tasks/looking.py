"""Looking at one part: its text, by the layer or by the engine's eyes, or a description of what it shows."""

from __future__ import annotations

from dataclasses import astuple, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from domain.errors import Code, SourceError
from tasks import layout
from tasks.crosscheck import check_layer
from tasks.guards import Mark, agreement, guarded, shares_nothing
from tasks.text import count_words
from worker.engines.base import Purpose, Request, Turn
from worker.engines.reading_order import as_found
from worker.readers.base import Media

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tasks.crosscheck import Check
    from tasks.work import PartWork
    from worker.engines.base import RGB, Completion, Line
    from worker.engines.reading_order import Box
    from worker.readers.base import Frames, Page, TextLayer

READ_TOKENS = 1024
DESCRIBE_TOKENS = 96
ENOUGH_WORDS = 5
"""A page with fewer words than this is looked at as a picture."""
LETTER_WORDS = 40
"""A picture with at least so many words on it is a page of text."""
HINT_BYTES = 300
"""Most bytes of a text layer in a hint: three lines of English or a hundred Chinese characters, and so 300 tokens at
most, whatever the tokenizer."""
HONEST = (
    "the page is a picture with hardly any text",
    "the text layer leaves out ink (letters drawn as outlines)",
)
"""Reasons against a layer that has too little text, but the right one. The others (worker/readers/layer.py) say that
its letters are rubbish, or the guesses of an earlier OCR that nobody sees."""


LEVEL = 0.005
"""Rise of a line over its length: at most 10 pixels over a page."""
INVISIBLE = "invisible text of an earlier OCR"
"""The reason against such a layer; the text that is read takes its place in a searchable PDF."""
WRONG = "the text layer does not say what the picture shows"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What was found on a part. `data["how"]` says by what: layer, image, blank, described.

    `lines` are for laying text out; `found` are the same lines as results show them: text, box (left, top, right,
    bottom in pixels of the page's picture) and confidence (None for a text layer).
    """

    text: str
    lines: tuple[layout.TextLine, ...] = ()
    found: tuple[dict[str, Any], ...] = ()
    data: dict[str, Any] = field(default_factory=dict)


def read_page(work: PartWork[Any], page: Page, *, mode: str = "auto", check: bool = False) -> Seen:
    """The text of a page: its layer where that can be trusted, else what the engine reads in the picture. With `check`,
    a few lines of a layer are held against the picture before it is taken. Blank pages never meet the model, so that
    no text is invented for them.

    Raises:
        SourceError: mode is "text" and the page has no text layer.
    """
    if page.blank:
        return Seen(text="", data={**page_facts(page), "how": "blank", "blank": True})
    if mode == "text" and page.layer is None:
        raise SourceError(f"page {page.number} has no text layer (mode=text)", code=Code.PAGE_DAMAGED)
    if page.layer is None or mode == "image" or (mode == "auto" and not page.layer.trusted):
        return _read_picture(work, page)
    checked = check_layer(work, page) if check and page.layer.trusted else None
    if checked is not None and checked.is_wrong and mode == "auto":
        return _read_picture(work, replace(page, layer=replace(page.layer, trusted=False, reason=WRONG)))
    return _read_layer(page, page.layer, checked, as_filed=mode == "text")


def _read_layer(page: Page, layer: TextLayer, checked: Check | None, *, as_filed: bool) -> Seen:
    """`as_filed`: all in the order of the file, in plain text the words of tables too; else in the order of reading."""
    lines = layout.from_layer(layer.lines, layer.tables, as_filed=as_filed)
    plain = layout.from_layer(layer.lines, as_filed=True) if as_filed else lines
    found = tuple(_found(line.text, line.box, None) for line in layer.lines)
    tables = [(line.box, line.cells) for line in lines if line.cells]
    data: dict[str, Any] = {**page_facts(page), **_tables(tables), "how": "layer"}
    if checked is not None:
        data["agreement"] = checked.agreement
    if layer.cut:
        data["marks"] = [Mark.TRUNCATED]
    return Seen(text=layout.to_text(plain), lines=lines, found=found, data=data)


def _read_picture(work: PartWork[Any], page: Page) -> Seen:
    hint = spelling(page.layer)
    seen = read_image(work, page.image, hint=work.prompts.hint(hint) if hint else "")
    return replace(seen, data=_merged(page_facts(page), _why(page), seen.data, _compared(seen.text, page.layer)))


def _compared(text: str, layer: TextLayer | None) -> dict[str, Any]:
    """How far what was read agrees with the layer, if there is a good one to compare with."""
    if layer is None or not layer.trusted:
        return {}
    marks = {"marks": [Mark.UNLIKE_LAYER]} if shares_nothing(text, layer.text) else {}
    return {"agreement": round(agreement(text, layer.text), 4), **marks}


def _tables(tables: Iterable[tuple[Box, layout.Cells]]) -> dict[str, Any]:
    """The cells of the page's tables, for programs: rows of texts, None where a merged cell covers."""
    found = [{"box": _rounded(astuple(box)), "rows": [list(row) for row in rows]} for box, rows in tables]
    return {"tables": found} if found else {}


def _merged(*groups: dict[str, Any]) -> dict[str, Any]:
    """All of them; warnings and marks of several are put together."""
    merged: dict[str, Any] = {name: value for group in groups for name, value in group.items()}
    for name in ("warnings", "marks"):
        if together := [one for group in groups for one in group.get(name, ())]:
            merged[name] = together
    return merged


def spelling(layer: TextLayer | None) -> str:
    """The beginning of a layer, on one line, as a help for an engine that reads the picture; empty where it might
    mislead. Words with characters that nobody can read are left out."""
    if layer is None or not (layer.trusted or layer.reason in HONEST):
        return ""
    legible = " ".join(word for word in layer.text.split() if word.isprintable() and "\ufffd" not in word)
    if len(legible.encode()) <= HINT_BYTES:
        return legible
    cut = legible.encode()[:HINT_BYTES].decode(errors="ignore")
    end = cut.rfind(" ", len(cut) // 2)  # a script without spaces has no words to keep whole
    return cut[:end] if end > 0 else cut


def read_image(work: PartWork[Any], image: RGB, *, hint: str = "") -> Seen:
    """The text that a picture shows, by the engine."""
    request = Request(
        purpose=Purpose.READ,
        turns=(Turn(role="user", text=work.prompts.read_page),),
        images=(image,),
        languages=getattr(work.params, "languages", ()),
        hint=hint,
        max_new_tokens=READ_TOKENS,
    )
    completion = guarded(work.complete, request)
    read = completion.lines[0] if completion.lines else ()
    lines = layout.from_engine(read)
    text = layout.to_text(lines) if lines else completion.text
    found = tuple(_recognized(line) for line in layout.in_reading_order(read))
    quads = [line.box for line in read if line.text.strip()]
    tables = [(as_found(line.box, quads), line.cells) for line in lines if line.cells]
    return Seen(text=text, lines=lines, found=found, data={**_tables(tables), "how": "image", **completion.facts})


def _bounds(line: Line) -> tuple[float, float, float, float]:
    across, down = zip(*line.box, strict=True)
    return min(across), min(down), max(across), max(down)


def _found(text: str, box: tuple[float, float, float, float], confidence: float | None) -> dict[str, Any]:
    return {
        "text": text,
        "box": _rounded(box),
        "confidence": None if confidence is None else round(confidence, 4),
    }


def _recognized(line: Line) -> dict[str, Any]:
    """A recognized line; with its corners where it is not level, because a box says nothing of its direction then."""
    found = _found(line.text, _bounds(line), line.confidence)
    (left, top), (right, slope), *_ = line.box
    if right - left > 0 and abs(slope - top) <= LEVEL * (right - left):
        return found
    return {**found, "quad": [round(value, 1) for corner in line.box for value in corner]}


def _rounded(box: tuple[float, float, float, float]) -> list[float]:
    return [round(edge, 1) for edge in box]


def _why(page: Page) -> dict[str, Any]:
    """Why the text layer was passed over."""
    return {"layer": page.layer.reason} if page.layer is not None and page.layer.reason else {}


def page_facts(page: Page) -> dict[str, Any]:
    height, width = page.image.shape[:2]
    facts: dict[str, Any] = {"width": width, "height": height, "turned": page.rotation}
    if page.warnings:
        facts["warnings"] = list(page.warnings)
    return facts


def frame_facts(frames: Frames) -> dict[str, Any]:
    """The true times of the frames. `damaged` marks a part of which something could not be decoded."""
    facts: dict[str, Any] = {"times": [round(moment, 3) for moment in frames.times]}
    if frames.warnings:
        facts["warnings"] = list(frames.warnings)
    if frames.lost:
        facts["damaged"] = True
    return facts


def look(work: PartWork[Any]) -> Seen:
    """What a part says or shows, as text that a language model can work with."""
    if work.is_video:
        return _describe_segment(work)
    page = work.page()
    if work.probe.media is Media.IMAGE and not page.blank:
        return _look_at_picture(work, page)
    seen = read_page(work, page)
    if count_words(seen.text) >= ENOUGH_WORDS or seen.data["how"] == "blank":
        return seen
    described = describe(work, page.image)
    return Seen(text=f"{described.text} {seen.text}".strip(), data={**seen.data, "how": "described"})


def _look_at_picture(work: PartWork[Any], page: Page) -> Seen:
    completion = describe(work, page.image)
    lines = layout.from_engine(completion.lines[0]) if completion.lines else ()
    text = layout.to_text(lines)
    if count_words(text) >= LETTER_WORDS:
        return Seen(text=text, lines=lines, data={**page_facts(page), "how": "image"})
    return Seen(text=completion.text, lines=lines, data={**page_facts(page), **described_data(completion)})


def _describe_segment(work: PartWork[Any], *, count: int = 3) -> Seen:
    frames = work.frames(count=count)
    completion = describe_scene(work, frames)
    return Seen(text=completion.text, data={**described_data(completion), **frame_facts(frames)})


def describe(work: PartWork[Any], image: RGB) -> Completion:
    return _described(work, Request(images=(image,)), prompt=work.prompts.describe_picture)


def describe_scene(work: PartWork[Any], frames: Frames) -> Completion:
    return _described(work, Request(images=frames.images, clip=True), prompt=work.prompts.describe_scene)


def _described(work: PartWork[Any], request: Request, *, prompt: str) -> Completion:
    turns = (Turn(role="user", text=prompt),)
    asked = replace(request, purpose=Purpose.DESCRIBE, turns=turns, max_new_tokens=DESCRIBE_TOKENS)
    return guarded(work.complete, asked)


def described_data(completion: Completion) -> dict[str, Any]:
    """What the experts saw, for programs: labels with their confidence, and the text that stands in the pictures."""
    labels: dict[str, float] = {}
    for label in (label for one in completion.labels for label in one):
        labels[label.name] = max(labels.get(label.name, 0.0), round(label.confidence, 4))
    texts = [line.text for one in completion.lines for line in one]
    data: dict[str, Any] = {"how": "described", **completion.facts}
    if labels:
        data["labels"] = [{"name": name, "confidence": confidence} for name, confidence in labels.items()]
    if texts:
        data["text_seen"] = list(dict.fromkeys(texts))
    return data
