"""The command export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from domain.states import JobState
from nightowl.cli import show
from nightowl.export import Format, Suffix

if TYPE_CHECKING:
    from nightowl.client import Client
    from storage.exports import Which


def export(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="A batch, by name or id; or ids of jobs. All jobs if none.", metavar="BATCH|JOB"),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File or folder; stdout if unset.", show_default=False)
    ] = None,
    format: Annotated[
        Format | None, typer.Option(help="By default what the output's ending says.", show_default=False)
    ] = None,
    state: Annotated[list[JobState] | None, typer.Option(help="Only jobs in this state; repeat for more.")] = None,
    since: Annotated[int, typer.Option(help="Only jobs that changed after this change number.")] = 0,
    file: Annotated[
        list[Suffix] | None, typer.Option(help="Files of each job in a folder or zip; by default md json srt vtt.")
    ] = None,
) -> None:
    """Write results out: JSON lines, CSV, Parquet, or a folder or zip that mirrors the members' paths."""
    from nightowl.client import Client
    from nightowl.export import export as write
    from nightowl.export import format_of

    chosen = format_of(output, format)
    suffixes = file or [Suffix.MD, Suffix.JSON, Suffix.SRT, Suffix.VTT]
    with Client() as client:
        which = _which(client, names or [], since=since, states=tuple(state or ()))
        report = write(client.results(which), output, format=chosen, suffixes=suffixes, read=client.read)
    show.note(str(report))


def _which(client: Client, names: list[str], *, since: int, states: tuple[JobState, ...]) -> Which:
    """One name may be a batch's; several are jobs'. Raises NotFoundError."""
    from domain.errors import NotFoundError
    from storage.exports import Which

    if len(names) == 1:
        try:
            return Which(batch_id=client.batch_id(names[0]), states=states)
        except NotFoundError:
            pass
    return Which(job_ids=tuple(client.find(name).id for name in names), since=since, states=states)
