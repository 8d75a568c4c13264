"""The fault matrix. Each function draws one fault from the dice; its docstring says what goes wrong.

A fault is a list of acts, each at its time (in seconds from the first submit), and what it asks of the workers'
settings or adds to the jobs. When the time is over and the last act is done, everything that was turned on is turned
off again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from tests.chaos.seams import SHORT_VISIBILITY, STRUCK, Point
from tests.chaos.site import LEASE_SECONDS, SWEEP_SECONDS

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable, Mapping

    from tests.chaos.site import Postgres, Site

SQLITE, POSTGRES = "sqlite", "postgres"
FIRST_SECOND = 0.2
LOST_SECONDS = LEASE_SECONDS + 2 * SWEEP_SECONDS + 0.5
"""A worker that is silent for so long has lost what it had."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """`does` returns True where it did harm itself; None where it gave an order, which somebody else follows; False
    where it found nobody to do harm to, and is to be done again a little later, with all that follows in its fault.

    One that `ends` an order waits until somebody has followed it.
    """

    at: float
    says: str
    does: Callable[[Site], bool | None] = field(compare=False, repr=False)
    ends: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """`wild` names the harm of a case that joins the others (cases.py). `sign` is the mark by which a worker says that
    it was struck, which the run awaits; None where an act says so itself. `outage`: for a while nobody could have
    claimed anything, because what all workers need was away or lied, or because no worker was left."""

    name: str
    acts: tuple[Act, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    wild: str | None = None
    sign: str | None = None
    outage: bool = False

    @property
    def mark(self) -> str:
        """The mark of a fault that did its harm."""
        return f"{STRUCK}{self.sign or self.name}"


@dataclass(frozen=True, slots=True)
class Dice:
    """Where chance comes from, and only from here. `seconds`: for how long jobs are submitted and faults happen."""

    random: random.Random
    workers: int
    seconds: float

    def slot(self) -> int:
        return self.random.randrange(self.workers)

    def moment(self, *, before: float = 0) -> float:
        """A time; `before` leaves room for what follows."""
        last = max(self.seconds - before, FIRST_SECOND + 0.1)
        return round(self.random.uniform(FIRST_SECOND, last), 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A line of the matrix."""

    name: str
    sentence: str
    draw: Callable[[Dice], Fault]
    databases: tuple[str, ...]


MATRIX: dict[str, Kind] = {}


def _add(name: str, sentence: str, draw: Callable[[Dice], Fault], databases: tuple[str, ...]) -> None:
    MATRIX[name] = Kind(name=name, sentence=" ".join(sentence.split()), draw=draw, databases=databases)


def fault(*databases: str) -> Callable[[Callable[[Dice], Fault]], Callable[[Dice], Fault]]:
    """Add a function to the matrix, under its name with dashes; on both databases unless some are named."""

    def add(draw: Callable[[Dice], Fault]) -> Callable[[Dice], Fault]:
        _add(draw.__name__.replace("_", "-"), draw.__doc__ or "", draw, databases or (SQLITE, POSTGRES))
        return draw

    return add


def while_on(name: str, at: float, seconds: float, **values: Any) -> tuple[Act, Act]:
    """A switch that is on for a while."""
    shown = ", ".join(f"{key}={value}" for key, value in values.items())
    return (
        Act(at=at, says=f"{name} on ({shown})", does=lambda site: site.switches.turn_on(name, **values)),
        Act(at=round(at + seconds, 2), says=f"{name} off", does=partial(_turn_off, name=name), ends=True),
    )


def _turn_off(site: Site, *, name: str) -> None:
    site.switches.turn_off(name)


# A worker is killed.

_WHERE = {
    Point.FETCHED: "right after it took a message from Redis",
    Point.CLAIMED: "right after a claim was committed",
    Point.PLANNED: "after it committed the parts of a job and before it rang for them",
    Point.READING: "while its reader child is at a page",
    Point.GENERATING: "while the engine has a request",
    Point.STORED: "right after a part's result was committed",
    Point.FINISHING: "when all parts are over and before it claims the end of the job",
    Point.MERGED: "when the files of the result are stored and their rows are not committed",
    Point.ENDED: "after the end of the job was committed and before the message is acknowledged (late, in this run)",
}


def _kill_at(point: Point, dice: Dice) -> Fault:
    last = dice.seconds / 2  # so late that there is work, so early that there still is
    kills = [kill_order(point, at=dice.moment(before=last), nth=dice.random.randint(1, 3)) for _ in range(2)]
    late = {SHORT_VISIBILITY: "1"} if point is Point.ENDED else {}
    return Fault(name=f"kill-{point}", acts=tuple(kills), settings=late, sign=f"kill-{point}")


def kill_order(point: Point, *, at: float, nth: int) -> Act:
    return Act(
        at=at,
        says=f"the worker that is first to be {point} for the {nth}. time kills itself there",
        does=lambda site: site.switches.turn_on(f"kill-{point}", nth=nth, id=f"{point}-{at}"),
    )


