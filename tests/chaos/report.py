"""What the runs print: a line each, and a table at the end. `Record` is what is kept of a run, as a line of JSON."""

from __future__ import annotations

import json
import math
import os
import platform
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Self

from tests.chaos.faults import MATRIX, POSTGRES, SQLITE
from tests.chaos.verdict import RECOVERY_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from tests.chaos.run import Report
    from tests.chaos.schedule import Schedule

SHOWN = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A run in plain values. `faults`: each with whether it struck. `recoveries`: how many seconds after the death of
    a worker its work was claimed again, where the promise holds for it; `others`, where there was an outage or nobody
    was left; `buried`: when it was given free."""

    seed: int
    database: str
    faults: dict[str, bool]
    jobs: int
    parts: int
    deaths: int
    starts: int
    lost: int
    doubled: int
    broken: list[str]
    exhausted: int
    seconds: float
    calm_seconds: float
    recoveries: list[float]
    buried: list[float]
    others: list[float]

    @classmethod
    def of(cls, report: Report) -> Self:
        schedule, verdict = report.schedule, report.verdict
        promised = [one for one in verdict.recoveries if one.survived and not schedule.has_outage]
        return cls(
            seed=schedule.seed,
            database=schedule.database,
            faults={fault.name: report.struck(fault) for fault in schedule.faults},
            jobs=verdict.jobs,
            parts=verdict.parts,
            deaths=len(report.deaths),
            starts=report.starts,
            lost=len(verdict.lost),
            doubled=len(verdict.doubled),
            broken=report.broken,
            exhausted=len(verdict.exhausted),
            seconds=report.seconds,
            calm_seconds=report.calm_seconds,
            recoveries=[one.seconds for one in promised],
            buried=[one.buried for one in promised],
            others=[one.seconds for one in verdict.recoveries if one not in promised],
        )

    @classmethod
    def from_json(cls, text: str) -> Self:
        return cls(**json.loads(text))

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def schedule_lines(schedule: Schedule) -> Iterable[str]:
    yield f"seed {schedule.seed} on {schedule.database}: {', '.join(fault.name for fault in schedule.faults)}"
    for name, value in schedule.settings.items():
        yield f"    {name}={value}"
    for _, act in schedule.acts:
        yield f"    {act.at:5.2f} s  {act.says}"


def line(record: Record) -> str:
    named = ", ".join(name if struck else f"({name})" for name, struck in record.faults.items())
    return (
        f"{'BROKEN' if record.broken else 'ok    '} seed {record.seed:<6} {record.database:8} "
        f"{record.jobs:4} jobs {record.parts:4} parts {record.deaths:3} deaths {record.seconds:6.1f} s "
        f"({record.calm_seconds:4.1f} s after the last fault)  {named}"
    )


def problems(record: Record) -> Iterable[str]:
    yield from record.broken[:SHOWN]
    if len(record.broken) > SHOWN:
        yield f"… and {len(record.broken) - SHOWN} more"


def machine() -> str:
    return f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"


def table(records: Sequence[Record]) -> Iterable[str]:
    for name, value in _rows(records):
        yield f"{name:62} {value:>10}"


def matrix(records: Sequence[Record]) -> Iterable[str]:
    """Each fault: in how many runs it struck, of those in which it was drawn, on each database."""
    yield f"{'fault':20} {'sqlite':>9} {'postgres':>9}"
    for name, kind in MATRIX.items():
        if not any(name in record.faults for record in records):
            continue
        cells = [
            _cell(records, name, database) if database in kind.databases else "—" for database in (SQLITE, POSTGRES)
        ]
        yield f"{name:20} {cells[0]:>9} {cells[1]:>9}"


def _cell(records: Sequence[Record], name: str, database: str) -> str:
    struck = [record.faults[name] for record in records if record.database == database and name in record.faults]
    return f"{sum(struck)} of {len(struck)}"


def never_struck(records: Sequence[Record]) -> list[str]:
    """Faults that were drawn, and did no harm in any run: of them nothing was shown."""
    struck: Counter[str] = Counter()
    for record in records:
        struck.update(record.faults)  # a mapping adds its values, and keeps a name of which none is true
    return [name for name, times in struck.items() if not times]


def _rows(records: Sequence[Record]) -> Iterator[tuple[str, str]]:
    lost, doubled = sum(record.lost for record in records), sum(record.doubled for record in records)
    yield "runs", str(len(records))
    yield "jobs", str(sum(record.jobs for record in records))
    yield "parts", str(sum(record.parts for record in records))
    yield "deaths of workers", str(sum(record.deaths for record in records))
    yield "starts of workers", str(sum(record.starts for record in records))
    yield "jobs lost", str(lost)
    yield "results or ends written twice", str(doubled)
    yield "other violations", str(sum(len(record.broken) for record in records) - lost - doubled)
    yield "given up as worker_lost, by design", str(sum(record.exhausted for record in records))
    yield from _recovery_rows(records)
    yield "everything over after the last fault, worst", _seconds(max(record.calm_seconds for record in records))
    yield "seconds of a run, mean", _seconds(sum(record.seconds for record in records) / len(records))


def _recovery_rows(records: Sequence[Record]) -> Iterator[tuple[str, str]]:
    """Where nobody was left who could claim anything, no time is promised; those are told apart."""
    kept = [seconds for record in records for seconds in record.recoveries]
    buried = [seconds for record in records for seconds in record.buried]
    others = [seconds for record in records for seconds in record.others]
    yield f"given free after a death, p99 of {len(buried)}", _seconds(quantile(buried, 0.99))
    yield f"claimed again after a death, p99 of {len(kept)}", _seconds(quantile(kept, 0.99))
    yield f"the same, worst (promised for the p99: {RECOVERY_SECONDS} s)", _seconds(max(kept, default=0.0))
    yield f"with an outage or no survivor, worst of {len(others)}", _seconds(max(others, default=0.0))


def _seconds(value: float) -> str:
    return f"{value:.2f} s"


def quantile(values: Sequence[float], share: float) -> float:
    """The least value that is not below `share` of them; 0 of none."""
    return sorted(values)[math.ceil(share * len(values)) - 1] if values else 0.0
