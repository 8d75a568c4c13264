"""The reader of the runs: the real one, but for pages whose file is named to do harm.

`wild-segfault-2.tif` crashes the reader child at its second page. Runs in reader children.
"""

from __future__ import annotations

import ctypes
import os
import re
from typing import TYPE_CHECKING

from tests.chaos.seams import Chaos, Point
from tests.chaos.switches import Switches
from worker.readers import child

if TYPE_CHECKING:
    from worker.readers.base import Open, Page, Probe

WILD = re.compile(r"wild-(segfault|spin|gorge)-(\d+)\.")

_chaos = Chaos(Switches.of_this_worker()) if "CHAOS_FOLDER" in os.environ else None


def probe(source: Open) -> Probe:
    return child.probe(source)


def page(source: Open, number: int, target_pixels: int) -> Page:
    if _chaos is not None:
        _chaos.passed(Point.READING, pid=os.getppid())
    if source.path and (found := WILD.search(source.path.name)) and int(found[2]) == number:
        if _chaos is not None:
            _chaos.struck(f"wild-{found[1]}")
        {"segfault": segfault, "spin": spin, "gorge": gorge}[found[1]]()
    return child.page(source, number, target_pixels)


def segfault() -> None:
    ctypes.string_at(0)


def spin() -> None:
    """Go on for ever and never let go of the GIL: a regular expression that tries 2^60 ways."""
    re.match(r"(a+)+$", "a" * 60 + "b")


def gorge() -> None:
    """Take memory until there is none."""
    held = []
    while True:
        held.append(bytearray(16 * 1024 * 1024))
