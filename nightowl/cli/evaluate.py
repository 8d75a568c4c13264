"""Commands `nightowl eval …`: data sets through the queue, reports, comparisons, ratings."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from domain.errors import ParamsError, SetupError
from domain.kinds import Kind
from nightowl.cli import options, show

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from domain.settings import Settings
    from nightowl.cli.progress import Progress
    from nightowl.evaluation.compare import Change, Comparison
    from nightowl.evaluation.items import Item, Task
    from nightowl.evaluation.rating import Tally
    from nightowl.stack import Stack
    from storage.evaluations import EvalItem, EvalRun
    from storage.session import Database

app = typer.Typer(
    name="eval",
    help="Measure results: run a data set through the queue, score it, compare runs, rate answers.",
    no_args_is_help=True,
    add_completion=False,
)

ManifestArgument = Annotated[Path, typer.Argument(help="The data set; docs/evaluation.md describes the formats.")]
NameOption = Annotated[str | None, typer.Option(help="What to call the run.", show_default=False)]
OnlyOption = Annotated[str | None, typer.Option(help="Only items whose name contains this.", show_default=False)]
LimitOption = Annotated[int | None, typer.Option(min=1, help="At most so many items.", show_default=False)]
MediaOption = Annotated[
    Path | None, typer.Option(help="Folder of the files; by default that of the manifest.", show_default=False)
]
ReportOption = Annotated[
    Path | None, typer.Option(help="Where to write the report; by default in the data folder.", show_default=False)
]
PicturesOption = Annotated[bool, typer.Option("--pictures/--no-pictures", help="Put pictures of sources beside texts.")]
RunningOption = Annotated[bool, typer.Option("--running", help="Use the workers that are running; start none.")]
RunArgument = Annotated[str, typer.Argument(help="Name of a run, or the first letters of its id.", metavar="RUN")]
SHORT_ID = 13


def _add(kind: Kind, says: str) -> None:
    """A command that scores what jobs of this kind give for each source of a data set."""

    @app.command(str(kind), help=says)
    def command(
        manifest: ManifestArgument,
        param: options.ParamOption = None,
        name: NameOption = None,
        only: OnlyOption = None,
        limit: LimitOption = None,
        media: MediaOption = None,
        report: ReportOption = None,
        pictures: PicturesOption = True,
        running: RunningOption = False,
        engine: options.EngineOption = None,
        model: options.ModelOption = None,
        json: options.JsonOption = False,
    ) -> None:
        wanted = Wanted(manifest, name, only, limit, media, report, pictures, running)
        evaluate(str(kind), wanted, _params(kind, param), engine=engine, model=model, json=json)


_add(Kind.OCR, "Character and word error rates, reading order, seconds per page.")
_add(
    Kind.SUMMARIZE,
    "ROUGE, BLEU, METEOR (exact and stem) and CIDEr where there are references; what the source does not support.",
)
_add(
    Kind.CAPTION,
    "CIDEr, BLEU, METEOR (exact and stem), ROUGE, text on screen; categories and retrieval of Youku-mPLUG.",
)


@app.command()
def owleval(
    manifest: ManifestArgument,
    param: options.ParamOption = None,
    name: NameOption = None,
    only: OnlyOption = None,
    limit: LimitOption = None,
    report: ReportOption = None,
    pictures: PicturesOption = True,
    running: RunningOption = False,
    engine: options.EngineOption = None,
    model: options.ModelOption = None,
    json: options.JsonOption = False,
) -> None:
    """Answer OwlEval's 82 questions, conversations turn by turn. `eval rate` makes the page to rate the answers on."""
    wanted = Wanted(manifest, name, only, limit, None, report, pictures, running)
    evaluate("owleval", wanted, _params(Kind.ASK, param), engine=engine, model=model, json=json)


class Wanted:
    """What the commands that run a data set have in common."""

    def __init__(
        self,
        manifest: Path,
        name: str | None,
        only: str | None,
        limit: int | None,
        media: Path | None,
        report: Path | None,
        pictures: bool,
        running: bool,
    ) -> None:
        self.manifest, self.name, self.media = manifest, name, media
        self.only, self.limit = only, limit
        self.report, self.pictures, self.running = report, pictures, running


