"""`nightowl batch`: a job of every file in a folder, an archive, a manifest or a list."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from domain.batches import BATCH_PRIORITY
from domain.errors import ParamsError
from domain.plain import one_line
from domain.sources import masked
from domain.states import JobState
from nightowl.cli import options, show

if TYPE_CHECKING:
    from collections.abc import Mapping

    from domain.batches import BatchReport, BatchSummary, Found, Skipped
    from nightowl.batches import Watcher

PathsArgument = Annotated[
    list[str],
    typer.Argument(help="Folders, patterns, archives, manifests, files or URLs; - reads stdin.", metavar="PATH..."),
]


def batch(
    kind: options.KindArgument,
    paths: PathsArgument,
    name: Annotated[str | None, typer.Option(help="Name of the batch; made of the paths if unset.")] = None,
    param: options.ParamOption = None,
    engine: options.EngineOption = None,
    password: options.PasswordOption = None,
    priority: Annotated[int, typer.Option(help="Of its jobs; below 0 yields to other jobs.")] = BATCH_PRIORITY,
    share: Annotated[int | None, typer.Option(min=1, help="Most parts of the batch in flight.")] = None,
    include: Annotated[list[str] | None, typer.Option(help="Only paths of this pattern; repeat for more.")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="No paths of this pattern; repeat for more.")] = None,
    fresh: options.FreshOption = False,
    upload: options.UploadOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read everything, store nothing, say what would be.")
    ] = False,
    callback: Annotated[str | None, typer.Option(help="URL told when the batch is over.", show_default=False)] = None,
    callback_each: Annotated[
        bool, typer.Option("--callback-each", help="Tell it of the end of each job, too.")
    ] = False,
    wait: options.WaitOption = False,
    json: options.JsonOption = False,
) -> None:
    """Submit many files as one batch. The same again adds what is missing.

    With --wait the exit code is 0 only if all jobs succeeded; where there is nothing to do it is 1. Members that were
    skipped are told with why.
    """
    from nightowl.client import Client

    if password == "-" and "-" in paths:
        raise ParamsError("stdin cannot give both the paths and the password")
    params = options.parse_params(kind, param, password)
    with Client() as client:
        report = client.submit_batch(
            params,
            [sys.stdin.buffer if path == "-" else path for path in paths],
            name=name,
            include=include or (),
            exclude=exclude or (),
            priority=priority,
            engine=engine,
            share=share,
            fresh=fresh,
            upload=upload,
            dry_run=dry_run,
            callback=callback,
            callback_each=callback_each,
            watcher=_watcher(as_json=json, dry_run=dry_run),
        )
        show.json_line(report.to_json()) if json else _print_report(report)
        if not report.added + report.already:
            why = "everything in it was skipped" if report.skipped else "it holds no file that is asked for"
            show.note(f"nightowl: no job comes of {one_line(', '.join(map(masked, paths)))}: {why}")
            raise typer.Exit(1)
        if wait and report.batch is not None:
            with Live(quiet=json) as live:
                summary = client.wait_batch(report.batch.id, seen=live.update)
            print_summary(summary, as_json=json)
            raise typer.Exit(0 if set(summary.states) <= {JobState.SUCCEEDED} else 1)


def _watcher(*, as_json: bool, dry_run: bool) -> Watcher:
    from nightowl.batches import Watcher

    def skipped(entry: Skipped) -> None:
        if as_json:
            show.json_line({"type": "skipped", "path": entry.path, "code": entry.code, "message": entry.message})
        else:
            show.note(f"skipped {entry.path}: {entry.message} [{entry.code}]")

    def found(entry: Found) -> None:
        if not dry_run:
            return
        line = {"type": "found", "path": entry.path, "size": entry.size, "format": entry.format}
        show.json_line(line) if as_json else show.line(
            f"{entry.path} ({entry.format or 'unknown'}, {entry.size} bytes)"
        )

    def progress(report: BatchReport) -> None:
        if not as_json and sys.stderr.isatty():
            sys.stderr.write(f"\r{report.added} added, {report.already} already there")
            sys.stderr.flush()

    return Watcher(progress=progress, skipped=skipped, found=found)


def _print_report(report: BatchReport) -> None:
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")
    skipped = f", {sum(report.skipped.values())} skipped ({_counts(report.skipped)})" if report.skipped else ""
    if report.batch is None:
        show.line(f"would add {report.added}{skipped}")
        return
    show.line(f"batch {report.batch.name} ({report.batch.id})")
    show.line(f"{report.added} added, {report.reused} reused, {report.already} already there{skipped}")


def print_summary(summary: BatchSummary, *, as_json: bool) -> None:
    """How a batch stands, on stdout."""
    if as_json:
        show.json_line(summary.to_json())
        return
    show.line(f"batch {summary.batch.name} ({summary.batch.id})")
    show.line(f"{summary.jobs} jobs: {_counts(summary.states) or 'none'}")
    if summary.reused:
        show.line(f"reused: {summary.reused}")
    if summary.codes:
        show.line(f"errors: {_counts(summary.codes)}")
    if summary.skipped:
        show.line(f"skipped: {_counts(summary.skipped)}")
    show.line(f"parts: {summary.parts_over} of {summary.parts_total} over")


def _counts(counts: Mapping[JobState, int] | Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items(), key=lambda item: str(item[0])))


class Live:
    """One line on stderr that says how far a batch is; a new line per change where that is no terminal."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._last = ""

    def __enter__(self) -> Live:
        return self

    def __exit__(self, *_: object) -> None:
        if self._last and sys.stderr.isatty():
            sys.stderr.write("\n")

    def update(self, summary: BatchSummary) -> None:
        text = f"{summary.jobs - summary.open} of {summary.jobs} jobs over ({_counts(summary.states)})"
        if self._quiet or text == self._last:
            return
        self._last = text
        sys.stderr.write(f"\r\x1b[K{text}" if sys.stderr.isatty() else f"{text}\n")
        sys.stderr.flush()
