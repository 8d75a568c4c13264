"""A batch through real processes: other jobs are not held up by it, and a cancel ends it at once."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from domain.states import JobState
from nightowl import Ocr
from storage import invariants
from tests.client.archives import tarred
from tests.stack.conftest import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from tests.stack.conftest import Site

pytestmark = pytest.mark.stack
MEMBERS = 120


def test_a_job_behind_a_batch_starts_at_once_and_the_batch_can_be_cancelled(site: Site, tmp_path: Path) -> None:
    archive = tmp_path / "in.tar"
    archive.write_bytes(
        tarred({f"{number}.txt": b"member %d" % number for number in range(MEMBERS - 1)} | {"same": b"member 0"})
    )
    (tmp_path / "single.txt").write_text("Somebody waits for this.")
    with site.client() as client:
        report = client.submit_batch(Ocr(), archive, name="b")
        assert report.added == MEMBERS
        site.start_worker(max_messages="32")
        eventually(lambda: client.batch("b").states.get(JobState.SUCCEEDED, 0) >= 3, seconds=120)
        before = MEMBERS - client.batch("b").open
        single = client.wait(client.submit(Ocr(), tmp_path / "single.txt").id, timeout_seconds=60)
        summary = client.batch("b")
        assert single.state is JobState.SUCCEEDED
        assert (MEMBERS - summary.open) - before < MEMBERS // 2, "it went before most of the batch"
        began = time.monotonic()
        ended = client.cancel_batch("b")
        assert ended.is_over
        assert ended.states[JobState.CANCELLED] > 0
        assert time.monotonic() - began < 30
        assert client.retry_batch("b") == ended.states[JobState.CANCELLED]
        done = client.wait_batch("b", timeout_seconds=240)
        assert done.states == {JobState.SUCCEEDED: MEMBERS}
        assert done.reused == 1
        with client._database.read() as session:
            assert invariants.check(session, client._artifacts) == []
