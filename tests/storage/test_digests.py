from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from domain.jobs import JobSpec
from domain.params import Summarize
from storage import digests, jobs
from storage.digests import Digest

if TYPE_CHECKING:
    from storage.session import Database

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_the_first_digest_of_a_key_stays(database: Database) -> None:
    with database.write() as session:
        job, _ = jobs.submit(session, JobSpec(kind=Summarize.kind, params=Summarize(), source="/a"), now=NOW)
    kept = []
    for text in ("first\0", "second"):
        with database.write() as session:
            kept.append(digests.keep(session, "k", Digest(text=text, data={"n": 1}), job_id=job.id, now=NOW))
    assert kept == [True, False]
    with database.read() as session:
        assert digests.find(session, "k") == Digest(text="first", data={"n": 1})
        assert digests.find(session, "other") is None
