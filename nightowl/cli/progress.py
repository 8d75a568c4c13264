"""Live progress of jobs on stderr: bars on a terminal, a line per change elsewhere."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Self

from nightowl.cli import show

if TYPE_CHECKING:
    from domain.jobs import Job


class Progress:
    """Use as a context manager; tell it of every job as often as you look."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._bars: Any = None
        self._tasks: dict[str, Any] = {}
        self._last: dict[str, str] = {}

    def __enter__(self) -> Self:
        if not self._quiet and sys.stderr.isatty():
            self._bars = _bars()
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def say(self, text: str) -> None:
        if self._quiet:
            return
        if self._bars is not None:
            self._bars.console.print(text, markup=False, style="dim")
        else:
            show.note(text)

    def update(self, job: Job) -> None:
        if self._quiet:
            return
        if self._bars is not None:
            self._update_bar(job)
        elif self._last.get(job.id) != (text := _words(job)):
            self._last[job.id] = text
            show.note(f"{job.kind} {job.name}: {text}")

    def _update_bar(self, job: Job) -> None:
        if job.id not in self._tasks:
            self._tasks[job.id] = self._bars.add_task(show.escape(f"{job.kind} {job.name}"), total=None, state="")
        total = max(job.parts.total, 1) if job.parts.total or job.state.is_final else None
        done = total if job.state.is_final and total else job.parts.over
        colour = show.COLOURS[job.state]
        self._bars.update(self._tasks[job.id], total=total, completed=done, state=f"[{colour}]{_words(job)}[/]")


def _words(job: Job) -> str:
    if job.parts.total and not job.state.is_final:
        ending = ", finishing" if job.parts.over == job.parts.total else ""
        return f"{job.state} {job.parts.over}/{job.parts.total}{ending}"
    return str(job.state)


def _bars() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[state]}"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    )
