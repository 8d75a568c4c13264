"""One run: submit jobs while faults happen, let them stop, wait until everything is over, judge."""

from __future__ import annotations

import itertools
import threading
import time
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from sqlalchemy import func, select
from sqlalchemy.exc import DBAPIError

from nightowl import Client
from nightowl.doorbell import Doorbell
from storage import invariants, tables
from storage.artifacts import ArtifactStore
from storage.jobs import OPEN
from tests.chaos import cases
from tests.chaos.oracle import Oracle
from tests.chaos.seams import STOPPED
from tests.chaos.site import MAX_ATTEMPTS
from tests.chaos.verdict import Accepted, Verdict, judge

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from pathlib import Path

    from domain.jobs import Job
    from tests.chaos.cases import Case
    from tests.chaos.faults import Act, Fault
    from tests.chaos.oracle import Expected
    from tests.chaos.schedule import Schedule
    from tests.chaos.site import Death, Site

STILL_SECONDS = 60.0
ACCEPT_SECONDS = 30.0
"""For one job to be accepted, while the database goes and comes."""
LOOK_SECONDS = 2.0
"""Between two looks at the invariants while faults happen."""
TEND_SECONDS = 0.05
AWAIT_SECONDS = 120.0
"""For every fault to find somebody, after the time of the faults; jobs keep coming meanwhile."""
MORE_JOBS = 10
"""So many are open at a time while a fault waits for somebody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """The cases of all runs, each with what it must give back; `wild` are those of the faults, by their harm."""

    cases: tuple[tuple[Case, Expected], ...]
    wild: dict[str, tuple[Case, Expected]]


def make_pool(folder: Path, count: int) -> Pool:
    with closing(Oracle(folder)) as oracle:
        return _make_pool(folder, oracle, count)


def _make_pool(folder: Path, oracle: Oracle, count: int) -> Pool:
    made = cases.make(folder, count)
    wild = {how: cases.make_wild(folder, how) for how in cases.HARM}
    return Pool(
        cases=tuple((case, oracle.expect(case)) for case in made),
        wild={how: (case, oracle.expect(case)) for how, case in wild.items()},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """`deaths` are those of the run's workers, `starts` how many were started, `calm_seconds` the time from the last
    fault to the last end of a job."""

    schedule: Schedule
    verdict: Verdict
    deaths: tuple[Death, ...]
    starts: int
    seconds: float
    calm_seconds: float
    marks: frozenset[str] = frozenset()

    def struck(self, fault: Fault) -> bool:
        """Whether a fault did its harm: an order may find nobody who comes by in time, a signal no process."""
        return fault.mark in self.marks

    @property
    def broken(self) -> list[str]:
        """What is not as promised: nothing, if all is well."""
        unknown = [f"worker {death.worker} died: {death.why}" for death in self.deaths if not death.is_known]
        return [*self.verdict.broken, *unknown]


def run(site: Site, schedule: Schedule, pool: Pool, *, still_seconds: float = STILL_SECONDS) -> Report:
    """One run on a site that is there. Raises TimeoutError where a job is not accepted in time, or nothing starts.

    `still_seconds`: after the last fault, no job may stay open for so long without any other coming to its end.
    """
    began = time.monotonic()
    site.do(lambda: site.ready(schedule.settings))
    deaths, starts = len(site.deaths), site.starts
    with Client(site.client_settings()) as client, _Faults(site, schedule) as faults:
        submitting = _Submitting(site, client, schedule, pool, faults.check)
        submitting.run()
        submitting.go_on(faults)
        calm = time.monotonic()
        submitting.wait_for_the_end(still_seconds)
        over = time.monotonic()
        store = ArtifactStore(client.settings.artifacts)
    verdict = judge(
        site.database,
        store,
        submitting.accepted,
        site.deaths[deaths:],
        site.lives(),
        max_attempts=MAX_ATTEMPTS,
    )
    return Report(
        schedule=schedule,
        verdict=replace(verdict, wrong=(*submitting.wrong(), *verdict.wrong)),
        deaths=tuple(site.deaths[deaths:]),
        starts=site.starts - starts,
        seconds=over - began,
        calm_seconds=over - calm,
        marks=frozenset(site.switches.reached()),
    )


class _Faults:
    """Does the acts of a schedule at their times, and replaces workers that died, in the thread of the processes."""

    def __init__(self, site: Site, schedule: Schedule) -> None:
        self._site, self._schedule = site, schedule
        self._over, self._stop = threading.Event(), threading.Event()
        self._todo = schedule.acts
        self._done: Future[None] | None = None

    def __enter__(self) -> Self:
        self._done = self._site.start(self._run)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        assert self._done is not None
        self._done.result()

    def are_over(self) -> bool:
        """The last act is done, and nothing is wrong any more."""
        return self._over.is_set()

    def check(self) -> None:
        """Raises what went wrong with the harness itself."""
        assert self._done is not None
        if self._done.done():
            self._done.result()

    def _run(self) -> None:
        began = time.monotonic()
        end = began + self._schedule.seconds
        self._do_all(began, limit=end + AWAIT_SECONDS)
        self._tend_until(end)
        self._tend_until(end + AWAIT_SECONDS, unless=self._nothing_to_await)
        self._site.calm()
        self._over.set()
        while not self._stop.is_set():
            self._tend()

    def _do_all(self, began: float, *, limit: float) -> None:
        """Each act at its time, or later where it found nobody; then those that follow in its fault are later, too."""
        late = {fault.name: 0.0 for fault in self._schedule.faults}
        while self._todo and time.monotonic() < limit:
            fault, act = min(self._todo, key=lambda pair: pair[1].at + late[pair[0].name])
            self._tend_until(began + act.at + late[fault.name])
            if self._do(fault, act):
                self._todo.remove((fault, act))
            else:
                self._tend()
                late[fault.name] = time.monotonic() - began - act.at

    def _do(self, fault: Fault, act: Act) -> bool:
        """False if it must be done later."""
        if act.ends and not self._has_struck(fault):
            return False
        done = act.does(self._site)
        if done is False:
            return False
        self._site.switches.note("act", says=act.says)
        if done and not fault.sign:
            self._site.switches.mark_reached(fault.mark)
        return True

    def _tend_until(self, moment: float, unless: Callable[[], bool] = lambda: False) -> None:
        while time.monotonic() < moment and not unless():
            self._tend()

    def _nothing_to_await(self) -> bool:
        """Every fault has struck, and whoever stopped itself was woken."""
        asleep = any(mark.startswith(STOPPED) for mark in self._site.switches.reached())
        return not self._todo and not asleep and self.all_struck()

    def all_struck(self) -> bool:
        return all(self._has_struck(fault) for fault in self._schedule.faults)

    def _has_struck(self, fault: Fault) -> bool:
        return self._site.switches.has_mark(fault.mark)

    def _tend(self) -> None:
        self._site.tend()
        time.sleep(TEND_SECONDS)


class _Submitting:
    """The client's side: submits and cancels at their times, and looks at the invariants now and then."""

    def __init__(self, site: Site, client: Client, schedule: Schedule, pool: Pool, check: Callable[[], None]) -> None:
        self._site, self._client, self._schedule, self._check = site, client, schedule, check
        self._doorbell = Doorbell(client.settings)
        self._more = itertools.cycle(pool.cases)
        self._cases = [pool.cases[which] for _, which in schedule.submits]
        self._moments = [moment for moment, _ in schedule.submits]
        for fault in schedule.faults:
            if fault.wild:
                self._cases.insert(0, pool.wild[fault.wild])
                self._moments.insert(0, 0.0)
        self._accepted: dict[int, Accepted] = {}
        self._seen: dict[str, None] = {}
        self._looked = time.monotonic()

    @property
    def accepted(self) -> list[Accepted]:
        return list(self._accepted.values())

    def run(self) -> None:
        todo = [(moment, number, self._submit) for number, moment in enumerate(self._moments)]
        todo += [(moment, number, self._cancel) for moment, number in self._schedule.cancels]
        began = time.monotonic()
        for moment, number, act in sorted(todo, key=lambda item: item[0]):
            while (pause := moment - (time.monotonic() - began)) > 0:
                self._look()
                time.sleep(min(pause, TEND_SECONDS))
            act(number)

    def go_on(self, faults: _Faults) -> None:
        """Until the faults are over. More of the same jobs come while one has found nobody that it can strike."""
        while not faults.are_over():
            if not faults.all_struck() and 0 <= count_open(self._site) < MORE_JOBS:
                self._cases.append(next(self._more))
                self._submit(len(self._cases) - 1)
            else:
                self._check()
                self._look()
                time.sleep(TEND_SECONDS)

    def wait_for_the_end(self, still_seconds: float) -> None:
        fewest, since = -1, time.monotonic()
        while (left := count_open(self._site)) and time.monotonic() - since < still_seconds:
            if left != fewest:
                fewest, since = left, time.monotonic()
            self._look()
            time.sleep(2 * TEND_SECONDS)

    def wrong(self) -> list[str]:
        """What was seen on the way, and jobs that are there without having been accepted."""
        extra = _count(self._site, tables.Job.key.startswith(f"{self._schedule.seed}-")) - len(self._accepted)
        return [*self._seen, *([f"{extra} jobs are there that nobody was told of"] if extra else [])]

    def _submit(self, number: int) -> None:
        """With a key, again and again until it is known to be accepted, as an application should."""
        self._check()
        case, expected = self._cases[number]
        source = case.source.read_bytes() if case.source and case.upload else case.source
        job = self._insist(
            lambda: self._client.submit(
                case.params,
                source,
                name=case.name,
                key=f"{self._schedule.seed}-{number}",
                priority=number % 7 == 0,
                fresh=True,  # earlier runs did the same work
            )
        )
        self._accepted[number] = Accepted(job_id=job.id, name=case.name, expected=expected)
        if self._site.switches.get("thrice"):
            for _ in range(2):
                self._doorbell.ring(job.id, priority=0)

    def _cancel(self, number: int) -> None:
        """One that was not submitted yet is not cancelled."""
        if accepted := self._accepted.get(number):
            self._insist(lambda: self._client.cancel(accepted.job_id))
            self._accepted[number] = replace(accepted, cancelled=True)

    def _insist(self, ask: Callable[[], Job]) -> Job:
        limit = time.monotonic() + ACCEPT_SECONDS
        while True:
            try:
                return ask()
            except DBAPIError as error:
                if time.monotonic() > limit:
                    raise TimeoutError(f"the ledger could not be written for {ACCEPT_SECONDS} s") from error
                time.sleep(TEND_SECONDS)

    def _look(self) -> None:
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return
        try:
            with self._site.database.read() as session:
                for one in invariants.check(session, max_attempts=MAX_ATTEMPTS):
                    self._seen[f"on the way: {one.name}: job {one.job_id}, part {one.part}: {one.detail}"] = None
        except DBAPIError:
            self._site.switches.note("no look")  # the database is away
        self._looked = time.monotonic()


def count_open(site: Site) -> int:
    """Jobs that are not over; -1 while the database is away."""
    return _count(site, tables.Job.state.in_(OPEN))


def _count(site: Site, which: object) -> int:
    query = select(func.count()).select_from(tables.Job).where(which)  # type: ignore[arg-type]
    try:
        with site.database.read() as session:
            return session.scalar(query) or 0
    except DBAPIError:
        return -1
