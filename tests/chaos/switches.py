"""What the harness asks of workers while they run: small files in a folder, read by all of its processes.

A switch is on while its file is there. Its content says whom it concerns and how much.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

FOLDER = "CHAOS_FOLDER"
SLOT = "CHAOS_SLOT"
"""Environment of the workers: where the switches lie, and which of the workers this is (0, 1, 2 …)."""

_JOURNAL = "journal.jsonl"
_REACHED = "reached"


class Switches:
    """The folder, seen from either side. `slot` is that of the worker that asks; None in the harness."""

    def __init__(self, folder: Path, *, slot: int | None = None) -> None:
        self.folder = folder
        self.slot = slot

    @classmethod
    def of_this_worker(cls) -> Switches:
        return cls(Path(os.environ[FOLDER]), slot=int(os.environ[SLOT]))

    def turn_on(self, name: str, *, slot: int | None = None, **values: Any) -> None:
        """For one worker, or for all."""
        partial = self.folder / f".{name}"
        partial.write_text(json.dumps({"slot": slot, **values}))
        partial.rename(self._path(name))

    def turn_off(self, name: str) -> bool:
        """False if it was off already: of several that take a switch at once, one is told True."""
        try:
            self._path(name).unlink()
        except FileNotFoundError:
            return False
        return True

    def all_off(self) -> None:
        for path in self.folder.glob("*.on"):
            path.unlink(missing_ok=True)

    def has_mark(self, name: str) -> bool:
        return (self.folder / _REACHED / name).exists()

    def forget_mark(self, name: str) -> None:
        (self.folder / _REACHED / name).unlink(missing_ok=True)

    def forget_marks(self, prefix: str) -> None:
        for path in (self.folder / _REACHED).glob(f"{prefix}*"):
            path.unlink()

    def get(self, name: str) -> dict[str, Any] | None:
        """The values of a switch that is on and concerns this worker."""
        try:
            values: dict[str, Any] = json.loads(self._path(name).read_text())
        except FileNotFoundError:
            return None
        return values if values["slot"] in (None, self.slot) else None

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.on"

    def note(self, event: str, **values: Any) -> None:
        """Write a line into the journal, which outlives the process that writes it."""
        line = json.dumps({"event": event, "at": time.time(), **values}) + "\n"
        descriptor = os.open(self.folder / _JOURNAL, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)

    def notes(self) -> list[dict[str, Any]]:
        path = self.folder / _JOURNAL
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def mark_reached(self, name: str) -> None:
        path = self.folder / _REACHED
        path.mkdir(exist_ok=True)
        (path / name).touch()

    def reached(self) -> set[str]:
        path = self.folder / _REACHED
        return {entry.name for entry in path.iterdir()} if path.exists() else set()
