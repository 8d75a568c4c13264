"""A mixed load for a set time, and what must not grow: the memory of workers and their children, leases, messages.

The first third of the time is for warming up (pools, caches, children that come for the first time). What is measured
after it must be flat: a line is laid through the samples, and its rise over the rest of the time may not be more than
`GROWTH` of the mean, nor may the middle and the last third differ by more.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil
import redis
from sqlalchemy import func, select

from domain.states import AttemptState
from nightowl import Caption, Client, Ocr, Summarize
from storage import invariants, tables
from storage.artifacts import ArtifactStore
from tests.chaos import cases
from tests.chaos.run import count_open
from tests.chaos.site import MAX_ATTEMPTS, ROOT, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from tests.chaos.cases import Case
    from tests.chaos.site import Site

IN_HAND = 40
"""Jobs that are open at a time: the next is submitted when one is over."""
CANCELLED_EACH = 25
SAMPLE_SECONDS = 2.0
END_SECONDS = 600.0
IDLE_SECONDS = 30.0
"""After the last job is over, for workers to take what is left in Redis: messages about work that others did, or that
was cancelled."""
GROWTH = 0.10
"""Of the mean: what memory may rise by over the measured time."""
SLACK_MB = 16.0
"""So little may be the allocator's."""
SLACK_ROWS = 20.0
"""Of leases and messages: they go up and down with the load."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What was seen at one moment. `workers_mb` and `children_mb` are resident memory, of all together; `leases`
    counts running attempts, `messages` what lies in Redis, taken and not acknowledged or not taken."""

    at: float
    jobs: int
    workers_mb: float
    children_mb: float
    leases: float
    messages: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Trend:
    """One quantity over the measured time: its mean, and by how much the line through it rises."""

    name: str
    mean: float
    rise: float
    middle: float
    last: float
    slack: float

    @property
    def grows(self) -> bool:
        most = max(GROWTH * self.mean, self.slack)
        return self.rise > most and self.last - self.middle > most / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    seconds: float
    jobs: int
    states: dict[str, int]
    samples: int
    trends: tuple[Trend, ...]
    broken: tuple[str, ...]

    def lines(self) -> Iterator[str]:
        states = ", ".join(f"{count} {state}" for state, count in sorted(self.states.items()))
        yield f"{self.jobs} jobs in {self.seconds:.0f} s ({states}), {self.samples} samples"
        yield f"{'measured after the first third':32} {'mean':>9} {'rise':>9} {'middle':>9} {'last':>9}"
        for one in self.trends:
            cells = " ".join(f"{value:9.1f}" for value in (one.mean, one.rise, one.middle, one.last))
            yield f"{one.name:32} {cells}{'  GROWS' if one.grows else ''}"
        yield from (f"BROKEN {problem}" for problem in self.broken)


def soak(site: Site, folder: Path, *, seconds: float) -> Outcome:
    """Keep `IN_HAND` jobs open for so long, then wait until all are over, and judge."""
    site.do(lambda: site.ready({}))
    began = time.monotonic()
    with Client(site.client_settings()) as client:
        load = _Load(client, mixed(folder))
        samples: list[Sample] = []
        while time.monotonic() < began + seconds:
            load.top_up(IN_HAND - count_open(site))
            if not samples or time.monotonic() - samples[-1].at > SAMPLE_SECONDS:
                samples.append(_sample(site, load.submitted))
            time.sleep(0.05)
        with contextlib.suppress(TimeoutError):  # told below, as jobs that are open
            until(lambda: not count_open(site), seconds=END_SECONDS, what="the end of all jobs")
        with contextlib.suppress(TimeoutError):  # told below, too
            until(lambda: not count_messages(site.broker), seconds=IDLE_SECONDS, what="the last message")
        artifacts = ArtifactStore(client.settings.artifacts)
    return Outcome(
        seconds=time.monotonic() - began,
        jobs=load.submitted,
        states=_states(site),
        samples=len(samples),
        trends=tuple(trends(samples)),
        broken=tuple(_broken(site, artifacts)),
    )


