from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from domain.errors import Code, SourceError
from domain.jobs import Job
from domain.kinds import Kind
from domain.limits import Limits
from domain.params import Caption, Ocr, Params
from domain.states import JobState
from tasks.planning import clock, label, plan_parts, where
from tasks.work import Planning
from worker.readers.base import Media, Open, Probe, Segment, Segmenting


@dataclass
class Cutter:
    """Readers that only know where the scenes of a video are."""

    asked: Segmenting | None = None

    def segments(self, source: Open, how: Segmenting, *, cancel: threading.Event | None) -> tuple[Segment, ...]:
        self.asked = how
        return (Segment(number=1, start=0.0, end=2.5), Segment(number=2, start=2.5, end=4.0))


@dataclass
class Desk:
    readers: Cutter


def work(
    media: Media, *, pages: int = 0, params: Params | None = None, cutter: Cutter | None = None, max_pages: int = 9
) -> Planning[Any]:
    return Planning(
        context=cast("Any", Desk(cutter or Cutter())),
        job=Job(id="1", kind=Kind.OCR, state=JobState.PENDING),
        params=params or Ocr(),
        source=Open(path=Path("/x/a.pdf"), limits=Limits(max_pages=max_pages)),
        probe=Probe(media=media, format="x", pages=pages),
        stop=threading.Event(),
    )


@pytest.mark.parametrize(
    ("media", "pages", "asked", "chosen"),
    [
        (Media.DOCUMENT, 3, None, [1, 2, 3]),
        (Media.DOCUMENT, 5, "4-,2", [2, 4, 5]),
        (Media.DOCUMENT, 3, "2-99", [2, 3]),
        (Media.DOCUMENT, 100_000, "7,99999", [7, 99_999]),
        (Media.IMAGE, 1, None, [1]),
        (Media.IMAGE, 4, "3", [3]),
    ],
)
def test_one_part_per_chosen_page(media: Media, pages: int, asked: str | None, chosen: list[int]) -> None:
    assert plan_parts(work(media, pages=pages, params=Ocr(pages=asked))) == [{"page": page} for page in chosen]


def test_too_many_pages_are_refused_with_the_number_the_limit_and_the_ways_out() -> None:
    with pytest.raises(SourceError) as caught:
        plan_parts(work(Media.DOCUMENT, pages=10))
    assert caught.value.code is Code.TOO_MANY_PAGES
    message = caught.value.message
    assert all(fact in message for fact in ("a.pdf", "10", "9", "NIGHTOWL_LIMITS__MAX_PAGES", "pages"))
    assert len(plan_parts(work(Media.DOCUMENT, pages=10, params=Ocr(pages="2-")))) == 9


def test_pages_past_the_end_are_refused_where_none_is_left() -> None:
    with pytest.raises(SourceError) as caught:
        plan_parts(work(Media.DOCUMENT, pages=3, params=Ocr(pages="7,10-")))
    assert caught.value.code is Code.NO_PAGES
    assert caught.value.message == "a.pdf has 3 pages; none of the pages 7,10- exists"


def test_a_document_without_pages_is_refused_in_words_that_make_sense() -> None:
    with pytest.raises(SourceError) as caught:
        plan_parts(work(Media.DOCUMENT, pages=0))
    assert caught.value.code is Code.NO_PAGES
    assert "None" not in caught.value.message


def test_a_video_is_cut_as_the_kind_says() -> None:
    cutter, how = Cutter(), Segmenting(mode="seconds", seconds=5)
    parts = plan_parts(work(Media.VIDEO, cutter=cutter, params=Caption()), how=how)
    assert parts == [{"start": 0.0, "end": 2.5}, {"start": 2.5, "end": 4.0}]
    assert cutter.asked == how


def test_a_video_is_cut_at_its_scenes_where_the_kind_says_nothing_and_pages_mean_nothing() -> None:
    cutter = Cutter()
    assert len(plan_parts(work(Media.VIDEO, cutter=cutter, params=Ocr(pages="9")))) == 2
    assert cutter.asked == Segmenting(mode="scene")


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0:00"), (5.4, "0:05"), (59.6, "1:00"), (754.2, "12:34"), (3599.7, "1:00:00"), (3725, "1:02:05")],
)
def test_the_clock(seconds: float, shown: str) -> None:
    assert clock(seconds) == shown


def test_what_people_call_a_part_and_how_results_cite_it() -> None:
    assert label({"page": 3}) == "page 3"
    assert label({"start": 5.2, "end": 72.0}) == "0:05-1:12"
    assert where({"page": 3}) == {"page": 3}
    assert where({"start": 5.2, "end": 72.0}) == {"start": 5.2, "end": 72.0}
