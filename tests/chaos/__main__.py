"""`python -m tests.chaos run`: seeded runs, a line each and a table at the end. `soak`: a mixed load for a set time."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from tests.chaos import faults, report, schedule, seams, soak
from tests.chaos.report import Record
from tests.chaos.run import make_pool, run
from tests.chaos.site import Postgres, Site

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.chaos.schedule import Schedule


def main() -> int:
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything that was started is stopped
    return int(options.command(options))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    commands = parser.add_subparsers(required=True)
    runs = commands.add_parser("run", help="seeded runs with faults")
    runs.set_defaults(command=_run)
    runs.add_argument("--runs", type=int, default=10)
    runs.add_argument("--jobs", type=int, default=100)
    runs.add_argument("--workers", type=int, default=3)
    runs.add_argument("--seed", type=int, default=1, help="of the first run; the next one has the next")
    runs.add_argument("--database", choices=("sqlite", "postgres", "both"), default="both")
    runs.add_argument("--faults", nargs="*", default=(), choices=list(faults.MATRIX), metavar="NAME")
    runs.add_argument("--most", type=int, default=schedule.FAULTS_AT_MOST, help="most faults of one run")
    runs.add_argument("--dry", action="store_true", help="print the schedules and run nothing")
    runs.add_argument("--keep", action="store_true", help="keep logs and ledger of a run that broke something")
    runs.add_argument("--records", type=Path, metavar="FILE", help="add a line of JSON for each run")
    runs.add_argument("--mutation", choices=list(seams.MUTATIONS), help="break a promise on purpose; must be found")
    tables = commands.add_parser("table", help="the tables over records of several calls")
    tables.set_defaults(command=_print_table)
    tables.add_argument("files", type=Path, nargs="+")
    soaks = commands.add_parser("soak", help="a mixed load for a set time; fails on what grows")
    soaks.set_defaults(command=_soak)
    soaks.add_argument("--seconds", type=float, default=1200)
    soaks.add_argument("--workers", type=int, default=2)
    soaks.add_argument("--database", choices=(faults.SQLITE, faults.POSTGRES), default=faults.SQLITE)
    names = commands.add_parser("faults", help="print the fault matrix")
    names.set_defaults(command=_print_matrix)
    return parser.parse_args()


def _print_matrix(_: argparse.Namespace) -> int:
    for kind in faults.MATRIX.values():
        print(f"{kind.name:20} {'/'.join(kind.databases):16} {kind.sentence}")
    return 0


def _run(options: argparse.Namespace) -> int:
    schedules = [_draw(options, seed) for seed in range(options.seed, options.seed + options.runs)]
    if options.dry:
        for one in schedules:
            print("\n".join(report.schedule_lines(one)))
        return 0
    if options.mutation:
        os.environ[seams.MUTATION] = options.mutation
    records = list(_records(schedules, options))
    print("", report.machine(), *_tables(records), sep="\n")
    if idle := report.never_struck(records):
        print("", f"did no harm in any run, so nothing is shown: {', '.join(idle)}", sep="\n")
    return 1 if idle or any(record.broken for record in records) else 0


def _print_table(options: argparse.Namespace) -> int:
    lines = [line for file in options.files for line in file.read_text().splitlines()]
    print(*_tables([Record.from_json(line) for line in lines]), sep="\n")
    return 0


def _tables(records: Sequence[Record]) -> list[str]:
    return [*report.matrix(records), "", *report.table(records)]


def _draw(options: argparse.Namespace, seed: int) -> Schedule:
    databases = (faults.SQLITE, faults.POSTGRES) if options.database == "both" else (options.database,)
    return schedule.draw(
        seed, jobs=options.jobs, workers=options.workers, databases=databases, wanted=options.faults, most=options.most
    )


def _soak(options: argparse.Namespace) -> int:
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="nightowl-soak-sources-", dir="/tmp"))
        postgres = stack.enter_context(Postgres()) if options.database == faults.POSTGRES else None
        site = stack.enter_context(Site(workers=options.workers, postgres=postgres))
        outcome = soak.soak(site, Path(folder), seconds=options.seconds)
    print(f"{report.machine()}, {options.workers} workers on {options.database}", *outcome.lines(), sep="\n")
    return 1 if outcome.broken or any(one.grows for one in outcome.trends) else 0


def _records(schedules: Sequence[Schedule], options: argparse.Namespace) -> Iterator[Record]:
    """The runs one after the other. Those on one database share its site, and so its processes while they live."""
    sites: dict[str, Site] = {}
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="nightowl-chaos-sources-", dir="/tmp"))
        pool = make_pool(Path(folder), options.jobs)
        for one in schedules:
            if one.database not in sites:
                postgres = stack.enter_context(Postgres()) if one.database == faults.POSTGRES else None
                sites[one.database] = stack.enter_context(Site(workers=options.workers, postgres=postgres))
            done = Record.of(run(sites[one.database], one, pool))
            _print(done, sites[one.database], options)
            yield done


def _print(done: Record, site: Site, options: argparse.Namespace) -> None:
    print(report.line(done), flush=True)
    if options.records:
        with options.records.open("a") as file:
            file.write(done.to_json() + "\n")
    if not done.broken:
        return
    for problem in report.problems(done):
        print(f"       {problem}")
    named = f" --faults {' '.join(options.faults)}" if options.faults else ""
    named += f" --mutation {options.mutation}" if options.mutation else ""
    print(
        f"       again: python -m tests.chaos run --runs 1 --seed {done.seed} --jobs {options.jobs} "
        f"--workers {options.workers} --database {options.database} --most {options.most}{named}",
        flush=True,
    )
    if options.keep:
        print(f"       logs and ledger: {site.keep()}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
