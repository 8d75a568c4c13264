"""`make demo`: all five kinds over samples/, through the real path, on an embedded stack of its own."""

from __future__ import annotations

import os
import sqlite3
import sys
from pathlib import Path

from domain.settings import Settings
from domain.states import JobState
from nightowl import Ask, Caption, Client, Copywrite, Ocr, Summarize
from nightowl.cli import show
from nightowl.cli.progress import Progress
from nightowl.cli.run import FOREGROUND, watch
from nightowl.stack import Stack

SAMPLES = Path(__file__).parent
DATA = SAMPLES.parent / ".demo"

JOBS = (
    (Ocr(), "scan.png"),
    (Copywrite(channel="social", tone="warm", max_words=50), "poster.png"),
    (Caption(), "clip.mp4"),
    (Summarize(length="short"), "report.pdf"),
    (Ask(question="How many birds were ringed in 2025?"), "report.pdf"),
)

QUERY = "SELECT kind, state, parts_succeeded AS parts, substr(json_extract(result, '$.text'), 1, 60) AS text FROM jobs"


def main() -> int:
    os.environ.setdefault("NIGHTOWL_DATA_DIR", str(DATA))
    settings = Settings()
    with Progress() as progress, Stack(settings, log=settings.data_dir / "logs" / "worker.log") as stack:
        progress.say("starting Redis and a worker; the first start converts the language model's weights")
        with Client(settings) as client:
            jobs = [client.submit(params, SAMPLES / name, name=name, priority=FOREGROUND) for params, name in JOBS]
            ended = watch(client, stack, jobs, progress)
    show.table(ended, ids=False)
    print(f"\nEach job is a row in {settings.data_dir / 'nightowl.db'}. Try:\n\n  {QUERY};\n")
    for row in _rows(settings.data_dir / "nightowl.db"):
        print("  " + " | ".join(str(cell).replace("\n", " ") for cell in row))
    for job in ended:
        if job.state is not JobState.SUCCEEDED:
            print(show.outcome(job), file=sys.stderr)
    return 0 if all(job.state is JobState.SUCCEEDED for job in ended) else 1


def _rows(path: Path) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(path)
    try:
        return connection.execute(QUERY).fetchall()
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main())
