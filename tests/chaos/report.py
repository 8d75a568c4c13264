"""What the runs print: a line each, and a table at the end."""

from __future__ import annotations

import math
import os
import platform
from collections import Counter
from typing import TYPE_CHECKING

from tests.chaos.faults import MATRIX
from tests.chaos.verdict import RECOVERY_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tests.chaos.run import Report
    from tests.chaos.schedule import Schedule

SHOWN = 20


def schedule_lines(schedule: Schedule) -> Iterable[str]:
    yield f"seed {schedule.seed} on {schedule.database}: {_names(schedule)}"
    for name, value in schedule.settings.items():
        yield f"    {name}={value}"
    for act in schedule.acts:
        yield f"    {act.at:5.2f} s  {act.says}"


def line(report: Report) -> str:
    schedule, verdict = report.schedule, report.verdict
    return (
        f"{'BROKEN' if report.broken else 'ok    '} seed {schedule.seed:<6} {schedule.database:8} "
        f"{verdict.jobs:4} jobs {verdict.parts:4} parts {len(report.deaths):3} deaths {report.seconds:6.1f} s "
        f"({report.calm_seconds:4.1f} s after the last fault)  {_names(schedule)}"
    )


def problems(report: Report) -> Iterable[str]:
    broken = report.broken
    yield from broken[:SHOWN]
    if len(broken) > SHOWN:
        yield f"… and {len(broken) - SHOWN} more"


def table(reports: Sequence[Report]) -> Iterable[str]:
    yield f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    for name, value in _rows(reports):
        yield f"{name:62} {value:>10}"


def matrix(reports: Sequence[Report]) -> Iterable[str]:
    """Each fault: in how many runs it was drawn, in how many it did its harm."""
    yield f"{'fault':20} {'runs':>5} {'struck':>7}"
    drawn: Counter[str] = Counter()
    struck: Counter[str] = Counter()
    for report in reports:
        drawn.update(fault.name for fault in report.schedule.faults)
        struck.update(fault.name for fault in report.schedule.faults if report.struck(fault))
    for name in MATRIX:
        if drawn[name]:
            yield f"{name:20} {drawn[name]:5} {struck[name]:7}"


def _rows(reports: Sequence[Report]) -> Iterable[tuple[str, str]]:
    verdicts = [report.verdict for report in reports]
    lost, doubled = (sum(map(len, which)) for which in zip(*((v.lost, v.doubled) for v in verdicts), strict=True))
    yield "runs", str(len(reports))
    yield "jobs", str(sum(verdict.jobs for verdict in verdicts))
    yield "parts", str(sum(verdict.parts for verdict in verdicts))
    yield "deaths of workers", str(sum(len(report.deaths) for report in reports))
    yield "starts of workers", str(sum(report.starts for report in reports))
    yield "jobs lost", str(lost)
    yield "results or ends written twice", str(doubled)
    yield "other violations", str(sum(len(report.broken) for report in reports) - lost - doubled)
    yield "given up as worker_lost, by design", str(sum(len(verdict.exhausted) for verdict in verdicts))
    yield from _recovery_rows(reports)
    yield "everything over after the last fault, worst", _seconds(max(report.calm_seconds for report in reports))
    yield "seconds of a run, mean", _seconds(sum(report.seconds for report in reports) / len(reports))


def _recovery_rows(reports: Sequence[Report]) -> Iterable[tuple[str, str]]:
    """Where nobody was left who could claim anything, no time is promised; those are told apart."""
    kept: list[float] = []
    others: list[float] = []
    buried: list[float] = []
    for report in reports:
        for one in report.verdict.recoveries:
            promised = one.survived and not report.schedule.has_outage
            (kept if promised else others).append(one.seconds)
            buried += [one.buried] if promised else []
    yield f"given free after a death, p99 of {len(buried)}", _seconds(quantile(buried, 0.99))
    yield f"claimed again after a death, p99 of {len(kept)}", _seconds(quantile(kept, 0.99))
    yield f"the same, worst (promised for the p99: {RECOVERY_SECONDS} s)", _seconds(max(kept, default=0.0))
    yield f"with an outage or no survivor, worst of {len(others)}", _seconds(max(others, default=0.0))


def _names(schedule: Schedule) -> str:
    return ", ".join(fault.name for fault in schedule.faults)


def _seconds(value: float) -> str:
    return f"{value:.2f} s"


def quantile(values: Sequence[float], share: float) -> float:
    """The least value that is not below `share` of them; 0 of none."""
    return sorted(values)[math.ceil(share * len(values)) - 1] if values else 0.0
