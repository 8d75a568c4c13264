"""Submitting the files of a command line, one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from domain.errors import SourceError
from domain.plain import one_line
from domain.sources import masked
from nightowl.cli import show

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from domain.jobs import Job


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    jobs: list[Job]
    all_taken: bool


def submit_each(files: Sequence[str | None], submit: Callable[[str | None], Job], *, as_json: bool) -> Submitted:
    """A job of each file. One that is refused at the door, such as an archive, is told and costs no other its job."""
    jobs: list[Job] = []
    for file in files:
        try:
            jobs.append(submit(file))
        except SourceError as error:
            _tell(file or "", error, as_json=as_json)
    return Submitted(jobs=jobs, all_taken=len(jobs) == len(files))


def _tell(file: str, error: SourceError, *, as_json: bool) -> None:
    name = one_line(masked(file).rpartition("@")[2])  # what stands before it may be a password
    if as_json:
        why = {"code": error.code, "message": error.message, "retryable": error.retryable}
        show.json_line({"type": "refused", "source": name, "error": why})
    else:
        show.note(f"{name}: refused: {error.message} [{error.code}]")
