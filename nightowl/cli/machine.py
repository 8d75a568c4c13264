"""Commands on the machine: up, worker, migrate, doctor."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from nightowl.cli import options, show

if TYPE_CHECKING:
    from domain.settings import Settings

CHECK_SECONDS = 0.5


def _settings() -> Settings:
    from domain.settings import Settings

    return Settings()


def up(
    engine: options.EngineOption = None, model: options.ModelOption = None, json: options.JsonOption = False
) -> None:
    """Start the embedded stack and keep it running until Ctrl-C: Redis, one worker, this machine's database."""
    from nightowl.stack import Stack

    _export(ENGINE=engine, MODEL=model, LOG_FORMAT="json" if json else None)
    settings = _settings()
    signal.signal(signal.SIGTERM, lambda *_: _interrupt())
    with Stack(settings) as stack:
        if not stack.owns:
            show.note(f"a stack is up already for {settings.data_dir}")
            raise typer.Exit(1)
        show.note(f"up: data in {settings.data_dir}; submit with `nightowl submit`, stop with Ctrl-C")
        while True:
            time.sleep(CHECK_SECONDS)
            stack.check()


def _interrupt() -> None:
    raise KeyboardInterrupt


def worker(
    queues: Annotated[str | None, typer.Option(help="cpu plans, gpu runs: cpu,gpu or one of them.")] = None,
    concurrency: Annotated[int | None, typer.Option(min=1, help="Slices in hand at a time.")] = None,
    gpu: Annotated[str | None, typer.Option(help="GPUs of this machine, such as 0,1: one process for each.")] = None,
    engine: options.EngineOption = None,
    model: options.ModelOption = None,
    json: options.JsonOption = False,
) -> None:
    """Run one worker process, or one per GPU, for the database and broker of the settings. SIGTERM gives work back."""
    _export(
        QUEUES=queues,
        CONCURRENCY=None if concurrency is None else str(concurrency),
        ENGINE=engine,
        MODEL=model,
        LOG_FORMAT="json" if json else None,
    )
    settings = _settings()  # a wrong setting is told here, in one line
    if gpu is not None:
        from nightowl.fleet import STOP_MARGIN_SECONDS, Fleet, parse_gpus

        Fleet(parse_gpus(gpu), stop_seconds=settings.grace_seconds + STOP_MARGIN_SECONDS).watch()
        return
    os.execv(sys.executable, [sys.executable, "-m", "worker"])


def _export(**values: str | None) -> None:
    """Options become settings of the process that is started."""
    os.environ.update({f"NIGHTOWL_{name}": value for name, value in values.items() if value is not None})


def migrate(json: options.JsonOption = False) -> None:
    """Bring the database of the settings to this version's schema. Safe to run twice."""
    from storage import migrations
    from storage.session import Database

    database = Database(_settings().database)
    try:
        migrations.upgrade(database)
        revision = migrations.revision(database)
    finally:
        database.close()
    show.json_line({"revision": revision}) if json else show.line(f"database at revision {revision}")


def doctor(
    engine: Annotated[bool, typer.Option("--engine/--no-engine", help="Load the engine and generate with it.")] = True,
    ledger: Annotated[
        bool, typer.Option("--ledger", help="Ask the ledger instead whether every promise holds.")
    ] = False,
    json: options.JsonOption = False,
) -> None:
    """Check this installation: settings, database, broker, readers, engine. Exits 3 where something is wrong.

    With --ledger: look for rows that break a promise, print them, and exit 1 where there are any.
    """
    from nightowl import checks

    settings = _settings()
    if ledger:
        _doctor_of_ledger(settings, json=json)
        return
    results = list(checks.all_checks(settings, engine=engine))
    if json:
        for found in results:
            show.json_line(found.to_json())
    else:
        checks.print_settings(settings)
        checks.print_checks(results)
    raise typer.Exit(0 if all(found.ok for found in results) else 3)


def _doctor_of_ledger(settings: Settings, *, json: bool) -> None:
    from nightowl import checks

    found = checks.ledger(settings)
    for violation in found.violations:
        show.json_line(violation.to_json()) if json else show.line(checks.sentence(violation))
    show.json_line(found.summary.to_json()) if json else checks.print_checks([found.summary])
    raise typer.Exit(0 if found.summary.ok else 1)