def _params(kind: Kind, pairs: list[str] | None) -> dict[str, Any]:
    """Checked, as plain values. A question is given by the data set."""
    question = ["question=?"] if kind is Kind.ASK else []
    values = options.parse_params(kind, [*(pairs or ()), *question], None).to_json()
    return {name: value for name, value in values.items() if name != "question"}


def evaluate(
    task_name: str,
    wanted: Wanted,
    params: Mapping[str, Any],
    *,
    engine: str | None,
    model: str | None,
    json: bool,
) -> None:
    """Run, print, write the report. Exits 1 where a job did not succeed."""
    require_extra()
    from nightowl.evaluation import manifests
    from nightowl.evaluation.items import Task

    if wanted.running and (engine or model):
        raise ParamsError("with --running the workers choose the engine and the model")
    task = Task(task_name)
    items = manifests.read(task, wanted.manifest, params=params, media=wanted.media)
    items = manifests.narrow(items, only=wanted.only, limit=wanted.limit)
    if not items:
        raise ParamsError(
            f"{wanted.manifest} has no item for `eval {task}`"
            + (f" with {wanted.only!r} in its name" if wanted.only else "")
        )
    for variable, value in (("NIGHTOWL_ENGINE", engine), ("NIGHTOWL_MODEL", model)):
        if value is not None:
            os.environ[variable] = value
    run, found = _run(task, items, wanted, params, quiet=json)
    path = wanted.report or _settings().data_dir / "reports" / f"{task}-{run.id}.html"
    _write_report(run, found, path, pictures=wanted.pictures)
    _print(run, found, as_json=json)
    show.note(f"run {run.title}; report: {path}")
    raise typer.Exit(1 if any(item.error for item in found) else 0)


def require_extra() -> None:
    """Raises SetupError naming the extra where its packages are missing."""
    try:
        import nightowl.evaluation.report
        import nightowl.evaluation.scoring  # noqa: F401
    except ModuleNotFoundError as error:
        raise SetupError(f"`nightowl eval` needs {error.name}: pip install 'nightowl[eval]'") from error


def _settings() -> Settings:
    from domain.settings import Settings

    return Settings()


def _run(
    task: Task, items: Sequence[Item], wanted: Wanted, params: Mapping[str, Any], *, quiet: bool
) -> tuple[EvalRun, list[EvalItem]]:
    from nightowl.cli.progress import Progress
    from nightowl.client import Client
    from nightowl.evaluation.running import Evaluation

    with Progress(quiet=quiet) as progress, _stack(progress, running=wanted.running) as stack, Client() as client:
        check: Callable[[], None] = stack.check if stack is not None else lambda: None
        with _database() as database:
            evaluation = Evaluation(client, database, task=task, items=items, on_change=progress.update)
            run = evaluation.run(manifest=str(wanted.manifest.absolute()), name=wanted.name, params=params, check=check)
            return run, _items(database, run)


def _stack(progress: Progress, *, running: bool) -> AbstractContextManager[Stack | None]:
    from nightowl.cli.run import embedded_stack

    return nullcontext() if running else embedded_stack(progress)


@contextmanager
def _database() -> Iterator[Database]:
    from storage import migrations
    from storage.session import Database

    database = Database(_settings().database)
    try:
        migrations.require_current(database)
        yield database
    finally:
        database.close()


def _items(database: Database, run: EvalRun) -> list[EvalItem]:
    from storage import evaluations

    with database.read() as session:
        return evaluations.items(session, run.id)


def _load(name: str) -> tuple[EvalRun, list[EvalItem]]:
    from storage import evaluations

    with _database() as database:
        with database.read() as session:
            run = evaluations.find(session, name)
        return run, _items(database, run)


def _write_report(run: EvalRun, items: Sequence[EvalItem], path: Path, *, pictures: bool) -> None:
    from nightowl.evaluation import pictures as making
    from nightowl.evaluation import report

    made = making.of_sources({item.number: item.source for item in items}) if pictures else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(report.render(run, items, made), encoding="utf-8")


