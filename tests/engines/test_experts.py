"""The experts' engine: its own logic with stand-ins for the experts, and once with the real ones."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pymupdf
import pytest

from domain.errors import Code, EngineError, SetupError
from worker.engines.base import Completion, Engine, EngineConfig, FinishReason, Label, Line, Purpose, Request, Turn
from worker.engines.evidence import Colours, Evidence, colours_of, is_same, sentences, texts_of
from worker.engines.experts import ExpertsEngine, create, unread_warning
from worker.engines.recognizer import Reading

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

BLUE = np.full((60, 80, 3), (10, 20, 120), np.uint8)


class Eyes:
    """A recognizer that sees the same two words in every picture."""

    def __init__(self, *, texts: Sequence[str] = ("hello", "owl")) -> None:
        self.texts = texts
        self.found = 0
        self.error: Exception | None = None
        self.hold = threading.Event()
        self.hold.set()
        self.holding = threading.Event()

    def find(self, image: Any) -> Any:
        self.holding.set()
        self.hold.wait(10)
        if self.error is not None:
            raise self.error
        self.found += 1
        rows = [[[5, y], [70, y], [70, y + 10], [5, y + 10]] for y in range(5, 5 + 20 * len(self.texts), 20)]
        return np.array(rows, np.float32).reshape(-1, 4, 2)

    def read(self, image: Any, quads: Any, *, check: Any) -> list[Reading]:
        check()
        return [Reading(text, 0.99) for text in self.texts]

    def upside_down(self, image: Any, quads: Any) -> float:
        return 0.0


class Names:
    def probabilities(self, images: Sequence[Any]) -> list[dict[str, float]]:
        return [{"coffee mug": 0.7, "cup": 0.2, "tench": 0.01} for _ in images]


class Pen:
    """A chat model that says what it was asked."""

    context_tokens = 200

    def __init__(self) -> None:
        self.closed = 0

    def submit(self, turns: Sequence[Turn], **rest: Any) -> Future[Completion]:
        future: Future[Completion] = Future()
        text = turns[-1].text
        if self.count_tokens(text) > self.context_tokens:
            future.set_exception(EngineError("too long", code=Code.CONTEXT_TOO_LONG, retryable=False))
        else:
            future.set_result(Completion(text=text, finish_reason=FinishReason.STOP, prompt_tokens=7))
        return future

    def count_tokens(self, text: str) -> int:
        return len(text.split())

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def eyes() -> Eyes:
    return Eyes()


@pytest.fixture
def engine(eyes: Eyes) -> Iterator[ExpertsEngine]:
    made = ExpertsEngine(recognizer=cast("Any", eyes), tagger=cast("Any", Names()), chat=Pen(), model="stand-ins")
    yield made
    eyes.hold.set()
    made.close()


def turn(text: str) -> tuple[Turn, ...]:
    return (Turn(role="user", text=text),)


def test_it_is_an_engine(engine: ExpertsEngine) -> None:
    assert isinstance(engine, Engine)


def test_reading_gives_lines_for_each_image_and_says_how_they_lay(engine: ExpertsEngine) -> None:
    done = engine.submit(Request(purpose=Purpose.READ, images=(BLUE, BLUE[:50]))).result(10)
    assert done.text == "hello\nowl\n\nhello\nowl"
    assert [[line.text for line in lines] for lines in done.lines] == [["hello", "owl"]] * 2
    assert done.facts == {"rotation": [0, 0], "skew": [0.0, 0.0]}


def test_describing_keeps_what_was_seen(engine: ExpertsEngine) -> None:
    done = engine.submit(Request(purpose=Purpose.DESCRIBE, images=(BLUE,))).result(10)
    assert done.text == "The picture shows a coffee mug. Text in it: “hello”, “owl”."
    assert [label.name for label in done.labels[0]] == ["coffee mug", "cup"]
    assert done.facts == {"rotation": 0, "skew": 0.0, "colours": ["dark blue"]}


def test_a_frame_that_shows_the_same_is_read_once(engine: ExpertsEngine, eyes: Eyes) -> None:
    done = engine.submit(Request(purpose=Purpose.DESCRIBE, images=(BLUE, BLUE.copy(), BLUE.copy()))).result(10)
    assert eyes.found == 1
    assert len(done.lines) == 3
    assert "Nothing moves." in done.text


def test_writing_about_a_picture_puts_the_evidence_before_the_question(engine: ExpertsEngine) -> None:
    done = engine.submit(Request(images=(BLUE,), turns=turn("What is it?"), max_new_tokens=20)).result(10)
    assert done.text.startswith("The picture shows a coffee mug.")
    assert done.text.endswith("hello\nowl\n\nWhat is it?")
    assert done.prompt_tokens == 7
    assert done.labels


def test_evidence_is_cut_to_the_context(engine: ExpertsEngine, eyes: Eyes) -> None:
    eyes.texts = ("word " * 300, "last")
    done = engine.submit(Request(images=(BLUE,), turns=turn("What is it?"), max_new_tokens=100)).result(10)
    assert engine.count_tokens(done.text) <= engine.context_tokens - 100
    assert done.text.endswith("What is it?")


def test_a_question_over_the_context_is_refused(engine: ExpertsEngine) -> None:
    for images in ((), (BLUE,)):
        future = engine.submit(Request(images=images, turns=turn("word " * 300)))
        with pytest.raises(EngineError) as caught:
            future.result(10)
        assert caught.value.code is Code.CONTEXT_TOO_LONG


def test_cancel_and_deadline_end_a_request(engine: ExpertsEngine) -> None:
    cancel = threading.Event()
    cancel.set()
    for purpose in Purpose:
        done = engine.submit(Request(purpose=purpose, images=(BLUE,), turns=turn("x"), cancel=cancel)).result(10)
        assert done.finish_reason is FinishReason.CANCELLED
        late = Request(purpose=purpose, images=(BLUE,), turns=turn("x"), deadline_at=time.monotonic() - 1)
        assert engine.submit(late).result(10).finish_reason is FinishReason.DEADLINE


def test_cancel_ends_a_page_under_way(engine: ExpertsEngine, eyes: Eyes) -> None:
    eyes.hold.clear()
    cancel = threading.Event()
    future = engine.submit(Request(purpose=Purpose.READ, images=(BLUE,), cancel=cancel))
    eyes.holding.wait(10)
    cancel.set()
    eyes.hold.set()
    assert future.result(10).finish_reason is FinishReason.CANCELLED


def test_an_expert_that_fails_fails_its_request_only(engine: ExpertsEngine, eyes: Eyes) -> None:
    eyes.error = ValueError("broken")
    with pytest.raises(EngineError, match="ValueError: broken"):
        engine.submit(Request(purpose=Purpose.READ, images=(BLUE,))).result(10)
    eyes.error = None
    assert engine.submit(Request(purpose=Purpose.READ, images=(BLUE,))).result(10).text


def test_close_cancels_what_waits_and_refuses_what_comes(eyes: Eyes) -> None:
    pen = Pen()
    engine = ExpertsEngine(recognizer=cast("Any", eyes), tagger=cast("Any", Names()), chat=pen, model="x")
    eyes.hold.clear()
    waiting = [engine.submit(Request(purpose=Purpose.READ, images=(BLUE,))) for _ in range(5)]
    closing = threading.Thread(target=engine.close)
    eyes.holding.wait(10)
    closing.start()
    eyes.hold.set()
    closing.join(10)
    engine.close()
    assert all(future.done() for future in waiting)
    assert FinishReason.CANCELLED in {future.result(0).finish_reason for future in waiting}
    assert pen.closed
    with pytest.raises(EngineError, match="closed"):
        engine.submit(Request(purpose=Purpose.READ, images=(BLUE,))).result(10)


def test_a_model_of_another_engine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="their own models"):
        create(EngineConfig(cache_dir=tmp_path, model="MAGAer13/mplug-owl-llama-7b"))


GREY = Colours(main=("grey",), plain=False, grey=True)


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (Evidence(labels=(Label(name="albatross", confidence=0.6),)), "The picture shows an albatross."),
        (
            Evidence(labels=(Label(name="salt shaker", confidence=0.3), Label(name="coffee mug", confidence=0.2))),
            "The picture may show a salt shaker or a coffee mug.",
        ),
        (Evidence(labels=(Label(name="crutch", confidence=0.1),), colours=GREY), "A black-and-white picture."),
        (Evidence(labels=(Label(name="menu", confidence=0.9),), texts=("a", "b", "c")), "“a”, “b”, “c”"),
        (Evidence(pictures=3, still=True, texts=("Midroll",)), "A scene. Nothing moves. Text in it: “Midroll”."),
        (Evidence(texts=("word " * 50, "word " * 50)), "and more."),
    ],
)
def test_sentences_claim_no_more_than_was_seen(seen: Evidence, said: str) -> None:
    assert said in sentences(seen)
    assert "menu" not in sentences(seen)


def test_a_plain_picture_is_named_by_its_colour() -> None:
    assert sentences(Evidence(colours=colours_of([BLUE]))) == "A plain dark blue picture."
    assert colours_of([np.random.default_rng(1).integers(0, 255, (64, 64, 3), np.uint8)]).plain is False
    assert is_same(BLUE, BLUE)
    assert not is_same(BLUE, BLUE + 20)


def test_doubtful_text_is_not_quoted() -> None:
    lines = [Line(text=text, box=(), confidence=c) for text, c in (("sure", 0.9), ("unsure", 0.6), ("x", 0.9))]
    assert texts_of([lines, lines]) == ("sure",)


@pytest.mark.weights
def test_the_real_experts_read_describe_and_answer(smollm_cache: Path) -> None:
    with pymupdf.open() as document:
        sheet = document.new_page(width=300, height=120)
        sheet.insert_text((20, 60), "Opening hours: nine to five", fontsize=18)
        pixmap = sheet.get_pixmap(dpi=144, alpha=False)
    image = np.frombuffer(pixmap.samples, np.uint8).reshape(pixmap.height, pixmap.width, 3).copy()
    engine = create(EngineConfig(cache_dir=smollm_cache, slots=2, context_tokens=512))
    try:
        read = engine.submit(Request(purpose=Purpose.READ, images=(image,)))
        described = engine.submit(Request(purpose=Purpose.DESCRIBE, images=(image,)))
        answered = engine.submit(Request(images=(image,), turns=turn("When is it open?"), max_new_tokens=24))
        assert read.result(60).text == "Opening hours: nine to five"
        assert "“Opening hours: nine to five”" in described.result(60).text
        assert answered.result(60).new_tokens > 0
    finally:
        started = time.monotonic()
        engine.close()
    assert time.monotonic() - started < 2


@pytest.mark.parametrize(
    ("languages", "warns"), [(("en", "fr", "zh-CN", "el", "ja"), False), (("en", "ru"), True), (("Korean",), True)]
)
def test_a_language_that_cannot_be_read_is_told(languages: tuple[str, ...], warns: bool) -> None:
    found = unread_warning(languages)
    assert bool(found) is warns
    assert not warns or languages[-1] in found["warnings"][0]
