"""`nightowl run`: one shot on the embedded stack. Starts what is needed, waits, prints, stops."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import typer

from domain.states import JobState
from nightowl.cli import options, show
from nightowl.cli.submitting import submit_each

if TYPE_CHECKING:
    from collections.abc import Sequence

    from domain.jobs import Job
    from nightowl.cli.progress import Progress
    from nightowl.client import Client
    from nightowl.stack import Stack

LOOK_SECONDS = 0.15
FOREGROUND = 10
"""Priority of jobs that somebody waits for."""


def run(
    kind: options.KindArgument,
    sources: options.SourcesArgument = None,
    param: options.ParamOption = None,
    engine: options.EngineOption = None,
    model: options.ModelOption = None,
    password: options.PasswordOption = None,
    key: options.KeyOption = None,
    fresh: options.FreshOption = False,
    json: options.JsonOption = False,
) -> None:
    """Run jobs now and print their results. Nothing needs to be set up before."""
    from nightowl.cli.progress import Progress

    _choose_engine(engine, model)
    params = options.parse_params(kind, param, password)
    files: Sequence[str | None] = sources or [None]
    options.check_key(key, files)
    with Progress(quiet=json) as progress, embedded_stack(progress) as stack, _client() as client:
        submitted = submit_each(
            files,
            lambda file: client.submit(params, file, key=key, priority=FOREGROUND, fresh=fresh),
            as_json=json,
        )
        jobs = submitted.jobs
        try:
            ended = watch(client, stack, jobs, progress)
        except KeyboardInterrupt:
            for job in jobs:
                client.cancel(job.id)
            raise
    print_results(ended, as_json=json)
    raise typer.Exit(0 if submitted.all_taken and all(job.state is JobState.SUCCEEDED for job in ended) else 1)


def _choose_engine(engine: str | None, model: str | None) -> None:
    """The worker of the stack reads its settings from the environment."""
    if engine is not None:
        os.environ["NIGHTOWL_ENGINE"] = engine
    if model is not None:
        os.environ["NIGHTOWL_MODEL"] = model


def embedded_stack(progress: Progress) -> Stack:
    """The stack of this data folder, not yet started."""
    from domain.settings import Settings
    from nightowl.stack import Stack

    settings = Settings()
    progress.say(f"starting (data in {settings.data_dir})")
    return Stack(settings, log=settings.data_dir / "logs" / "worker.log")


def _client() -> Client:
    from nightowl.client import Client

    return Client()


def watch(client: Client, stack: Stack, jobs: Sequence[Job], progress: Progress) -> list[Job]:
    """Wait until all jobs are over; keep the stack up meanwhile. Returns them as they ended."""
    ended: dict[str, Job] = {}
    while len(ended) < len({job.id for job in jobs}):
        stack.check()
        for job in jobs:
            if job.id not in ended:
                now = client.get(job.id)
                progress.update(now)
                if now.state.is_final:
                    ended[job.id] = now
        time.sleep(LOOK_SECONDS)
    return [ended[job.id] for job in jobs]


def print_results(jobs: Sequence[Job], *, as_json: bool) -> None:
    """Results on stdout, failures on stderr."""
    for job in jobs:
        if as_json:
            show.json_line(job.to_json())
            continue
        if job.result is not None:
            if len(jobs) > 1:
                show.line(f"==> {job.name} <==")
            show.line(job.result.text)
        if job.state is not JobState.SUCCEEDED:
            show.note(show.outcome(job))
