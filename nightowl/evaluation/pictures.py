"""Pictures of sources for pages that hold all they show: made by a worker process, embedded as data URIs."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from domain.sources import scheme

if TYPE_CHECKING:
    from collections.abc import Mapping

SECONDS = 1800.0


def of_sources(sources: Mapping[int, str | None]) -> dict[int, list[str]]:
    """Data URIs by number: up to four pictures of each local file; none of what cannot be read here."""
    local = {number: source for number, source in sources.items() if source and not scheme(source)}
    if not local:
        return {}
    with tempfile.TemporaryDirectory(prefix="nightowl-pictures-") as folder:
        lines = "".join(json.dumps({"number": n, "source": source}) + "\n" for n, source in local.items())
        command = [sys.executable, "-m", "worker.preview", folder]
        done = subprocess.run(command, input=lines, capture_output=True, text=True, timeout=SECONDS, check=False)
        answers = [json.loads(line) for line in done.stdout.splitlines()]
        return {one["number"]: [_uri(Path(folder) / name) for name in one["files"]] for one in answers}


def _uri(path: Path) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(path.read_bytes()).decode()
