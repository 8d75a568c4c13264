"""Commands on jobs: submit, status, result, cancel, retry."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from domain.states import JobState
from nightowl.cli import options, show
from nightowl.cli.batch import print_summary
from nightowl.cli.submitting import submit_each

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from domain.jobs import Job
    from nightowl.client import Client


@contextmanager
def _client() -> Iterator[Client]:
    from nightowl.client import Client

    with Client() as client:
        yield client


def submit(
    kind: options.KindArgument,
    sources: options.SourcesArgument = None,
    param: options.ParamOption = None,
    engine: options.EngineOption = None,
    password: options.PasswordOption = None,
    priority: options.PriorityOption = 0,
    key: options.KeyOption = None,
    fresh: options.FreshOption = False,
    upload: options.UploadOption = None,
    callback: Annotated[str | None, typer.Option(help="URL told when a job ends.", show_default=False)] = None,
    wait: options.WaitOption = False,
    json: options.JsonOption = False,
) -> None:
    """Store jobs for the workers that are running, and print their ids."""
    params = options.parse_params(kind, param, password)
    files: Sequence[str | None] = sources or [None]
    options.check_key(key, files)
    with _client() as client:
        how: dict[str, Any] = {"key": key, "priority": priority, "engine": engine, "upload": upload}
        how |= {"fresh": fresh, "callback": callback}
        submitted = submit_each(files, lambda file: client.submit(params, file, **how), as_json=json)
        jobs = [client.wait(job.id) for job in submitted.jobs] if wait else submitted.jobs
    for job in jobs:
        show.json_line(job.to_json()) if json else show.line(show.outcome(job) if wait else job.id)
    if wait or not submitted.all_taken:
        succeeded = not wait or all(job.state is JobState.SUCCEEDED for job in jobs)
        raise typer.Exit(0 if submitted.all_taken and succeeded else 1)


def status(
    jobs: options.JobsArgument = None,
    batch: options.BatchOption = None,
    state: Annotated[list[JobState] | None, typer.Option(help="Only jobs in this state; repeat for more.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many of the newest jobs.")] = 20,
    watch: Annotated[
        bool, typer.Option("--watch", help="How work stands, again and again; of one batch if it is named.")
    ] = False,
    json: options.JsonOption = False,
) -> None:
    """Show jobs: those named, or the newest; or how a batch stands."""
    options.check_batch(batch, jobs, optional=True)
    if watch:
        _watch([batch] if batch else jobs or [], as_json=json)
        return
    with _client() as client:
        if batch is not None:
            print_summary(client.batch(batch), as_json=json)
            return
        found = [client.find(job) for job in jobs] if jobs else client.recent(limit=limit, states=state or ())
        counts = client.counts()
    if json:
        for job in found:
            show.json_line(job.to_json())
        return
    show.table(found)
    if not jobs:
        show.line(", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "no jobs yet")


def _watch(names: list[str], *, as_json: bool) -> None:
    """Raises ParamsError and NotFoundError."""
    from domain.errors import ParamsError
    from nightowl.cli.watch import watch

    if len(names) > 1:
        raise ParamsError(f"--watch takes one batch, not {len(names)} names")
    with _client() as client:
        watch(client, client.batch_id(names[0]) if names else None, as_json=as_json)


def result(
    job: options.JobArgument,
    parts: Annotated[bool, typer.Option("--parts", help="The parts, one by one, instead of the whole.")] = False,
    save: Annotated[Path | None, typer.Option(help="Folder to write the job's files into.", show_default=False)] = None,
    json: options.JsonOption = False,
) -> None:
    """Print what a job gave back. Exits 1 where it has not succeeded."""
    with _client() as client:
        found = client.find(job)
        if save is not None:
            for path in client.save(found.id, save):
                show.note(str(path))
        if parts:
            _print_parts(client, found, as_json=json)
        elif json:
            show.json_line(found.to_json())
        elif found.result is not None:
            show.line(found.result.text)
    if found.state is not JobState.SUCCEEDED:
        if not json:
            show.note(show.outcome(found))
        raise typer.Exit(1)


def _print_parts(client: Client, job: Job, *, as_json: bool) -> None:
    for part in client.parts(job.id):
        if as_json:
            show.json_line(part.to_json())
        else:
            place = ", ".join(f"{name} {value}" for name, value in part.spec.items())
            show.line(f"--- {part.number} ({place}): {part.state}")
            show.line(part.text or (f"{part.error.message} [{part.error.code}]" if part.error else ""))


def cancel(
    jobs: options.JobsArgument = None,
    batch: options.BatchOption = None,
    json: options.JsonOption = False,
) -> None:
    """End jobs. Work on them stops within about a second; a job that is over stays as it is."""
    options.check_batch(batch, jobs)
    with _client() as client:
        if batch is not None:
            print_summary(client.cancel_batch(batch), as_json=json)
        for job in [client.cancel(client.find(name).id) for name in jobs or ()]:
            show.json_line(job.to_json()) if json else show.line(show.outcome(job))


def retry(
    jobs: options.JobsArgument = None,
    batch: options.BatchOption = None,
    password: options.PasswordOption = None,
    json: options.JsonOption = False,
) -> None:
    """Try failed, partial or cancelled jobs again. Parts that succeeded are kept."""
    options.check_batch(batch, jobs)
    password = options.read_password(password)
    with _client() as client:
        if batch is not None:
            count = client.retry_batch(batch, password=password)
            show.json_line({"type": "retried", "jobs": count}) if json else show.line(f"{count} jobs opened again")
        for job in [client.retry(client.find(name).id, password=password) for name in jobs or ()]:
            show.json_line(job.to_json()) if json else show.line(show.outcome(job))
