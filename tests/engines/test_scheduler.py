from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.engines.base import FinishReason
from worker.engines.scheduler import Admit, Leave, Scheduler, Ticket, repetition_start


def ticket(key: int, *, tokens: int = 1, priority: int = 0, deadline_at: float | None = None) -> Ticket:
    return Ticket(key=key, prompt_tokens=tokens, priority=priority, deadline_at=deadline_at)


def filled(*tickets: Ticket, slots: int = 2, prefill_tokens: int = 100) -> Scheduler:
    scheduler = Scheduler(slots=slots, prefill_tokens=prefill_tokens)
    for each in tickets:
        scheduler.add(each)
    return scheduler


def test_free_slots_are_filled_at_once_and_the_rest_waits() -> None:
    scheduler = filled(ticket(10), ticket(11), ticket(12))
    assert scheduler.plan(now=0).admits == (Admit(key=10, row=0), Admit(key=11, row=1))
    assert scheduler.waiting == (12,)
    assert scheduler.plan(now=0).admits == ()


def test_a_higher_priority_goes_first_and_equals_keep_their_order() -> None:
    scheduler = filled(ticket(1), ticket(2, priority=5), ticket(3, priority=5), ticket(4), slots=4)
    assert scheduler.waiting == (2, 3, 1, 4)


def test_the_last_row_fills_the_hole() -> None:
    scheduler = filled(ticket(1), ticket(2), ticket(3), slots=3)
    scheduler.plan(now=0)
    assert scheduler.leave(1) == Leave(key=1, row=0, filled_from=2)
    assert scheduler.active == (3, 2)
    assert scheduler.leave(2) == Leave(key=2, row=1)
    assert scheduler.leave(3) == Leave(key=3, row=0)


def test_rows_of_one_step_are_ordered_by_length() -> None:
    scheduler = filled(ticket(1, tokens=9), ticket(2, tokens=3), ticket(3, tokens=5), slots=3)
    assert [admit.key for admit in scheduler.plan(now=0).admits] == [2, 3, 1]


def test_a_burst_of_long_prompts_is_spread_over_steps() -> None:
    scheduler = filled(ticket(1, tokens=40), ticket(2, tokens=50), ticket(3, tokens=10), slots=3, prefill_tokens=100)
    assert scheduler.plan(now=0).admits == (Admit(key=1, row=0), Admit(key=2, row=1))
    assert scheduler.plan(now=0).admits == (Admit(key=3, row=2),)


def test_padding_counts_against_the_budget() -> None:
    scheduler = filled(ticket(1, tokens=10), ticket(2, tokens=60), slots=3, prefill_tokens=100)
    assert [admit.key for admit in scheduler.plan(now=0).admits] == [1]


def test_a_prompt_over_the_budget_is_admitted_alone() -> None:
    scheduler = filled(ticket(1, tokens=500), ticket(2, tokens=1), slots=2, prefill_tokens=100)
    assert [admit.key for admit in scheduler.plan(now=0).admits] == [1]


def test_cancelled_and_late_requests_leave_without_running() -> None:
    scheduler = filled(ticket(1), ticket(2, deadline_at=5.0), ticket(3))
    plan = scheduler.plan(now=5.0, cancelled={1})
    assert plan.leaves == (
        (Leave(key=1, row=None), FinishReason.CANCELLED),
        (Leave(key=2, row=None), FinishReason.DEADLINE),
    )
    assert plan.admits == (Admit(key=3, row=0),)


def test_an_active_request_leaves_at_its_deadline_and_the_next_takes_its_slot() -> None:
    scheduler = filled(ticket(1, deadline_at=5.0), ticket(2), ticket(3))
    scheduler.plan(now=0)
    plan = scheduler.plan(now=5.0)
    assert plan.leaves == ((Leave(key=1, row=0, filled_from=1), FinishReason.DEADLINE),)
    assert plan.admits == (Admit(key=3, row=1),)
    assert scheduler.active == (2, 3)


def test_an_unknown_key_is_refused() -> None:
    with pytest.raises(KeyError):
        Scheduler(slots=1, prefill_tokens=1).leave(1)


