"""A few lines of a text layer are held against the picture, and a layer that says something else is passed over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from domain.params import Ocr, Summarize
from domain.states import JobState
from tasks.crosscheck import LINES
from tests.tasks.conftest import WatchedEngine
from worker.engines.base import Completion, FinishReason, Line

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.tasks.conftest import MakeWorker
    from worker.engines.base import Request

    MakePdf = Callable[..., Path]

TEXT = "\n".join(
    f"The {bird} was seen by the keeper in the old wood." for bird in ("owl", "hawk", "heron", "kite", "rook")
)
CIPHER = TEXT.translate(str.maketrans("abcdefghijklmnopqrstuvwxyz", "qwertyuiopasdfghjklzxcvbnm"))


class LineReader(WatchedEngine):
    """Recognizes line by line, and knows Latin letters. It always reads `text`."""

    reads_scripts = ("LATIN",)

    def __init__(self, text: str, *, confidence: float = 0.97) -> None:
        lines = tuple(
            Line(
                text=line, box=((9, 20 * n), (300, 20 * n), (300, 20 * n + 14), (9, 20 * n + 14)), confidence=confidence
            )
            for n, line in enumerate(text.splitlines())
        )
        super().__init__(reply=lambda _: Completion(text=text, finish_reason=FinishReason.STOP, lines=(lines,)))


def sizes(requests: list[Request]) -> list[tuple[int, ...]]:
    return [request.images[0].shape[:2] for request in requests]


def read(make_worker: MakeWorker, source: Path, engine: LineReader, **params: Any) -> dict[str, Any]:
    worker = make_worker(engine=engine)
    job = worker.do(Ocr(**params), source)
    assert job.state is JobState.SUCCEEDED
    (part,) = worker.parts(job.id)
    return {**part.data, "text": part.text}


def test_a_layer_that_says_what_the_picture_shows_is_taken(make_worker: MakeWorker, pdf: MakePdf) -> None:
    engine = LineReader("\n".join(TEXT.splitlines()[:LINES]))
    data = read(make_worker, pdf(TEXT), engine, output="text")
    assert (data["how"], data["text"], data["marks"]) == ("layer", TEXT, [])
    assert data["confidence"] == data["agreement"] > 0.8
    ((height, width),) = sizes(engine.requests)
    assert 30 * LINES < height < 1024
    assert width < 1024


def test_a_layer_that_says_something_else_is_passed_over(make_worker: MakeWorker, pdf: MakePdf) -> None:
    engine = LineReader(TEXT)
    data = read(make_worker, pdf(CIPHER), engine, output="text")
    assert (data["how"], data["text"]) == ("image", TEXT)
    assert data["layer"] == "the text layer does not say what the picture shows"
    assert data["confidence"] == 0.97
    assert len(engine.requests) == 2


def test_an_engine_that_is_not_sure_does_not_overrule_the_layer(make_worker: MakeWorker, pdf: MakePdf) -> None:
    data = read(make_worker, pdf(CIPHER), LineReader(TEXT, confidence=0.6))
    assert data["how"] == "layer"
    assert data["confidence"] < 0.1


@pytest.mark.parametrize("params", [{"check_layer": False}, {"mode": "text", "check_layer": False}])
def test_the_check_can_be_left_out(make_worker: MakeWorker, pdf: MakePdf, params: dict[str, Any]) -> None:
    engine = LineReader(TEXT)
    data = read(make_worker, pdf(TEXT), engine, **params)
    assert (data["how"], data["confidence"], engine.requests) == ("layer", None, [])


def test_only_scripts_that_the_engine_knows_are_compared(make_worker: MakeWorker, tmp_path: Path) -> None:
    source = tmp_path / "greek.txt"
    source.write_text("Η κουκουβάγια διαβάζει τη νύχτα\n" * 3)
    engine = LineReader("H koukoubagia")
    assert read(make_worker, source, engine)["how"] == "layer"
    assert engine.requests == []


def test_other_kinds_take_the_layer_as_it_is(make_worker: MakeWorker, pdf: MakePdf) -> None:
    engine = LineReader(TEXT)
    worker = make_worker(engine=engine)
    worker.do(Summarize(), pdf(TEXT))
    assert not any(request.images for request in engine.requests)
