"""The guards behind an engine: each fault is caught, marked and survived, and an honest text is left alone."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from domain.errors import Code
from domain.limits import Limits
from domain.params import Caption, Ocr
from domain.states import JobState, PartState
from nightowl.cli import show
from tasks.guards import agreement, cycle_start, is_garbled, shares_nothing
from tests.tasks.conftest import Sheet, StandInReaders, WatchedEngine
from worker.engines.base import Completion, FinishReason, Purpose

if TYPE_CHECKING:
    from pathlib import Path

    from domain.jobs import Job, Part
    from tests.tasks.conftest import MakeWorker
    from worker.engines.base import Request

PROSE = (
    "The tawny owl calls in the wood behind the mill. Two of them were seen on the third evening, and one was heard "
    "again before dawn; the keeper wrote down the hour and the place."
)
CIRCLE = "The owl is in the tree. " * 40
NOISE = "".join(random.Random(5).choices("\ufffd\ue000\x91ÞЖ갈ب₪", k=200))
MUMBLE = " ".join("".join(random.Random(n).choices("bcdfghklmnprstvwxz", k=8)) for n in range(30))


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (CIRCLE, "The owl is in the tree."),
        ("A title.\n" + "and so on " * 60, "A title.\nand so on"),
        (f"{PROSE} " + "go " * 80 + "g", f"{PROSE} go"),
        ("猫頭鷹" * 40, "猫頭鷹"),
    ],
)
def test_a_circle_is_found_where_it_begins(text: str, kept: str) -> None:
    start = cycle_start(text)
    assert start is not None
    assert text[:start] == kept


@pytest.mark.parametrize(
    "text",
    ["", "owl", PROSE, "| 0 | 0 | 0 |\n" * 5, "- " * 40, "0 " * 20, "ho ho ho ho", " ".join(map(str, range(300)))],
)
def test_what_only_repeats_a_little_is_no_circle(text: str) -> None:
    assert cycle_start(text) is None


@pytest.mark.parametrize("text", [NOISE, MUMBLE, "Оwl аnd Нawk " * 12, "%$ §§ // ~~ ## ==" * 10])
def test_rubbish_is_told(text: str) -> None:
    assert is_garbled(text)


@pytest.mark.parametrize(
    "text",
    [
        PROSE,
        "Größe: 12,5 m² (±0,3)\nÄnderung vom 3.4.2019",
        "夜のフクロウが森の中で静かに文書を読んでいますからとても賢い",
        "Сова читает ночью и спит днём, так говорят",
        "تعتبر البرمجة بلغة من الأدوات القوية التي",
        "Krk Brno strč prst skrz krk",
        "BRDR HTTP XML 4711 AB12-CD34 " * 3,
        "short",
    ],
)
def test_writing_is_no_rubbish(text: str) -> None:
    assert not is_garbled(text)


def test_agreement_is_blind_to_order_case_and_space() -> None:
    sentences = PROSE.split(". ")
    assert agreement(PROSE, PROSE.upper().replace(" ", "\n")) == 1
    assert agreement(PROSE, ". ".join(reversed(sentences))) > 0.9
    assert agreement(PROSE, PROSE.replace("e", "c", 2)) > 0.9
    assert agreement(PROSE, MUMBLE) < 0.05
    assert (agreement("", ""), agreement(PROSE, "")) == (1, 0)
    assert shares_nothing(MUMBLE, PROSE)
    assert not shares_nothing("7", PROSE)


class Pathological:
    """An engine's reply by the page, whose number is the picture's shade: loops, nothing, no end, rubbish, and right.

    `heals` says whether a second try, which is not greedy, comes out right."""

    def __init__(self, *, heals: bool = False) -> None:
        self.heals = heals
        self.asked: list[tuple[int, float]] = []

    def __call__(self, request: Request) -> Completion | None:
        if request.purpose is Purpose.WRITE or not request.images:
            return None
        page = int(request.images[0][0, 0, 0])
        self.asked.append((page, request.sampling.temperature))
        if self.heals and request.sampling.temperature:
            return Completion(text=PROSE, finish_reason=FinishReason.STOP)
        return {
            1: Completion(text=PROSE + "\n" + CIRCLE, finish_reason=FinishReason.STOP),
            2: Completion(text=PROSE, finish_reason=FinishReason.REPETITION),
            3: Completion(text=" \n", finish_reason=FinishReason.STOP),
            4: Completion(text=PROSE, finish_reason=FinishReason.LENGTH),
            5: Completion(text=NOISE, finish_reason=FinishReason.STOP),
            6: Completion(text=PROSE, finish_reason=FinishReason.STOP),
            7: Completion(text=" ".join(map(str, range(3000))), finish_reason=FinishReason.STOP),
        }[page]


def read_with(make_worker: MakeWorker, source: Path, engine: Pathological) -> tuple[Job, list[Part]]:
    readers = StandInReaders(*(Sheet() for _ in range(7)))
    worker = make_worker(readers, engine=WatchedEngine(reply=engine), limits=Limits(max_text_chars=4000))
    job = worker.do(Ocr(), source)
    return job, worker.parts(job.id)


def test_a_pathological_engine_is_caught_marked_and_survived(make_worker: MakeWorker, file: Path) -> None:
    engine = Pathological()
    job, parts = read_with(make_worker, file, engine)
    assert job.state is JobState.SUCCEEDED
    assert [part.data["marks"] for part in parts] == [
        ["retried", "suspect"],
        ["retried", "suspect"],
        ["empty", "retried"],
        ["truncated"],
        ["garbled", "retried"],
        [],
        ["truncated"],
    ]
    assert parts[0].text == f"{PROSE}\nThe owl is in the tree."
    assert parts[5].text == PROSE
    assert len(parts[6].text or "") == 4000
    assert [page for page, temperature in sorted(engine.asked) if temperature] == [1, 2, 3, 5]
    assert job.result is not None
    assert job.result.data["marks"] == {"empty": 1, "garbled": 1, "retried": 4, "suspect": 2, "truncated": 2}
    assert show.marks(job) == "1 empty, 1 garbled, 4 retried, 2 suspect, 2 truncated"
    assert show.marks(job) in show.outcome(job)


def test_a_second_try_that_comes_out_right_is_taken(make_worker: MakeWorker, file: Path) -> None:
    job, parts = read_with(make_worker, file, Pathological(heals=True))
    assert job.state is JobState.SUCCEEDED
    assert [part.data["marks"] for part in parts[:3]] == [["retried"]] * 3
    assert {part.text for part in parts[:3]} == {PROSE}


def test_a_page_that_never_ends_costs_its_time_and_nothing_else(make_worker: MakeWorker, file: Path) -> None:
    def endless(request: Request) -> Completion:
        assert request.deadline_at is not None
        text = PROSE if int(request.images[0][0, 0, 0]) == 1 else ""
        return Completion(text=text, finish_reason=FinishReason.DEADLINE)

    worker = make_worker(
        StandInReaders(*(Sheet() for _ in range(2)), "A page with a layer."), engine=WatchedEngine(reply=endless)
    )
    job = worker.do(Ocr(), file)
    cut, late, good = worker.parts(job.id)
    assert job.state is JobState.PARTIAL
    assert (cut.text, cut.data["marks"]) == (PROSE, ["truncated"])
    assert late.state is PartState.FAILED
    assert late.error is not None
    assert late.error.code == Code.DEADLINE
    assert (good.text, good.data["marks"]) == ("A page with a layer.", [])


def test_what_shares_nothing_with_a_good_layer_is_marked(make_worker: MakeWorker, file: Path) -> None:
    readers = StandInReaders(PROSE, PROSE, Sheet(text=PROSE, trusted=False))
    engine = WatchedEngine(
        reply=lambda request: PROSE if int(request.images[0][0, 0, 0]) == 1 else "Nothing of the kind: fog, rain, mud."
    )
    worker = make_worker(readers, engine=engine)
    job = worker.do(Ocr(mode="image"), file)
    good, other, unknown = worker.parts(job.id)
    assert (good.data["marks"], good.data["confidence"]) == ([], 1.0)
    assert other.data["marks"] == ["unlike_layer"]
    assert other.data["confidence"] < 0.1
    assert (unknown.data["marks"], unknown.data["confidence"]) == ([], None)


def test_a_description_that_runs_in_circles_is_marked_too(make_worker: MakeWorker, clip: Path) -> None:
    worker = make_worker(engine=WatchedEngine(reply=lambda request: CIRCLE if request.clip else None))
    job = worker.do(Caption(), clip)
    assert [part.data["marks"] for part in worker.parts(job.id)] == [["retried", "suspect"]] * 2
    assert {part.text for part in worker.parts(job.id)} == {"The owl is in the tree."}
    assert job.state is JobState.SUCCEEDED
