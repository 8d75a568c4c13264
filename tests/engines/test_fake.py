from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from domain.errors import Code, EngineError, SetupError
from worker.engines.base import Engine, EngineConfig, FinishReason, Purpose, Request, Turn
from worker.engines.fake import FakeEngine, Switches, create, parse_switches

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    made = FakeEngine()
    yield made
    made.close()


def ask(text: str, **rest: Any) -> Request:
    return Request(turns=(Turn(role="user", text=text),), **rest)


def picture(value: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.full((20, 30, 3), value, np.uint8)


def test_it_is_an_engine(engine: FakeEngine) -> None:
    assert isinstance(engine, Engine)


def test_same_request_gives_the_same_answer(engine: FakeEngine) -> None:
    answers = {engine.submit(ask("say hello to the owl")).result(5).text for _ in range(3)}
    assert len(answers) == 1
    assert "say hello to the owl" in answers.pop()


def test_reading_depends_on_the_picture(engine: FakeEngine) -> None:
    dark, light = (engine.submit(Request(purpose=Purpose.READ, images=(picture(v),))).result(5) for v in (10, 200))
    assert dark.text == "read 30x20 #0a0a0a"
    assert dark.text != light.text
    assert [line.text for line in dark.lines[0]] == [dark.text]


def test_answer_ends_at_its_limit(engine: FakeEngine) -> None:
    done = engine.submit(ask("one two three four", max_new_tokens=2)).result(5)
    assert done.finish_reason is FinishReason.LENGTH
    assert done.new_tokens == 2


def test_stop_string_cuts_the_answer(engine: FakeEngine) -> None:
    done = engine.submit(ask("one two three", stop=(" two",))).result(5)
    assert done.text.endswith("one")
    assert done.finish_reason is FinishReason.STOP


def test_cancel_ends_a_request_that_hangs() -> None:
    engine, cancel = FakeEngine(switches=Switches(hang=True)), threading.Event()
    future = engine.submit(ask("wait", cancel=cancel))
    cancel.set()
    assert future.result(5).finish_reason is FinishReason.CANCELLED
    engine.close()


def test_deadline_ends_a_request_that_hangs() -> None:
    engine = FakeEngine(switches=Switches(hang=True))
    future = engine.submit(ask("wait", deadline_at=time.monotonic() + 0.02))
    assert future.result(5).finish_reason is FinishReason.DEADLINE
    engine.close()


def test_close_ends_what_is_under_way_and_may_come_twice() -> None:
    engine = FakeEngine(switches=Switches(hang=True))
    futures = [engine.submit(ask("wait")) for _ in range(9)]
    engine.close()
    engine.close()
    assert {future.result(5).finish_reason for future in futures} == {FinishReason.CANCELLED}
    with pytest.raises(EngineError, match="closed"):
        engine.submit(ask("late")).result(5)


def test_every_nth_request_fails() -> None:
    engine = FakeEngine(switches=Switches(fail_every=3))
    errors = [engine.submit(ask("x")).exception(5) is not None for _ in range(6)]
    engine.close()
    assert sum(errors) == 2


def test_prompt_over_the_context_is_refused(tmp_path: Path) -> None:
    engine = create(EngineConfig(cache_dir=tmp_path, context_tokens=8))
    with pytest.raises(EngineError) as caught:
        engine.submit(ask("word " * 8)).result(5)
    engine.close()
    assert caught.value.code is Code.CONTEXT_TOO_LONG
    assert not caught.value.retryable


def test_switches_come_from_the_model_string() -> None:
    assert parse_switches("delay=0.5, fail=every:7,hang,text=hi there") == Switches(
        delay_seconds=0.5, fail_every=7, hang=True, text="hi there"
    )


@pytest.mark.parametrize("asked", ["the poisonous page", "another page"])
def test_a_request_with_certain_words_kills_the_process(asked: str) -> None:
    script = (
        "import sys; from worker.engines.base import Request, Turn; from worker.engines.fake import *; "
        "engine = FakeEngine(switches=parse_switches('die=poisonous')); "
        "engine.submit(Request(turns=(Turn(role='user', text=sys.argv[1]),))).result(5); engine.close()"
    )
    done = subprocess.run([sys.executable, "-c", script, asked], timeout=60, check=False)
    assert done.returncode == (-signal.SIGKILL if "poisonous" in asked else 0)


@pytest.mark.parametrize("text", ["delay=soon", "fail=often", "unknown", "die="])
def test_a_wrong_switch_is_named(text: str) -> None:
    with pytest.raises(SetupError, match=text):
        parse_switches(text)