@pytest.mark.parametrize(("slots", "prefill_tokens"), [(0, 1), (1, 0)])
def test_sizes_under_one_are_refused(slots: int, prefill_tokens: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Scheduler(slots=slots, prefill_tokens=prefill_tokens)


@dataclass
class Rows:
    """What a generator keeps: moved by the decisions alone, and checked against them."""

    keys: list[int] = field(default_factory=list)

    def leave(self, decision: Leave) -> None:
        if decision.row is None:
            assert decision.key not in self.keys
            return
        assert self.keys[decision.row] == decision.key
        if decision.filled_from is not None:
            assert decision.filled_from == len(self.keys) - 1
            self.keys[decision.row] = self.keys[-1]
        self.keys.pop()

    def admit(self, decision: Admit) -> None:
        assert decision.row == len(self.keys), "rows are compact, and no row is given twice"
        self.keys.append(decision.key)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(1, 40), st.integers(0, 2)),
        st.tuples(st.just("finish"), st.integers(0, 30), st.just(0)),
        st.tuples(st.just("cancel"), st.integers(0, 30), st.just(0)),
        st.tuples(st.just("plan"), st.just(0), st.just(0)),
    ),
    max_size=60,
)


@given(steps=STEPS, slots=st.integers(1, 5), prefill_tokens=st.integers(1, 60))
def test_every_request_leaves_exactly_once_and_rows_stay_compact(
    steps: list[tuple[str, int, int]], slots: int, prefill_tokens: int
) -> None:
    scheduler = Scheduler(slots=slots, prefill_tokens=prefill_tokens)
    rows, left, admitted = Rows(), list[int](), list[Ticket]()
    tickets: dict[int, Ticket] = {}

    def plan(cancelled: frozenset[int] = frozenset()) -> None:
        decided = scheduler.plan(now=0, cancelled=cancelled)
        for leave, _ in decided.leaves:
            rows.leave(leave)
            left.append(leave.key)
        for admit in decided.admits:
            rows.admit(admit)
        step = [tickets[admit.key] for admit in decided.admits]
        admitted.extend(sorted(step, key=lambda each: each.key))
        padded = len(step) * max((each.prompt_tokens for each in step), default=0)
        assert padded <= prefill_tokens or len(step) == 1
        assert tuple(rows.keys) == scheduler.active
        assert len(rows.keys) <= slots

    def finish(key: int) -> None:
        rows.leave(scheduler.leave(key))
        left.append(key)

    for action, number, priority in steps:
        alive = (*scheduler.waiting, *scheduler.active)
        if action == "add":
            tickets[len(tickets)] = ticket(len(tickets), tokens=number, priority=priority)
            scheduler.add(tickets[len(tickets) - 1])
        elif action == "finish" and rows.keys:
            finish(rows.keys[number % len(rows.keys)])
        elif action == "cancel" and alive:
            plan(frozenset({alive[number % len(alive)]}))
        else:
            plan()
    while scheduler.waiting or scheduler.active:
        plan()
        for key in scheduler.active:
            finish(key)
    assert sorted(left) == sorted(tickets)
    for priority in range(3):
        keys = [each.key for each in admitted if each.priority == priority]
        assert keys == sorted(keys), "first come, first served among equals"


@pytest.mark.parametrize(
    ("tokens", "start"),
    [
        ([], None),
        (list(range(500)), None),
        ([7, *[1] * 47], None),
        ([7, *[1] * 48], 2),
        ([*range(100, 110), *[1, 2] * 24], 12),
        ([*[1, 2] * 24, 3], None),
        (list(range(20)) * 5, None),
        ([9, *list(range(20)) * 6], 21),
        ([9, *list(range(20)) * 6, *range(7)], 21),
        (list(range(64)) * 6, 64),
        (list(range(65)) * 6, None),
    ],
)
def test_repetition_is_a_cycle_of_enough_copies_and_tokens(tokens: list[int], start: int | None) -> None:
    assert repetition_start(tokens) == start


def test_planning_needs_no_torch() -> None:
    code = "import sys, worker.engines.scheduler; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
