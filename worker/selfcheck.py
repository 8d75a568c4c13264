"""`python -m worker.selfcheck [--engine]`: do readers and engine work here? One JSON object per check on stdout."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from domain.errors import NightowlError
from domain.settings import Settings
from worker import runtime

if TYPE_CHECKING:
    from collections.abc import Callable

BLANK_SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="60" height="40"><rect width="20" height="20"/></svg>'
SECONDS = 120.0


def main() -> int:
    runtime.calm_openmp()
    settings = Settings()
    _report("readers", lambda: _readers(settings))
    if "--engine" in sys.argv[1:]:
        _report("engine", lambda: _engine(settings))
    return 0


def _report(name: str, check: Callable[[], str]) -> None:
    try:
        ok, detail = True, check()
    except NightowlError as error:
        ok, detail = False, error.message
    except Exception as error:  # a check reports whatever is wrong
        ok, detail = False, f"{type(error).__name__}: {error}"
    sys.stdout.write(json.dumps({"name": name, "ok": ok, "detail": detail}) + "\n")
    sys.stdout.flush()


def _readers(settings: Settings) -> str:
    from worker.readers.base import Open
    from worker.readers.children import Readers

    with tempfile.TemporaryDirectory(prefix="nightowl-") as folder:
        path = Path(folder) / "check.svg"
        path.write_bytes(BLANK_SVG)
        started = time.monotonic()
        with Readers(limits=settings.limits, children=1) as readers:
            page = readers.page(Open(path=path, limits=settings.limits), 1, target_pixels=120)
    height, width = page.image.shape[:2]
    return f"a child rendered a page of {width} x {height} pixels in {time.monotonic() - started:.1f} s"


def _engine(settings: Settings) -> str:
    import numpy as np

    from worker.engines.base import Purpose, Request, Turn
    from worker.engines.registry import create_engine, resolve

    started = time.monotonic()
    engine = create_engine(resolve(settings.engine, model=settings.model), runtime.engine_config(settings))
    try:
        loaded = time.monotonic() - started
        request = Request(turns=(Turn(role="user", text="Say hello."),), max_new_tokens=8)
        completion = engine.submit(request).result(timeout=SECONDS)
        picture = np.zeros((64, 64, 3), dtype=np.uint8)
        picture[:, :32] = 255, 0, 0
        turns = (Turn(role="user", text="What is this?"),)
        look = Request(purpose=Purpose.DESCRIBE, turns=turns, images=(picture,), max_new_tokens=8)
        began = time.monotonic()
        engine.submit(look).result(timeout=SECONDS)
        return (
            f"{engine.name} ({engine.model}) loaded in {loaded:.1f} s, said {completion.text!r}, "
            f"and looked at a picture in {time.monotonic() - began:.1f} s"
        )
    finally:
        engine.close()


if __name__ == "__main__":
    sys.exit(main())
