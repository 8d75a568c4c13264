"""What hostile files cost: `python -m tests.readers.peaks` prints how each ended, in how many seconds, at which peak.

Each file is read as a job reads it: opened, then its first and last pages, or its segments and the first of them. The
peak is the most memory that the reader child held at a time (VmHWM: its own pages and those of mapped libraries).

    python -m tests.readers.peaks                        the files of tests/readers/hostile
    python -m tests.readers.peaks --only pdf_            those whose name has this in it
    python -m tests.readers.peaks --folder ../shared/data/dev/bad

Exits 1 where a file ended as it must not, or held more than the cap.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from domain.errors import Code, NightowlError
from domain.limits import Limits
from tests.readers.hostile import OK, Case, cases
from worker.readers.base import Media, Open, Segmenting
from worker.readers.children import Readers

if TYPE_CHECKING:
    from collections.abc import Iterable

MAPPED_MIB = 300
"""What a child may hold beyond NIGHTOWL_LIMITS__READ_MEMORY_MB: the pages of the libraries that are mapped into it."""
TARGET_PIXELS = 2000
LIMIT_CODES = frozenset(
    {
        *(Code.SOURCE_TOO_LARGE, Code.TOO_MANY_PAGES, Code.IMAGE_TOO_LARGE, Code.VIDEO_TOO_LONG),
        *(Code.READ_TIMEOUT, Code.READ_MEMORY, Code.ARCHIVE_LIMIT),
    }
)
"""A failure at a limit names the limit's setting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """How reading a file ended ("ok", or codes, the worst first), what was said, and what it took."""

    name: str
    ends: tuple[str, ...]
    message: str
    seconds: float
    peak_mib: float

    def wrong(self, allowed: frozenset[str], *, cap_mib: float) -> str:
        """What is wrong with it; empty if nothing is."""
        if unexpected := [end for end in self.ends if end not in allowed]:
            return f"ended with {', '.join(unexpected)}"
        if LIMIT_CODES.intersection(self.ends) and "setting NIGHTOWL_LIMITS__" not in self.message:
            return "the message names no setting"
        return f"held {self.peak_mib:.0f} MiB" if self.peak_mib > cap_mib else ""


class Peak:
    """The most memory that any one child of this process holds while the block runs, looked at 20 times a second."""

    def __init__(self) -> None:
        self.mib = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        for pid in children():
            with contextlib.suppress(OSError):  # from here on its high-water mark is counted anew
                Path(f"/proc/{pid}/clear_refs").write_text("5")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.05):
            self._look()
        self._look()

    def _look(self) -> None:
        self.mib = max([self.mib, *map(high_water, children())])


def children() -> list[int]:
    """The reader children of this process; not what is still a fork of it, and has its memory."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            for pid in (task / "children").read_text().split():
                if b"multiprocessing" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(int(pid))
    return found


def high_water(pid: int) -> float:
    """VmHWM of a process in MiB; 0 where it is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return 0.0


def cost(readers: Readers, path: Path, *, limits: Limits, pages: int = 3) -> Cost:
    """Read a file: at most `pages` of 1, 2 and the last."""
    began = time.monotonic()
    with Peak() as peak:
        found = list(_read(readers, Open(path=path, limits=limits), pages=pages))
    ends = dict.fromkeys(code for code, _ in found)
    if len(ends) > 1:
        ends.pop(OK, None)
    message = next((said for code, said in found if code != OK), "")
    return Cost(
        name=path.name,
        ends=tuple(ends),
        message=message,
        seconds=time.monotonic() - began,
        peak_mib=peak.mib,
    )


def _read(readers: Readers, source: Open, *, pages: int) -> Iterable[tuple[str, str]]:
    try:
        probe = readers.probe(source)
        if probe.media is Media.VIDEO:
            for segment in readers.segments(source, Segmenting())[:2]:
                readers.frames(source, segment, count=8, max_side=source.limits.max_frame_side)
            yield OK, ""
            return
        source.limits.check_pages(probe.pages, name=source.label)
    except NightowlError as error:
        yield str(error.code), error.message
        return
    for number in sorted({1, min(2, probe.pages), probe.pages})[:pages]:
        try:
            readers.page(source, number, target_pixels=TARGET_PIXELS)
            yield OK, ""
        except NightowlError as error:
            yield str(error.code), error.message


def main() -> int:
    arguments = _arguments()
    limits = Limits(read_seconds=arguments.seconds)
    cap = limits.read_memory_mb + MAPPED_MIB
    wrong = []
    sys.stdout.write(f"cap of one child: {cap} MiB; time of one read: {limits.read_seconds:g} s\n")
    sys.stdout.write(f"{'file':50} {'seconds':>7} {'MiB':>5}  ended\n")
    with tempfile.TemporaryDirectory() as folder, Readers(limits=limits, children=1) as readers:
        for case, path in _files(arguments, Path(folder)):
            spent = cost(readers, path, limits=limits)
            problem = spent.wrong(case.ends, cap_mib=cap) if case else ""
            wrong += [problem] if problem else []
            line = f"{spent.name:50} {spent.seconds:7.1f} {spent.peak_mib:5.0f}  {' '.join(spent.ends)}"
            sys.stdout.write(f"{line}{f'  WRONG: {problem}' if problem else ''}\n")
            if arguments.messages and spent.message:
                sys.stdout.write(f"    {spent.message}\n")
            sys.stdout.flush()
    sys.stdout.write(f"{len(wrong)} wrong\n")
    return 1 if wrong else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="How hostile files end, and what they cost.")
    parser.add_argument("--only", default="", help="files whose name has this in it")
    parser.add_argument("--folder", type=Path, help="the files of a folder instead")
    parser.add_argument("--seconds", type=float, default=Limits().read_seconds, help="time of one read")
    parser.add_argument("--messages", action="store_true", help="print the messages too")
    return parser.parse_args()


def _files(arguments: argparse.Namespace, folder: Path) -> Iterable[tuple[Case | None, Path]]:
    if arguments.folder:
        for path in sorted(arguments.folder.iterdir()):
            if arguments.only in path.name:
                yield None, path
        return
    for case in cases():
        if arguments.only in case.name:
            path = folder / case.name
            path.write_bytes(case.make())
            yield case, path
            path.unlink()


if __name__ == "__main__":
    sys.exit(main())
