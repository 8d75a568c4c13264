"""Commands `nightowl eval list|show|report|diff`: what runs gave, and how two of them compare."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from domain.errors import ParamsError, SetupError
from nightowl.cli import options, show

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from nightowl.evaluation.compare import Change, Comparison
    from storage.evaluations import EvalItem, EvalRun
    from storage.session import Database

RunArgument = Annotated[str, typer.Argument(help="Name of a run, or the first letters of its id.", metavar="RUN")]
PicturesOption = Annotated[bool, typer.Option("--pictures/--no-pictures", help="Put pictures of sources beside texts.")]


def list_runs(
    limit: Annotated[int, typer.Option(min=1, help="How many of the newest runs.")] = 20,
    json: options.JsonOption = False,
) -> None:
    """The runs, the newest first."""
    from storage import evaluations

    with open_database() as database, database.read() as session:
        runs = evaluations.recent(session, limit=limit)
    if json:
        for run in runs:
            show.json_line(run_json(run))
        return
    rows = [
        (
            run.id,
            run.name or "",
            run.task,
            str(run.items),
            run.engine or "",
            "" if run.scores else "not ended",
            run.manifest,
        )
        for run in runs
    ]
    table(("id", "name", "task", "items", "engine", "", "data set"), rows)


def show_run(run: RunArgument, json: options.JsonOption = False) -> None:
    """The scores of a run, and of each item."""
    require_extra()
    found, items = load(run)
    print_run(found, items, as_json=json)


def report(
    run: RunArgument,
    file: Annotated[Path, typer.Argument(help="The HTML file to write.")],
    pictures: PicturesOption = True,
) -> None:
    """Write the report of a run again."""
    require_extra()
    found, items = load(run)
    write_report(found, items, file, pictures=pictures)
    show.note(str(file))


def diff(
    before: RunArgument,
    after: RunArgument,
    score: Annotated[
        str | None, typer.Option(help="The score to compare; by default the task's main one.", show_default=False)
    ] = None,
    fail_on_worse: Annotated[bool, typer.Option("--fail-on-worse", help="Exit 1 where an item got worse.")] = False,
    json: options.JsonOption = False,
) -> None:
    """What got better and what got worse from one run to another, item by item."""
    require_extra()
    from nightowl.evaluation.compare import compare
    from nightowl.evaluation.items import Task
    from nightowl.evaluation.scoring import MAIN

    old, old_items = load(before)
    new, new_items = load(after)
    if old.task != new.task:
        raise ParamsError(f"{old.title} is a run of {old.task}, {new.title} one of {new.task}")
    found = compare(old_items, new_items, score=score or MAIN[Task(old.task)])
    _print_diff(found, as_json=json)
    raise typer.Exit(1 if fail_on_worse and found.worse else 0)


def require_extra() -> None:
    """Raises SetupError naming the extra where its packages are missing."""
    try:
        import nightowl.evaluation.report
        import nightowl.evaluation.scoring  # noqa: F401
    except ModuleNotFoundError as error:
        raise SetupError(f"`nightowl eval` needs {error.name}: pip install 'nightowl[eval]'") from error


@contextmanager
def open_database() -> Iterator[Database]:
    from domain.settings import Settings
    from storage import migrations
    from storage.session import Database

    database = Database(Settings().database)
    try:
        migrations.require_current(database)
        yield database
    finally:
        database.close()


def items_of(database: Database, run: EvalRun) -> list[EvalItem]:
    from storage import evaluations

    with database.read() as session:
        return evaluations.items(session, run.id)


def load(name: str) -> tuple[EvalRun, list[EvalItem]]:
    from storage import evaluations

    with open_database() as database:
        with database.read() as session:
            run = evaluations.find(session, name)
        return run, items_of(database, run)


def write_report(run: EvalRun, items: Sequence[EvalItem], path: Path, *, pictures: bool) -> None:
    from nightowl.evaluation import pictures as making
    from nightowl.evaluation import report

    made = making.of_sources({item.number: item.source for item in items}) if pictures else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(report.render(run, items, made), encoding="utf-8")


def run_json(run: EvalRun) -> dict[str, Any]:
    from domain.jobs import iso

    return {
        "id": run.id,
        "name": run.name,
        "task": run.task,
        "manifest": run.manifest,
        "engine": run.engine,
        "model": run.model,
        "items": run.items,
        "scores": run.scores,
        "created_at": iso(run.created_at),
        "finished_at": iso(run.finished_at),
    }


def print_run(run: EvalRun, items: Sequence[EvalItem], *, as_json: bool) -> None:
    from nightowl.evaluation.report import show_score

    if as_json:
        for item in items:
            show.json_line(
                {
                    "run": run.id,
                    "name": item.name,
                    "job_id": item.job_id,
                    "scores": dict(item.scores),
                    "error": item.error,
                }
            )
        show.json_line(run_json(run))
        return
    groups = (run.scores or {}).get("groups", [])
    names = [name for name in dict.fromkeys(n for group in groups for n in group["scores"])]
    rows = [
        (item.name, *(show_score(item.scores.get(name), name) for name in names), item.error or "") for item in items
    ]
    rows += [
        (
            f"{group['name']} ({group['items']})",
            *(show_score(group["scores"].get(name), name) for name in names),
            f"{group['failed']} failed" if group["failed"] else "",
        )
        for group in groups
    ]
    table(("item", *names, ""), rows, rule=len(items))
    for name, value in (run.scores or {}).get("whole", {}).items():
        show.line(f"{name} {show_score(value, name)}")


def _print_diff(found: Comparison, *, as_json: bool) -> None:
    if as_json:
        for change in (*found.worse, *found.better):
            show.json_line(
                {
                    "name": change.name,
                    "score": change.score,
                    "before": change.before,
                    "after": change.after,
                    "gain": change.gain,
                }
            )
        return
    for title, changes in (("worse", found.worse), ("better", found.better)):
        if changes:
            show.line(f"{title} by {found.score}: {len(changes)}")
            table(("item", "before", "after", "change"), [_change_row(change) for change in changes])
    others = f" ({len(found.other_text)} with another text)" if found.other_text else ""
    show.line(f"{len(found.worse)} worse, {len(found.better)} better, {found.same} the same{others}")
    for title, names in (("only before", found.only_before), ("only after", found.only_after)):
        if names:
            show.line(f"{title}: {', '.join(names)}")


def _change_row(change: Change) -> tuple[str, ...]:
    from nightowl.evaluation.report import show_score

    sign = "+" if change.after > change.before else "-"
    moved = show_score(abs(change.after - change.before), change.score)
    return (
        change.name,
        show_score(change.before, change.score),
        show_score(change.after, change.score),
        f"{sign}{moved}",
    )


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, rule: int | None = None) -> None:
    """On stdout. Below row `rule` stand the sums."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=None, pad_edge=False, header_style="bold")
    for at, head in enumerate(heads):
        shown.add_column(
            head, justify="left" if at == 0 or not rows or not _is_number(rows[0][at]) else "right", overflow="fold"
        )
    for number, row in enumerate(rows):
        shown.add_row(*(Text(cell) for cell in row), style="bold" if rule is not None and number >= rule else None)
    Console(width=None if sys.stdout.isatty() else 200).print(shown)


def _is_number(cell: str) -> bool:
    return cell[:1].isdigit() or cell[:1] in "+-–"
