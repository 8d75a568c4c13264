"""What the commands print: JSON lines and texts on stdout, tables and progress on stderr where that is a terminal."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from domain.plain import one_line
from domain.states import JobState

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from domain.jobs import Job

COLOURS = {
    JobState.PENDING: "dim",
    JobState.RUNNING: "cyan",
    JobState.SUCCEEDED: "green",
    JobState.PARTIAL: "yellow",
    JobState.FAILED: "red",
    JobState.CANCELLED: "magenta",
}


def line(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def note(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def json_line(value: Mapping[str, Any]) -> None:
    line(json.dumps(value, ensure_ascii=False))


def as_json(value: Mapping[str, Any]) -> str:
    """A file's content, for people to look into."""
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"


def outcome(job: Job) -> str:
    """One line on how a job ended: for people, on stderr."""
    parts = f" {job.parts.succeeded}/{job.parts.total} parts" if job.parts.total else ""
    told = f", {marks(job)}" if marks(job) else ""
    text = f"{job.kind} {job.name}: {job.state}{parts}{told}"
    return one_line(f"{text}: {job.error.message} [{job.error.code}]" if job.error else text)


def marks(job: Job) -> str:
    """How many parts carry which mark: "2 suspect, 1 truncated"; empty if none does."""
    counts = job.result.data.get("marks", {}) if job.result else {}
    return ", ".join(f"{count} {mark}" for mark, count in counts.items())


def first_line(job: Job, *, width: int = 60) -> str:
    """The first line of the result, or the error."""
    if job.result is None:
        return job.error.message if job.error else ""
    text = next((piece.strip() for piece in job.result.text.splitlines() if piece.strip()), "(no text)")
    return text if len(text) <= width else text[: width - 1] + "…"


def table(jobs: Sequence[Job], *, ids: bool = True) -> None:
    """Jobs as a table on stdout."""
    from rich.console import Console
    from rich.table import Table

    now = datetime.now(UTC)
    shown = Table(box=None, pad_edge=False, header_style="bold")
    marked = any(marks(job) for job in jobs)
    for name in (
        *(("id",) if ids else ()),
        "job",
        "state",
        "parts",
        *(("marks",) if marked else ()),
        "seconds",
        "first line",
    ):
        shown.add_column(name, overflow="fold" if name == "id" else "ellipsis", no_wrap=name != "first line")
    for job in jobs:
        parts = f"{job.parts.over}/{job.parts.total}" if job.parts.total else "-"
        cells = (
            escape(f"{job.kind} {job.name}"),
            f"[{COLOURS[job.state]}]{job.state}[/]",
            parts,
            *((marks(job),) if marked else ()),
            f"{job.seconds(now=now):.1f}",
        )
        shown.add_row(*((job.id,) if ids else ()), *cells, escape(first_line(job)))
    Console(width=None if sys.stdout.isatty() else 160).print(shown)


def escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)
