"""Commands `nightowl eval …`: data sets through the queue; looking at runs and rating answers stand beside this."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from domain.errors import ParamsError
from domain.kinds import Kind
from nightowl.cli import eval_rating, eval_runs, options, show

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from nightowl.cli.progress import Progress
    from nightowl.evaluation.items import Item, Task
    from nightowl.stack import Stack
    from storage.evaluations import EvalItem, EvalRun

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
RunningOption = Annotated[bool, typer.Option("--running", help="Use the workers that are running; start none.")]


def _add(task: str, kind: Kind, says: str) -> None:
    """A command that scores what jobs of this kind give for each source of a data set."""

    @app.command(task, help=says)
    def command(
        manifest: ManifestArgument,
        param: options.ParamOption = None,
        name: NameOption = None,
        only: OnlyOption = None,
        limit: LimitOption = None,
        media: MediaOption = None,
        report: ReportOption = None,
        pictures: eval_runs.PicturesOption = True,
        running: RunningOption = False,
        engine: options.EngineOption = None,
        model: options.ModelOption = None,
        json: options.JsonOption = False,
    ) -> None:
        wanted = Wanted(manifest, name, only, limit, media, report, pictures, running)
        evaluate(task, wanted, _params(kind, param), engine=engine, model=model, json=json)


_add("ocr", Kind.OCR, "Character and word error rates, reading order, seconds per page.")
_add(
    "summarize",
    Kind.SUMMARIZE,
    "ROUGE, BLEU, METEOR (exact and stem) and CIDEr where there are references; what the source does not support.",
)
_add(
    "caption",
    Kind.CAPTION,
    "CIDEr, BLEU, METEOR (exact and stem), ROUGE, text on screen; categories and retrieval of Youku-mPLUG.",
)
_add(
    "owleval",
    Kind.ASK,
    "Answer OwlEval's 82 questions, conversations turn by turn. `eval rate` makes the page to rate the answers on.",
)
for _command in (
    eval_runs.list_runs,
    eval_runs.show_run,
    eval_runs.report,
    eval_runs.diff,
    eval_rating.rate,
    eval_rating.tally,
):
    app.command(_command.__name__.partition("_")[0])(_command)


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
    eval_runs.require_extra()
    from domain.settings import Settings
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
    path = wanted.report or Settings().data_dir / "reports" / f"{task}-{run.id}.html"
    eval_runs.write_report(run, found, path, pictures=wanted.pictures)
    eval_runs.print_run(run, found, as_json=json)
    show.note(f"run {run.title}; report: {path}")
    raise typer.Exit(1 if any(item.error for item in found) else 0)


def _run(
    task: Task, items: Sequence[Item], wanted: Wanted, params: Mapping[str, Any], *, quiet: bool
) -> tuple[EvalRun, list[EvalItem]]:
    from nightowl.cli.progress import Progress
    from nightowl.client import Client
    from nightowl.evaluation.running import Evaluation

    with Progress(quiet=quiet) as progress, _stack(progress, running=wanted.running) as stack, Client() as client:
        check: Callable[[], None] = stack.check if stack is not None else lambda: None
        with eval_runs.open_database() as database:
            evaluation = Evaluation(client, database, task=task, items=items, on_change=progress.update)
            run = evaluation.run(manifest=str(wanted.manifest.absolute()), name=wanted.name, params=params, check=check)
            return run, eval_runs.items_of(database, run)


def _stack(progress: Progress, *, running: bool) -> AbstractContextManager[Stack | None]:
    from nightowl.cli.run import embedded_stack

    return nullcontext() if running else embedded_stack(progress)
