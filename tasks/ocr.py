"""Kind `ocr`: the text of every page, with boxes and confidence, and how it was read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from domain.errors import Code, ReaderError, SourceError
from domain.kinds import Kind
from tasks import layout
from tasks.hocr import HocrPage, quad_of, to_hocr
from tasks.looking import INVISIBLE, Seen, frame_facts, read_image, read_page
from tasks.planning import label, plan_parts
from tasks.source import open_source
from tasks.work import Finished
from worker.readers.base import Media, PlacedText, ReadPage
from worker.readers.ink import is_blank

if TYPE_CHECKING:
    from collections.abc import Iterator

    from domain.jobs import Part
    from domain.params import Ocr
    from tasks.planning import Spec
    from tasks.work import JobWork, PartWork, Planning

kind = Kind.OCR
needs_source = True

File: TypeAlias = tuple[str, str, bytes]
"""Name, media type, content."""

SUFFIX = {"markdown": ("md", "text/markdown"), "text": ("txt", "text/plain")}


def plan(work: Planning[Ocr]) -> list[Spec]:
    if work.probe.media is Media.VIDEO and (wanted := {"hocr", "pdf"} & set(work.params.outputs)):
        raise SourceError(
            f"{work.source.label} is a video; outputs={','.join(sorted(wanted))} is for documents and images",
            code=Code.PARAMS_INVALID,
        )
    return plan_parts(work)


def run(work: PartWork[Ocr]) -> Finished:
    if work.is_video:
        return _run_segment(work)
    seen = read_page(work, work.page(), mode=work.params.mode, check=work.params.check_layer)
    forms = {"markdown": layout.to_markdown(seen.lines) if seen.lines else seen.text, "text": seen.text}
    other = {form: forms[form] for form in work.params.outputs if form in forms and form != work.params.output}
    return Finished(
        text=forms[work.params.output], data={**seen.data, **_lines(seen), **({"other": other} if other else {})}
    )


def _lines(seen: Seen) -> dict[str, Any]:
    """The lines, and how sure the text is: the agreement of layer and picture where both were read, else the mean of
    the lines' confidences; None for a text layer that was not compared."""
    known = [line["confidence"] for line in seen.found if line["confidence"] is not None]
    mean = round(sum(known) / len(known), 4) if known else None
    return {"lines": list(seen.found), "confidence": seen.data.get("agreement", mean)}


def _run_segment(work: PartWork[Ocr]) -> Finished:
    """On-screen text: that of the frame in the middle of the segment. An empty one is not shown to the engine."""
    frames = work.frames(count=1)
    if is_blank(frames.images[0]):
        seen = Seen(text="", data={"how": "blank", "blank": True})
    else:
        seen = read_image(work, frames.images[0])
    other = {form: seen.text for form in work.params.outputs if form in SUFFIX and form != work.params.output}
    data = {**seen.data, **_lines(seen), **frame_facts(frames), **({"other": other} if other else {})}
    return Finished(text=seen.text, data=data)


def finish(work: JobWork[Ocr]) -> Finished:
    """The pages one after the other, and the files that were asked for. One that cannot be made is a warning: the text
    is there."""
    output = work.params.output
    text = _merged([part.text or "" for part in work.good], form=output)
    data: dict[str, Any] = {"pages": [{"part": label(part.spec), "how": part.data.get("how")} for part in work.good]}
    files = [_text_file(text, form=output)]
    for wanted in dict.fromkeys(work.params.outputs):
        try:
            files.extend(_file(work, wanted))
        except (SourceError, ReaderError) as error:
            data.setdefault("warnings", []).append(f"outputs={wanted}: {error.message}")
    return Finished(text=text, data=data, files=tuple(files))


def _file(work: JobWork[Ocr], wanted: str) -> Iterator[File]:
    """The file of one of `outputs`; none for the form that `output` has."""
    if wanted == "hocr":
        yield "text.hocr", "text/html", to_hocr(_hocr_pages(work), title=work.job.name).encode()
    elif wanted == "pdf":
        yield "searchable.pdf", "application/pdf", _searchable(work)
    elif wanted != work.params.output:
        texts = [part.data.get("other", {}).get(wanted, "") for part in work.good]
        yield _text_file(_merged(texts, form=wanted), form=wanted)


def _merged(texts: list[str], *, form: str) -> str:
    """Text output puts a form feed between pages, as pdftotext does."""
    return "\f".join(texts) if form == "text" else "\n\n".join(piece for piece in texts if piece)


def _text_file(text: str, *, form: str) -> File:
    suffix, media_type = SUFFIX[form]
    return f"text.{suffix}", media_type, text.encode()


def _hocr_pages(work: JobWork[Ocr]) -> Iterator[HocrPage]:
    for part in work.good:
        yield HocrPage(
            number=part.spec["page"],
            width=part.data["width"],
            height=part.data["height"],
            lines=tuple(part.data.get("lines", ())),
        )


def _searchable(work: JobWork[Ocr]) -> bytes:
    """The pages of the source, those that failed too, with the text that was recognized."""
    with open_source(work.context, work.job) as source:
        if source is None:
            raise SourceError("the job has no source", code=Code.SOURCE_MISSING)
        pages = [_read_page(part) for part in work.parts]
        return work.context.readers.searchable(source, pages, cancel=work.stop).tobytes()


def _read_page(part: Part) -> ReadPage:
    """A page that was read by its own layer has it already."""
    number = part.spec["page"]
    if part.data.get("how") != "image":
        return ReadPage(number=number)
    lines = tuple(PlacedText(text=line["text"], quad=quad_of(line)) for line in part.data.get("lines", ()))
    return ReadPage(
        number=number,
        width=part.data["width"],
        height=part.data["height"],
        lines=lines,
        replaces=part.data.get("layer") == INVISIBLE,
    )
