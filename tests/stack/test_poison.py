"""A page that kills every worker that works on it, with real processes and kill -9."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from domain.errors import Code
from domain.states import JobState, PartState
from nightowl import Copywrite, Summarize
from storage import invariants
from storage.session import Database
from worker.readers.mupdf import pymupdf

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.stack.conftest import Site

pytestmark = pytest.mark.stack

BUSY = {"concurrency": "4", "parts_in_flight": "3", "slice_parts": "3", "ring_seconds": "2"}
PAGES = 12
POISONOUS = 6
POISON = f"the {POISONOUS}th page"


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    document = pymupdf.open()
    for number in range(1, PAGES + 1):
        text = f"This is the {number}th page of a report on the owls that read at night.\n"
        document.new_page(width=300, height=400).insert_textbox((20, 20, 280, 380), text * 4, fontsize=9)
    path = tmp_path / "report.pdf"
    document.save(path)
    document.close()
    return path


@contextmanager
def kept_up(site: Site, workers: int, **settings: str) -> Iterator[list[int]]:
    """So many workers, each replaced when it dies. Yields the exit statuses of the dead."""
    deaths: list[int] = []
    done = threading.Event()

    def keep() -> None:
        alive = [site.start_worker(**settings) for _ in range(workers)]
        while not done.wait(0.1):
            for place, worker in enumerate(alive):
                if worker.poll() is not None:
                    deaths.append(worker.returncode)
                    alive[place] = site.start_worker(**settings)
        for worker in alive:
            worker.terminate()
            worker.wait(20)

    keeper = threading.Thread(target=keep)
    keeper.start()
    try:
        yield deaths
    finally:
        done.set()
        keeper.join(60)


def retry(site: Site, job_id: str) -> None:
    command = [sys.executable, "-c", "from nightowl.cli import main; main()", "retry", job_id, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout)["state"] == "running"


@pytest.mark.postgres
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_poisonous_page_costs_itself_and_nothing_else(site: Site, pages: Path) -> None:
    with site.client() as client:
        with kept_up(site, 2, model=f"delay=0.2, die={POISON}", **BUSY) as deaths:
            job = client.wait(client.submit(Summarize(), pages).id, timeout_seconds=120)
        parts = client.parts(job.id)
        assert (job.state, len(parts)) == (JobState.PARTIAL, PAGES), job.error
        (poisonous,) = [part for part in parts if part.state is not PartState.SUCCEEDED]
        assert (poisonous.spec, poisonous.state, poisonous.attempts) == ({"page": POISONOUS}, PartState.FAILED, 3)
        assert poisonous.error is not None and poisonous.error.code == Code.WORKER_LOST
        assert "died 3 times" in poisonous.error.message
        assert poisonous.error.message.endswith(f"last seen generating for page {POISONOUS}")
        assert deaths == [-9, -9, -9]
        assert max(part.attempts for part in parts) <= 3
        assert job.error is not None and job.error.code == Code.WORKER_LOST

        with kept_up(site, 1, **BUSY):
            retry(site, job.id)
            job = client.wait(job.id, timeout_seconds=60)
        assert (job.state, job.parts.succeeded) == (JobState.SUCCEEDED, PAGES)
        assert [part.error for part in client.parts(job.id)] == [None] * PAGES
    assert violations(site) == []


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_finishing_that_kills_its_workers_fails_the_job_and_no_other(site: Site, pages: Path) -> None:
    with site.client() as client, kept_up(site, 1, model="delay=0.2, die=a lamp for owls", **BUSY) as deaths:
        poisonous = client.submit(Copywrite(brief="a lamp for owls"))
        others = [client.submit(Copywrite(brief=f"a chair for owl {number}")) for number in range(6)]
        read = client.submit(Summarize(), pages)
        ended = client.wait(poisonous.id, timeout_seconds=120)
        assert ended.state is JobState.FAILED and ended.error is not None
        assert ended.error.code == Code.WORKER_LOST
        assert "died 3 times while it was to finish the job" in ended.error.message
        for job in (*others, read):
            assert client.wait(job.id, timeout_seconds=60).state is JobState.SUCCEEDED
        assert deaths == [-9, -9, -9]
    assert violations(site) == []


def violations(site: Site) -> list[invariants.Violation]:
    database = Database(site.environment["NIGHTOWL_DATABASE_URL"])
    try:
        with database.read() as session:
            return invariants.check(session)
    finally:
        database.close()
