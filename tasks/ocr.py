"""Kind `ocr`: the text of every page, with boxes and confidence, and how it was read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from domain.kinds import Kind
from tasks import layout, prompts
from tasks.looking import READ_TOKENS, Seen, frame_facts, read_page
from tasks.planning import label, plan_parts
from tasks.work import Finished
from worker.engines.base import Purpose, Request, Turn

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
    seen = read_page(work, work.page(), mode=work.params.mode)
    text = layout.to_markdown(seen.lines) if seen.lines and work.params.output == "markdown" else seen.text
    return Finished(text=text, data={**seen.data, **_lines(seen)})


def _lines(seen: Seen) -> dict[str, Any]:
    lines = [
        {"text": line.text, "box": [round(edge, 1) for edge in line.box], "confidence": _rounded(line.confidence)}
        for line in seen.lines
    ]
    known = [line.confidence for line in seen.lines if line.confidence is not None]
    return {"lines": lines, "confidence": _rounded(sum(known) / len(known)) if known else None}


def _rounded(confidence: float | None) -> float | None:
    return None if confidence is None else round(confidence, 4)


def _run_segment(work: PartWork[Ocr]) -> Finished:
    """On-screen text: that of the frame in the middle of the segment."""
    frames = work.frames(count=1)
    turns = (Turn(role="user", text=prompts.READ_PAGE),)
    completion = work.complete(
        Request(purpose=Purpose.READ, turns=turns, images=frames.images, max_new_tokens=READ_TOKENS)
    )
    lines = layout.from_engine(completion.lines[0]) if completion.lines else ()
    seen = Seen(text=layout.to_text(lines) if lines else completion.text, lines=lines, data={"how": "image"})
    return Finished(text=seen.text, data={**seen.data, **_lines(seen), **frame_facts(frames)})


def finish(work: JobWork[Ocr]) -> Finished:
    """The pages one after the other. Text output puts a form feed between pages, as pdftotext does."""
    texts = [part.text or "" for part in work.good]
    plain = work.params.output == "text"
    text = "\f".join(texts) if plain else "\n\n".join(piece for piece in texts if piece)
    how = [{"part": label(part.spec), "how": part.data.get("how")} for part in work.good]
    suffix, media_type = ("txt", "text/plain") if plain else ("md", "text/markdown")
    return Finished(text=text, data={"pages": how}, files=((f"text.{suffix}", media_type, text.encode()),))
