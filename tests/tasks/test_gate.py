from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from tasks.gate import Gate
from tasks.work import StoppedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WAIT_SECONDS = 10


class Worker:
    """A thread that enters the gate, stays until it is let out, and says where it is."""

    def __init__(self, gate: Gate, *, alone: bool = False) -> None:
        self.entered, self.out, self.stop = threading.Event(), threading.Event(), threading.Event()
        self.stopped = False
        self._gate, self._alone = gate, alone
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            with self._gate.work(alone=self._alone, stopped=self.stop.is_set):
                self.entered.set()
                self.out.wait(WAIT_SECONDS)
        except StoppedError:
            self.stopped = True

    def is_in(self) -> bool:
        return self.entered.wait(WAIT_SECONDS)

    def waits(self) -> bool:
        """Whether it is still before the gate, a moment after it came."""
        return not self.entered.wait(0.1)

    def leave(self) -> None:
        self.out.set()
        self._thread.join(WAIT_SECONDS)
        assert not self._thread.is_alive()


@pytest.fixture
def enter() -> Iterator[Callable[..., Worker]]:
    gate, made = Gate(), list[Worker]()

    def make(*, alone: bool = False) -> Worker:
        made.append(Worker(gate, alone=alone))
        return made[-1]

    yield make
    for worker in made:
        worker.out.set()
    for worker in made:
        worker.leave()


def test_many_are_in_at_a_time(enter: Callable[..., Worker]) -> None:
    assert all(worker.is_in() for worker in [enter() for _ in range(5)])


def test_one_that_must_be_alone_waits_until_all_are_out_and_lets_nobody_in(enter: Callable[..., Worker]) -> None:
    first, second = enter(), enter()
    assert first.is_in() and second.is_in()
    alone = enter(alone=True)
    first.leave()
    assert alone.waits()
    second.leave()
    assert alone.is_in()
    other, other_alone = enter(), enter(alone=True)
    assert other.waits() and other_alone.waits()
    alone.leave()
    assert other.is_in() and other_alone.waits()
    other.leave()
    assert other_alone.is_in()


def test_nobody_is_passed_over(enter: Callable[..., Worker]) -> None:
    """Work that keeps coming would keep one out for ever that must be alone."""
    first = enter()
    assert first.is_in()
    alone = enter(alone=True)
    assert alone.waits()
    late = enter()
    assert late.waits()
    first.leave()
    assert alone.is_in() and late.waits()


def test_one_that_is_stopped_while_it_waits_gives_its_place_up(enter: Callable[..., Worker]) -> None:
    first = enter()
    assert first.is_in()
    alone = enter(alone=True)
    assert alone.waits()
    late = enter()
    alone.stop.set()
    assert late.is_in()
    alone.leave()
    assert alone.stopped


def test_one_that_need_not_wait_is_let_in_even_at_shutdown() -> None:
    """It claims, sees that it must stop, and gives its claim back, which rings for somebody else."""
    gate = Gate()
    with gate.work(alone=False, stopped=lambda: True), gate.work(alone=False, stopped=lambda: True):
        pass


def test_an_error_inside_opens_the_gate_again() -> None:
    gate = Gate()
    with pytest.raises(ValueError, match="inside"), gate.work(alone=True, stopped=lambda: False):
        raise ValueError("inside")
    worker = Worker(gate)
    assert worker.is_in()
    worker.leave()