def mixed(folder: Path) -> list[Case]:
    """Those of the runs, and what is heavier: a clip, a scan, a report with pictures."""
    samples = ROOT / "samples"
    heavy = [
        cases.Case(name="clip", params=Caption(), source=samples / "clip.mp4"),
        cases.Case(name="scan", params=Ocr(mode="image"), source=samples / "scan.png", upload=True),
        cases.Case(name="report", params=Summarize(length="short"), source=samples / "report.pdf"),
    ]
    made = cases.make(folder, 60)
    return [one for at in range(0, 60, 20) for one in (*made[at : at + 20], heavy[at // 20])]


class _Load:
    """The jobs, in turn, again and again; now and then one is cancelled."""

    def __init__(self, client: Client, mixed: Sequence[Case]) -> None:
        self._client = client
        self._cases = itertools.cycle(mixed)
        self.submitted = 0

    def top_up(self, missing: int) -> None:
        for _ in range(missing):
            case = next(self._cases)
            source = case.source.read_bytes() if case.source and case.upload else case.source
            job = self._client.submit(case.params, source, name=case.name, fresh=True)
            self.submitted += 1
            if self.submitted % CANCELLED_EACH == 0:
                self._client.cancel(job.id)


def _leases(site: Site) -> int:
    query = select(func.count()).select_from(tables.Attempt).where(tables.Attempt.state == AttemptState.RUNNING)
    with site.database.read() as session:
        return session.scalar(query) or 0


def _sample(site: Site, jobs: int) -> Sample:
    workers = [psutil.Process(worker.pid) for worker in site.workers if worker.alive]
    children = [child for worker in workers for child in worker.children(recursive=True)]
    return Sample(
        at=time.monotonic(),
        jobs=jobs,
        workers_mb=_resident_mb(workers),
        children_mb=_resident_mb(children),
        leases=_leases(site),
        messages=count_messages(site.broker),
    )


def _resident_mb(processes: Sequence[psutil.Process]) -> float:
    total = 0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):  # a child may be replaced at this moment
            total += process.memory_info().rss
    return total / 2**20


def count_messages(socket: Path) -> int:
    """All that lies in Redis: the queues (lists, one for each priority) and what is not acknowledged (a hash)."""
    with redis.Redis(unix_socket_path=str(socket), socket_timeout=5) as client:
        lists = [key for key in client.scan_iter(count=1000) if client.type(key) == b"list"]
        return int(sum(client.llen(key) for key in lists) + client.hlen("unacked"))


def trends(samples: Sequence[Sample]) -> Iterator[Trend]:
    measured = samples[len(samples) // 3 :]
    for name, value, slack in _QUANTITIES:
        values = [value(sample) for sample in measured]
        half = len(values) // 2
        yield Trend(
            name=name,
            mean=_mean(values),
            rise=_rise([sample.at for sample in measured], values),
            middle=_mean(values[:half]),
            last=_mean(values[half:]),
            slack=slack,
        )


_QUANTITIES: tuple[tuple[str, Callable[[Sample], float], float], ...] = (
    ("workers, MB", lambda sample: sample.workers_mb, SLACK_MB),
    ("their children, MB", lambda sample: sample.children_mb, SLACK_MB),
    ("leases", lambda sample: sample.leases, SLACK_ROWS),
    ("messages", lambda sample: sample.messages, SLACK_ROWS),
)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _rise(times: Sequence[float], values: Sequence[float]) -> float:
    """Of the least-squares line, from the first time to the last."""
    if len(times) < 2:
        return 0.0
    mid, mean = _mean(times), _mean(values)
    slope = sum((at - mid) * (value - mean) for at, value in zip(times, values, strict=True))
    return slope / sum((at - mid) ** 2 for at in times) * (times[-1] - times[0])


def _broken(site: Site, artifacts: ArtifactStore) -> Iterator[str]:
    """What must be so when all is over: no open job, no lease, no message, no worker that died, a sound ledger."""
    if jobs := count_open(site):
        yield f"{jobs} jobs are open {END_SECONDS:.0f} s after the last submit"
    if leases := _leases(site):
        yield f"{leases} leases are held when nothing is left to do"
    if messages := count_messages(site.broker):
        yield f"{messages} messages lie in Redis {IDLE_SECONDS:.0f} s after nothing was left to do"
    yield from (f"worker {worker.slot} is not there" for worker in site.workers if not worker.alive)
    with site.database.read() as session:
        for one in invariants.check(session, artifacts, max_attempts=MAX_ATTEMPTS):
            yield f"{one.name}: job {one.job_id}, part {one.part}: {one.detail}"


def _states(site: Site) -> dict[str, int]:
    query = select(tables.Job.state, func.count()).group_by(tables.Job.state)
    with site.database.read() as session:
        return {str(state): count for state, count in session.execute(query)}
