"""The plans that kinds share: pages of documents and images, segments of videos."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from domain.errors import Code, SourceError
from domain.params import select_pages
from worker.readers.base import Media, Segmenting

if TYPE_CHECKING:
    from tasks.work import Planning

Spec = dict[str, Any]


def plan_parts(work: Planning[Any], *, how: Segmenting | None = None) -> list[Spec]:
    """One part per chosen page, or per segment of a video.

    Raises:
        SourceError: too many pages, or none of those asked for exists.
    """
    if work.probe.media is Media.VIDEO:
        return [{"start": segment.start, "end": segment.end} for segment in work.segments(how or Segmenting())]
    chosen = select_pages(work.params.pages, work.probe.pages)
    if not chosen:
        raise SourceError(
            f"{work.source.label} has {work.probe.pages} pages; none of the pages {work.params.pages} exists"
            if work.params.pages
            else f"{work.source.label} has no pages",
            code=Code.NO_PAGES,
        )
    work.source.limits.check_pages(len(chosen), name=work.source.label)
    return [{"page": page} for page in chosen]


def label(spec: Any) -> str:
    """What people call a part: page 3, or 0:05-0:12."""
    return f"page {spec['page']}" if "page" in spec else f"{clock(spec['start'])}-{clock(spec['end'])}"


def clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def where(spec: Any) -> dict[str, Any]:
    """A part's place, as results cite it."""
    return {"page": spec["page"]} if "page" in spec else {"start": spec["start"], "end": spec["end"]}