@app.command("list")
def list_runs(
    limit: Annotated[int, typer.Option(min=1, help="How many of the newest runs.")] = 20,
    json: options.JsonOption = False,
) -> None:
    """The runs, the newest first."""
    from storage import evaluations

    with _database() as database, database.read() as session:
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
    _table(("id", "name", "task", "items", "engine", "", "data set"), rows)


@app.command("show")
def show_run(run: RunArgument, json: options.JsonOption = False) -> None:
    """The scores of a run, and of each item."""
    require_extra()
    found, items = _load(run)
    _print(found, items, as_json=json)


@app.command()
def report(
    run: RunArgument,
    file: Annotated[Path, typer.Argument(help="The HTML file to write.")],
    pictures: PicturesOption = True,
) -> None:
    """Write the report of a run again."""
    require_extra()
    found, items = _load(run)
    _write_report(found, items, file, pictures=pictures)
    show.note(str(file))


@app.command()
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

    old, old_items = _load(before)
    new, new_items = _load(after)
    if old.task != new.task:
        raise ParamsError(f"{old.title} is a run of {old.task}, {new.title} one of {new.task}")
    found = compare(old_items, new_items, score=score or MAIN[Task(old.task)])
    _print_diff(found, as_json=json)
    raise typer.Exit(1 if fail_on_worse and found.worse else 0)


@app.command()
def rate(
    run: RunArgument,
    page: Annotated[Path, typer.Argument(help="The HTML page to write; its key goes beside it (.key.json).")],
    answers: Annotated[
        Path | None, typer.Option(help="Folder of other systems' answers (*.jsonl).", show_default=False)
    ] = None,
    name: Annotated[str, typer.Option(help="What our system is called in the tally.")] = "nightowl",
    seed: Annotated[int | None, typer.Option(help="Fixes how answers are shuffled.", show_default=False)] = None,
) -> None:
    """Make the page to rate OwlEval's answers on: blind, shuffled, keys 1 to 4."""
    require_extra()
    from nightowl.evaluation import owleval as reading
    from nightowl.evaluation import pictures, rating

    found, items = _load(run)
    if found.task != "owleval":
        raise ParamsError(f"{found.title} is a run of {found.task}; only answers to questions are rated (eval owleval)")
    others = reading.answers(answers) if answers else {}
    made = rating.make(
        items, others, pictures.of_sources({item.number: item.source for item in items}), ours=name, seed=seed
    )
    page.write_text(made.html, encoding="utf-8")
    key = page.with_suffix(".key.json")
    key.write_text(show.as_json(made.key), encoding="utf-8")
    show.note(f"page: {page}\nkey, not for raters: {key}")


@app.command()
def tally(
    key: Annotated[Path, typer.Argument(help="The key that `eval rate` wrote.")],
    ratings: Annotated[list[Path], typer.Argument(help="What the page saved, one file per rater.")],
    json: options.JsonOption = False,
) -> None:
    """Count the ratings: per system, single-turn and multi-turn, and per ability."""
    require_extra()
    from nightowl.evaluation import rating

    saved = [rating.load(path) for path in ratings]
    found = rating.tally(rating.load(key), saved)
    if json:
        for one in found:
            show.json_line(
                {
                    "system": one.system,
                    "part": one.part,
                    "rated": one.rated,
                    **dict(zip(rating.GRADES, one.grades, strict=True)),
                }
            )
        return
    _table(("questions", "system", "rated", *rating.GRADES, "A or B"), [_tally_row(one) for one in found])
    if (same := rating.agreement(saved)) is not None:
        show.line(f"the first two raters agree on {100 * same:.0f} % of what both rated")


def _tally_row(one: Tally) -> tuple[str, ...]:
    good = (one.grades[0] + one.grades[1]) / one.rated if one.rated else 0.0
    return (one.part, one.system, str(one.rated), *(str(count) for count in one.grades), f"{100 * good:.0f} %")


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


def _print(run: EvalRun, items: Sequence[EvalItem], *, as_json: bool) -> None:
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
    _table(("item", *names, ""), rows, rule=len(items))
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
            _table(("item", "before", "after", "change"), [_change_row(change) for change in changes])
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


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, rule: int | None = None) -> None:
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
