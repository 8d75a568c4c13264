"""A batch that fills the workers: a single job does not wait for it, and cancelling it frees the engine at once."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from domain.states import JobState
from nightowl import Client, Copywrite, Ocr, Summarize
from storage.exports import Which
from tests.stack.conftest import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from domain.params import Params
    from tests.stack.conftest import Site

pytestmark = pytest.mark.stack

MEMBERS = 400
SECONDS = 15.0
"""Generous: benchmarks/behind.py measures a fraction of a second on a machine with nothing else to do."""


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A folder of small texts, none like another."""
    folder = tmp_path / "archive"
    folder.mkdir()
    for number in range(MEMBERS):
        (folder / f"{number:04}.txt").write_text(f"Page {number} of an archive that nobody waits for.\n")
    return folder


def submit(client: Client, params: Params, archive: Path) -> str:
    report = client.submit_batch(params, archive, name="archive")
    assert report.batch is not None and report.added == MEMBERS
    return report.batch.id


def test_a_single_job_starts_within_seconds_behind_a_batch(site: Site, archive: Path, document: Path) -> None:
    with site.client() as client:
        batch = submit(client, Summarize(), archive)
        site.start_worker(model="delay=0.3", concurrency="2", max_messages="16")
        eventually(lambda: client.batch(batch).states.get(JobState.SUCCEEDED, 0) >= 4)
        single = client.wait(client.submit(Ocr(), document).id, timeout_seconds=60)
        assert single.state is JobState.SUCCEEDED
        assert single.started_at is not None and single.created_at is not None
        assert single.started_at - single.created_at < timedelta(seconds=SECONDS)
        assert client.batch(batch).open > MEMBERS / 2


def test_cancelling_a_batch_stops_new_work_and_frees_the_engine(site: Site, archive: Path) -> None:
    """The engine hangs in the batch's requests, in all its places; a single job's gets one when they are free."""
    with site.client() as client:
        batch = submit(client, Summarize(), archive)
        site.start_worker(model="hang,quick=a lantern", concurrency="8")
        eventually(lambda: client.batch(batch).states.get(JobState.RUNNING, 0) == 8)
        began = time.monotonic()
        summary = client.cancel_batch(batch)
        single = client.wait(client.submit(Copywrite(brief="a lantern")).id, timeout_seconds=60)
        assert time.monotonic() - began < SECONDS
        assert single.state is JobState.SUCCEEDED
        assert summary.states == {JobState.CANCELLED: MEMBERS}
        eventually(lambda: [worker.in_hand for worker in client.workers()] == [0])
        assert {row.job.state for row in client.results(Which(batch_id=summary.batch.id)) if row.job} == {
            JobState.CANCELLED
        }
        assert summary.batch.cancelled_at is not None
        assert started_after(client, summary.batch.id, summary.batch.cancelled_at + timedelta(seconds=1)) == 0


def started_after(client: Client, batch_id: str, moment: object) -> int:
    """Attempts at jobs of the batch that began after that moment."""
    from sqlalchemy import func, select

    from storage.session import Database
    from storage.tables import Attempt, Job

    database = Database(client.settings.database)
    try:
        with database.read() as session:
            of_batch = (
                select(func.count())
                .select_from(Attempt)
                .join(Job, Job.id == Attempt.job_id)
                .where(Job.batch_id == batch_id)
            )
            return session.scalar(of_batch.where(Attempt.started_at > moment)) or 0
    finally:
        database.close()
