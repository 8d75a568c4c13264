"""`python -m tests.chaos run`: seeded runs, a line each and a table at the end. `soak`: a mixed load for a set time."""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from tests.chaos import faults, report, schedule
from tests.chaos.oracle import Oracle
from tests.chaos.run import make_pool, run
from tests.chaos.site import Postgres, Site

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.chaos.run import Report
    from tests.chaos.schedule import Schedule


def main() -> int:
    options = _options()
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
    reports = list(_reports(schedules, options))
    print("", *report.matrix(reports), "", *report.table(reports), sep="\n")
    return 1 if any(one.broken for one in reports) else 0


def _draw(options: argparse.Namespace, seed: int) -> Schedule:
    databases = (faults.SQLITE, faults.POSTGRES) if options.database == "both" else (options.database,)
    return schedule.draw(
        seed, jobs=options.jobs, workers=options.workers, databases=databases, wanted=options.faults, most=options.most
    )


def _reports(schedules: Sequence[Schedule], options: argparse.Namespace) -> Iterator[Report]:
    """The runs one after the other. Those on one database share its site, and so its processes while they live."""
    sites: dict[str, Site] = {}
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="nightowl-chaos-sources-", dir="/tmp"))
        pool = make_pool(Path(folder), Oracle(), options.jobs)
        for one in schedules:
            if one.database not in sites:
                postgres = stack.enter_context(Postgres()) if one.database == faults.POSTGRES else None
                sites[one.database] = stack.enter_context(Site(workers=options.workers, postgres=postgres))
            done = run(sites[one.database], one, pool)
            _print(done, sites[one.database], options)
            yield done


def _print(done: Report, site: Site, options: argparse.Namespace) -> None:
    print(report.line(done), flush=True)
    if not done.broken:
        return
    for problem in report.problems(done):
        print(f"       {problem}")
    named = f" --faults {' '.join(options.faults)}" if options.faults else ""
    print(
        f"       again: python -m tests.chaos run --runs 1 --seed {done.schedule.seed} --jobs {options.jobs} "
        f"--workers {options.workers} --database {options.database} --most {options.most}{named}",
        flush=True,
    )
    if options.keep:
        print(f"       logs and ledger: {site.keep()}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