for _point in Point:
    _add(f"kill-{_point}", f"SIGKILL of a worker {_WHERE[_point]}.", partial(_kill_at, _point), (SQLITE, POSTGRES))


@fault()
def kill_anywhere(dice: Dice) -> Fault:
    """SIGKILL of workers at random times."""
    acts = []
    for _ in range(3):
        slot = dice.slot()
        acts.append(Act(at=dice.moment(), says=f"SIGKILL of worker {slot}", does=_kill(slot)))
    return Fault(name="kill-anywhere", acts=tuple(acts))


def _kill(slot: int) -> Callable[[Site], bool]:
    return lambda site: site.kill(slot)


@fault()
def kill_all(dice: Dice) -> Fault:
    """SIGKILL of all workers at once, as when the machine loses its power."""

    def kill(site: Site) -> bool:
        return any([site.kill(slot) for slot in range(dice.workers)])

    act = Act(at=dice.moment(), says="SIGKILL of all workers", does=kill)
    return Fault(name="kill-all", acts=(act,), outage=True)


@fault()
def terminate(dice: Dice) -> Fault:
    """SIGTERM of a worker that has work in hand."""
    slot = dice.slot()
    does = _terminate(slot, times=1)
    return Fault(name="terminate", acts=(Act(at=dice.moment(), says=f"SIGTERM of worker {slot}", does=does),))


@fault()
def terminate_twice(dice: Dice) -> Fault:
    """SIGTERM of a worker, and a second one 0.2 s later."""
    slot = dice.slot()
    does = _terminate(slot, times=2)
    return Fault(name="terminate-twice", acts=(Act(at=dice.moment(), says=f"SIGTERM ×2 of worker {slot}", does=does),))


def _terminate(slot: int, *, times: int) -> Callable[[Site], bool]:
    return lambda site: site.terminate(slot, times=times)


@fault()
def zombie(dice: Dice) -> Fault:
    """A worker with work in hand is stopped (SIGSTOP) until it has lost its leases, wakes (SIGCONT) and goes on."""
    slot, at = dice.slot(), dice.moment(before=LOST_SECONDS)
    return Fault(
        name="zombie",
        acts=(
            Act(at=at, says=f"SIGSTOP of worker {slot}", does=lambda site: site.stop(slot)),
            Act(at=at + LOST_SECONDS, says="SIGCONT of it", does=lambda site: site.wake(slot)),
        ),
        # One that is stopped inside a transaction holds SQLite's lock, and then all wait for it.
        outage=True,
    )


@fault()
def zombie_writes(dice: Dice) -> Fault:
    """A worker is stopped right before it writes a result down, wakes when another has its work, and writes."""
    acts = [
        Act(
            at=dice.moment(before=dice.seconds / 2),
            says=f"the worker that is first to be {where} for the {nth}. time is stopped until another has its work",
            does=partial(_stop_at, where=where, nth=nth),
        )
        for where, nth in (("storing", dice.random.randint(1, 5)), ("closing", dice.random.randint(1, 3)))
    ]
    return Fault(name="zombie-writes", acts=tuple(acts), sign="zombie-writes", outage=True)


def _stop_at(site: Site, *, where: str, nth: int) -> None:
    site.switches.turn_on(f"stop-{where}", nth=nth, id=where)


# A reader child fails.


@fault()
def kill_reader(dice: Dice) -> Fault:
    """SIGKILL of the reader children of workers, as the kernel does when the machine's memory is over."""
    acts = []
    for _ in range(3):
        slot = dice.slot()
        acts.append(Act(at=dice.moment(), says=f"SIGKILL of worker {slot}'s readers", does=_kill_reader(slot)))
    return Fault(name="kill-reader", acts=tuple(acts))


def _kill_reader(slot: int) -> Callable[[Site], bool]:
    return lambda site: site.kill_reader(slot)


@fault()
def reader_segfaults(dice: Dice) -> Fault:
    """A page crashes every reader child that opens it."""
    del dice
    return Fault(name="reader-segfaults", wild="segfault", sign="wild-segfault")


@fault()
def reader_spins(dice: Dice) -> Fault:
    """A page makes its reader spin for ever and never let go of the GIL."""
    del dice
    return Fault(name="reader-spins", wild="spin", sign="wild-spin", settings={"NIGHTOWL_LIMITS__READ_SECONDS": "5"})


@fault()
def reader_gorges(dice: Dice) -> Fault:
    """A page makes its reader take all memory that it can get."""
    del dice
    return Fault(name="reader-gorges", wild="gorge", sign="wild-gorge")


# The engine fails.


@fault()
def engine_dies(dice: Dice) -> Fault:
    """A page crashes every worker whose engine looks at it (SIGSEGV)."""
    del dice
    return Fault(name="engine-dies", wild="dies", sign="wild-dies")


@fault()
def engine_hangs(dice: Dice) -> Fault:
    """An engine never answers a request, and listens neither to the deadline nor to a cancel."""
    del dice
    return Fault(name="engine-hangs", wild="hangs", sign="wild-hangs", settings={"NIGHTOWL_PART_SECONDS": "6"})


