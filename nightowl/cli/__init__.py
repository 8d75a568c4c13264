"""The command line. Every command imports what it needs when it runs, so that --help is quick."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import typer

from domain.errors import SETUP_EXIT
from nightowl.cli import batch, evaluate, export, jobs, machine, run

app = typer.Typer(
    name="nightowl",
    help="Reads documents and watches videos: jobs in, SQL rows out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    epilog="Exit codes: 0 all succeeded · 1 a job did not · 2 wrong usage · 3 set-up · 4 not found · 130 interrupted.",
)
COMMANDS: tuple[Callable[..., None], ...] = (
    *(run.run, jobs.submit, batch.batch, jobs.status, jobs.result, export.export, jobs.cancel, jobs.retry),
    *(machine.up, machine.worker, machine.migrate, machine.doctor),
)
for command in COMMANDS:
    app.command()(command)

app.add_typer(evaluate.app)

OK, NOT_ALL, USAGE, SETUP, NOT_FOUND, INTERRUPTED = 0, 1, 2, SETUP_EXIT, 4, 130


def main() -> None:
    """Run the command; an error that we know is one line on stderr, never a traceback."""
    from domain.errors import ConflictError, NightowlError, NotFoundError, ParamsError, SourceError

    codes = {ParamsError: USAGE, NotFoundError: NOT_FOUND, ConflictError: NOT_ALL, SourceError: NOT_ALL}
    try:
        app()
    except NightowlError as error:
        _end(f"nightowl: {error.message}", codes.get(type(error), SETUP))
    except KeyboardInterrupt:
        _end("nightowl: interrupted", INTERRUPTED)
    except UnicodeEncodeError as error:
        if error.reason != "surrogates not allowed":  # what the shell gave as bytes that are no UTF-8
            raise
        _end("nightowl: an argument is not UTF-8, and no row can hold it", USAGE)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(OK)
    except Exception as error:
        if (line := _explain(error)) is None:
            raise
        _end(f"nightowl: {line}", SETUP)


def _explain(error: Exception) -> str | None:
    """Errors of settings and of the database, in one line; None for a defect."""
    from pydantic import ValidationError
    from sqlalchemy.exc import DBAPIError

    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        name = "NIGHTOWL_" + "__".join(str(step) for step in first["loc"]).upper()
        return f"setting {name}: {first['msg']}"
    if isinstance(error, DBAPIError):
        return f"the database cannot be used: {str(error.orig).strip().splitlines()[0]} (setting NIGHTOWL_DATABASE_URL)"
    return None


def _end(message: str, code: int) -> None:
    sys.stderr.write(message + "\n")
    sys.exit(code)
