"""Kind `ocr`: the text of every page, with boxes and confidence, and how it was read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from domain.kinds import Kind
from tasks import layout
from tasks.looking import Seen, frame_facts, read_image, read_page
from tasks.planning import label, plan_parts
from tasks.work import Finished

if TYPE_CHECKING:
    from domain.params import Ocr
    from tasks.planning import Spec
    from tasks.work import JobWork, PartWork, Planning

kind = Kind.OCR
needs_source = True


def plan(work: Planning[Ocr]) -> list[Spec]:
    return plan_parts(work)


def run(work: PartWork[Ocr]) -> Finished:
    if work.is_video:
        return _run_segment(work)
    seen = read_page(work, work.page(), mode=work.params.mode, check=work.params.check_layer)
    text = layout.to_markdown(seen.lines) if seen.lines and work.params.output == "markdown" else seen.text
    return Finished(text=text, data={**seen.data, **_lines(seen)})


def _lines(seen: Seen) -> dict[str, Any]:
    """The lines, and how sure the text is: the agreement of layer and picture where both were read, else the mean of
    the lines' confidences; None for a text layer that was not compared."""
    known = [line["confidence"] for line in seen.found if line["confidence"] is not None]
    mean = round(sum(known) / len(known), 4) if known else None
    return {"lines": list(seen.found), "confidence": seen.data.get("agreement", mean)}


def _run_segment(work: PartWork[Ocr]) -> Finished:
    """On-screen text: that of the frame in the middle of the segment."""
    frames = work.frames(count=1)
    seen = read_image(work, frames.images[0])
    return Finished(text=seen.text, data={**seen.data, **_lines(seen), **frame_facts(frames)})


def finish(work: JobWork[Ocr]) -> Finished:
    """The pages one after the other. Text output puts a form feed between pages, as pdftotext does."""
    texts = [part.text or "" for part in work.good]
    plain = work.params.output == "text"
    text = "\f".join(texts) if plain else "\n\n".join(piece for piece in texts if piece)
    how = [{"part": label(part.spec), "how": part.data.get("how")} for part in work.good]
    suffix, media_type = ("txt", "text/plain") if plain else ("md", "text/markdown")
    return Finished(text=text, data={"pages": how}, files=((f"text.{suffix}", media_type, text.encode()),))