@fault()
def engine_memory(dice: Dice) -> Fault:
    """For a while, each fourth request finds the engine out of memory."""
    at = dice.moment(before=2)
    return Fault(name="engine-memory", acts=while_on("engine-memory", at, 1.5, every=4), sign="engine-memory")


# Redis.


@fault()
def redis_killed(dice: Dice) -> Fault:
    """SIGKILL of Redis, which comes back after two seconds with the messages that it had."""
    at = dice.moment(before=2)
    return Fault(
        name="redis-killed",
        acts=(
            Act(at=at, says="SIGKILL of Redis", does=lambda site: site.stop_redis()),
            Act(at=at + 2, says="Redis starts", does=lambda site: site.start_redis()),
        ),
        outage=True,
    )


@fault()
def redis_emptied(dice: Dice) -> Fault:
    """SIGKILL of Redis, which comes back at once and has forgotten everything."""
    at = dice.moment()
    return Fault(
        name="redis-emptied",
        acts=(
            Act(at=at, says="SIGKILL of Redis", does=lambda site: site.stop_redis(forget=True)),
            Act(at=at + 0.01, says="Redis starts empty", does=lambda site: site.start_redis()),
        ),
        outage=True,
    )


@fault()
def redis_paused(dice: Dice) -> Fault:
    """Redis is stopped for three seconds (SIGSTOP): connections stand, and nobody answers."""
    at = dice.moment(before=3)
    return Fault(
        name="redis-paused",
        acts=(
            Act(at=at, says="SIGSTOP of Redis", does=lambda site: site.pause_redis()),
            Act(at=at + 3, says="SIGCONT of Redis", does=lambda site: site.start_redis()),
        ),
        outage=True,
    )


@fault()
def messages_thrice(dice: Dice) -> Fault:
    """Every message is delivered three times, those of the client too."""
    return Fault(name="messages-thrice", acts=while_on("thrice", 0, dice.seconds + 1), sign="thrice")


@fault()
def visibility_short(dice: Dice) -> Fault:
    """Messages are acknowledged late and are visible again after a second, while the work on them goes on."""
    del dice
    slow = {SHORT_VISIBILITY: "1", "NIGHTOWL_MODEL": "0.6"}
    return Fault(name="visibility-short", settings=slow, sign="redelivered")


# The database.


@fault(POSTGRES)
def postgres_restarted(dice: Dice) -> Fault:
    """PostgreSQL is restarted as after a crash (pg_ctl -m immediate)."""
    act = Act(at=dice.moment(), says="PostgreSQL restarts", does=lambda site: _server(site).restart())
    return Fault(name="postgres-restarted", acts=(act,), outage=True)


@fault(POSTGRES)
def connections_cut(dice: Dice) -> Fault:
    """All connections to PostgreSQL are cut (pg_terminate_backend), three times."""
    says = "all connections are cut"
    acts = (Act(at=dice.moment(), says=says, does=lambda site: _server(site).cut_connections()) for _ in range(3))
    return Fault(name="connections-cut", acts=tuple(acts), outage=True)


def _server(site: Site) -> Postgres:
    assert site.postgres is not None
    return site.postgres


@fault()
def commits_lie(dice: Dice) -> Fault:
    """For a while, each ninth commit succeeds and returns an error."""
    at = dice.moment(before=2)
    return Fault(name="commits-lie", acts=while_on("commits-lie", at, 1.5, every=9), sign="commits-lie", outage=True)


@fault()
def disk_full(dice: Dice) -> Fault:
    """For a while there is no space: stored files fail half way (ENOSPC), and SQLite's file cannot grow."""
    at = dice.moment(before=2)
    return Fault(name="disk-full", acts=while_on("disk-full", at, 1.5), sign="disk-full", outage=True)


# Time, and two of what there should be one of.


@fault()
def all_sweep(dice: Dice) -> Fault:
    """Every worker believes that it is the one that sweeps; one is killed, so that there is something to sweep."""
    slot, at = dice.slot(), dice.moment()
    kill = Act(at=at, says=f"SIGKILL of worker {slot}", does=_kill(slot))
    sweeps = while_on("all-sweep", 0, dice.seconds + LOST_SECONDS)
    return Fault(name="all-sweep", acts=(*sweeps, kill), sign="all-sweep")


@fault()
def clock_steps(dice: Dice) -> Fault:
    """The clock of a worker, or of all, is an hour ahead for a second, then an hour behind for another."""
    slot = dice.random.choice([None, dice.slot()])
    at = dice.moment(before=2.5)
    ahead, behind = (
        while_on("clock", at, 1.0, slot=slot, hours=1),
        while_on("clock", at + 1.1, 1.0, slot=slot, hours=-1),
    )
    return Fault(name="clock-steps", acts=(*ahead, *behind), sign="clock", outage=True)


def names(database: str, wanted: Iterable[str] = ()) -> list[str]:
    """The faults that there are on a database, in the order of the matrix. Raises KeyError for an unknown one."""
    chosen = [MATRIX[name] for name in wanted] or list(MATRIX.values())
    return [kind.name for kind in chosen if database in kind.databases]
