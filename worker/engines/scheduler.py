"""Who is admitted to the batch, and who leaves it: plain values in, plain decisions out, no tensors.

Active requests sit in rows 0..n-1 of the cache, with no holes. When one leaves, the request of the last row takes its
place, so that a decode step works on a slice and never gathers. The generator carries the decisions out.
"""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from worker.engines.base import FinishReason

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

REPEATED_TOKENS = 48
REPEATED_COPIES = 6
LONGEST_CYCLE = 64
REPETITION_EVERY = 16
"""How often an answer is looked at, in tokens of its own: what a request gives must not hang on its neighbours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """One request, as far as planning needs to know it. `key` is the caller's, and unique among those under way; a
    higher `priority` goes first; `deadline_at` is in seconds on the clock of `Scheduler.plan`."""

    key: int
    prompt_tokens: int
    priority: int = 0
    deadline_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Admit:
    """The request takes `row`."""

    key: int
    row: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave:
    """The request leaves `row` (None: it was still waiting). `filled_from` is the last row, whose request moves into
    `row`; None where nothing moves. Leaves are carried out in the order given, each on the rows the one before left."""

    key: int
    row: int | None
    filled_from: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to do before the next step: first `leaves`, each with its reason, then `admits`, in the order of rows."""

    leaves: tuple[tuple[Leave, FinishReason], ...] = ()
    admits: tuple[Admit, ...] = ()


@dataclass(frozen=True, slots=True, order=True)
class _Place:
    """A place in the queue: the higher priority first, then who came first."""

    negative_priority: int
    arrival: int
    ticket: Ticket = field(compare=False)


class Scheduler:
    """Slots and a queue. Not thread-safe: the thread that owns the model owns it.

    `prefill_tokens` bounds the prompts admitted in one step, in tokens with their padding, so that a burst of long
    prompts delays the requests under way by no more than that. A longer prompt is admitted alone. The queue itself has
    no bound: its callers have (each holds a bounded number of futures). `slots` and `prefill_tokens` may be set to less
    at any time; rows beyond the slots stay until they leave.
    """

    def __init__(self, *, slots: int, prefill_tokens: int) -> None:
        if slots < 1 or prefill_tokens < 1:
            raise ValueError(f"slots ({slots}) and prefill_tokens ({prefill_tokens}) must be at least 1")
        self.slots = slots
        self.prefill_tokens = prefill_tokens
        self._queue: list[_Place] = []
        self._rows: list[Ticket] = []
        self._arrivals = 0
        self._returns = 0

    @property
    def active(self) -> tuple[int, ...]:
        """The keys of the active requests; the index is the row."""
        return tuple(ticket.key for ticket in self._rows)

    @property
    def waiting(self) -> tuple[int, ...]:
        """The keys of the waiting requests, the next one first."""
        return tuple(place.ticket.key for place in self._queue)

    def add(self, ticket: Ticket) -> None:
        insort(self._queue, _Place(-ticket.priority, self._arrivals, ticket))
        self._arrivals += 1

    def put_back(self, ticket: Ticket) -> Leave:
        """Take an active request out and let it wait again, before all others of its priority; `ticket` may say
        another length than before. Raises KeyError if it is not active."""
        leave = self.leave(ticket.key)
        self._returns -= 1
        insort(self._queue, _Place(-ticket.priority, self._returns, ticket))
        return leave

    def plan(self, *, now: float, cancelled: Collection[int] = ()) -> Plan:
        """Let go of who is cancelled or late, waiting or active, then fill the free rows from the queue."""
        leaves = [
            (self.leave(ticket.key), reason)
            for ticket in (*(place.ticket for place in self._queue), *self._rows)
            if (reason := _reason_to_go(ticket, now=now, cancelled=cancelled))
        ]
        return Plan(leaves=tuple(leaves), admits=self._admit())

    def leave(self, key: int) -> Leave:
        """Take a request out. Raises KeyError if it is neither waiting nor active."""
        for row, ticket in enumerate(self._rows):
            if ticket.key == key:
                return self._leave_row(row)
        for index, place in enumerate(self._queue):
            if place.ticket.key == key:
                del self._queue[index]
                return Leave(key=key, row=None)
        raise KeyError(key)

    def _leave_row(self, row: int) -> Leave:
        ticket, last = self._rows[row], self._rows.pop()
        if row == len(self._rows):
            return Leave(key=ticket.key, row=row)
        self._rows[row] = last
        return Leave(key=ticket.key, row=row, filled_from=len(self._rows))

    def _admit(self) -> tuple[Admit, ...]:
        count = self._admissible()
        # Within one step the order of rows is free: by length, so that neighbours can share a prefill with few pads.
        tickets = sorted((place.ticket for place in self._queue[:count]), key=lambda ticket: ticket.prompt_tokens)
        del self._queue[:count]
        first = len(self._rows)
        self._rows += tickets
        return tuple(Admit(key=ticket.key, row=first + index) for index, ticket in enumerate(tickets))

    def _admissible(self) -> int:
        """How many from the head of the queue go in now. The head is never passed over, so nobody starves."""
        count, longest = 0, 0
        for place in self._queue[: max(self.slots - len(self._rows), 0)]:
            longest = max(longest, place.ticket.prompt_tokens)
            if count and longest * (count + 1) > self.prefill_tokens:
                break
            count += 1
        return count


def _reason_to_go(ticket: Ticket, *, now: float, cancelled: Collection[int]) -> FinishReason | None:
    if ticket.key in cancelled:
        return FinishReason.CANCELLED
    if ticket.deadline_at is not None and now >= ticket.deadline_at:
        return FinishReason.DEADLINE
    return None


def repetition_start(tokens: Sequence[int]) -> int | None:
    """Where an answer begins to repeat itself: the index after the first copy of a cycle that fills its end, or None.

    The rule: a cycle of 1 to 64 tokens, at least 6 copies of it and at least 48 tokens in all, up to the last token.
    So a rule of 40 dashes, a row of 20 zeros, or a line that a form repeats five times are left alone.
    """
    for period in range(1, min(LONGEST_CYCLE, len(tokens) // REPEATED_COPIES) + 1):
        start = len(tokens)
        while start > period and tokens[start - 1] == tokens[start - 1 - period]:
            start -= 1
        if len(tokens) - start + period >= max(REPEATED_TOKENS, REPEATED_COPIES * period):
            return start
    return None
