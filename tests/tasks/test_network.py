"""Jobs whose source lies on the network: fetched once, kept, and read from there."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
import pytest
from sqlalchemy import select, update

from domain.errors import Code, ConflictError
from domain.jobs import JobSpec
from domain.kinds import Kind
from domain.limits import Limits
from domain.params import Ocr
from domain.states import JobState
from storage import artifacts, jobs, tables
from tasks.sweep import tidy
from tests.servers import Web, answer
from tests.tasks.conftest import StandInReaders

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from domain.jobs import Job
    from storage.artifacts import StoredFile
    from tests.tasks.conftest import MakeWorker, Worker

SECRET = "s3cr3t"
TEXT = "The owl reads at night.\n" + "\n".join(f"Line {number} of many lines." for number in range(400))
LOOPBACK = ("127.0.0.1/32",)


@pytest.fixture
def web() -> Iterator[Web]:
    with Web() as server:
        yield server


@contextmanager
def gone(web: Web) -> Iterator[None]:
    """From here on the server has nothing."""
    asked = len(web.asked)
    web.answers.clear()
    yield
    assert len(web.asked) == asked


def copies(worker: Worker, job_id: str) -> list[StoredFile]:
    with worker.context.database.read() as session:
        return artifacts.of_job(session, job_id, role="source")


def files_in_store(worker: Worker, tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "artifacts").rglob("*") if path.is_file())


def rows_with(text: str, worker: Worker) -> set[str]:
    """The columns of the database in which this stands, as table.column."""
    found = set()
    for table in tables.Base.metadata.sorted_tables:
        with worker.context.database.read() as session:
            rows: list[dict[str, Any]] = [dict(row._mapping) for row in session.execute(select(table))]
        found |= {f"{table.name}.{name}" for row in rows for name, value in row.items() if text in str(value)}
    return found


def error_of(job: Job) -> tuple[str, str]:
    assert job.error is not None
    return job.error.code, job.error.message


def test_a_job_is_fetched_once_and_its_slices_read_the_copy(make_worker: MakeWorker, web: Web) -> None:
    worker = make_worker(source_private_hosts=LOOPBACK, slice_parts=1)
    web.answers[f"/notes.txt?sig={SECRET}"] = answer(TEXT.encode())
    job_id = worker.submit(Ocr(), web.url(f"/notes.txt?sig={SECRET}"))
    planned = worker.plan(job_id)
    assert planned.parts.total > 2
    (copy,) = copies(worker, job_id)
    assert (copy.name, worker.context.artifacts.read(copy)) == ("notes.txt", TEXT.encode())
    with gone(web):
        job = worker.drive(job_id)
    assert (job.state, job.error) == (JobState.SUCCEEDED, None)
    assert job.result is not None
    assert "The owl reads at night." in job.result.text
    assert "Line 399 of many lines." in job.result.text
    assert len(web.asked) == 1


def test_a_pdf_is_read_from_a_file_without_a_name(make_worker: MakeWorker, web: Web, pdf: Callable[..., Path]) -> None:
    worker = make_worker(source_private_hosts=LOOPBACK)
    web.answers["/made.pdf"] = answer(pdf("First page.", "Second page.").read_bytes())
    job = worker.do(Ocr(output="text"), web.url("/made.pdf"))
    assert job.result is not None
    assert job.result.text == "First page.\fSecond page."


def test_a_video_is_read_from_a_file_without_a_name(make_worker: MakeWorker, web: Web, clip: Path) -> None:
    worker = make_worker(source_private_hosts=LOOPBACK)
    web.answers["/clip.mp4"] = answer(clip.read_bytes())
    assert worker.do(Ocr(), web.url("/clip.mp4")).state is JobState.SUCCEEDED


def test_local_files_below_a_root_are_read_by_the_children(
    make_worker: MakeWorker, pdf: Callable[..., Path], clip: Path, picture: Path, tmp_path: Path
) -> None:
    worker = make_worker(source_roots=(tmp_path,))
    for source in (pdf("First page."), clip, picture):
        assert worker.do(Ocr(), source).state is JobState.SUCCEEDED
    assert error_of(worker.do(Ocr(), "/etc/passwd"))[0] == Code.SOURCE_REFUSED


def test_an_object_store(make_worker: MakeWorker) -> None:
    fsspec.filesystem("memory").pipe_file("/owls/notes.txt", b"An owl in a store.\n")
    worker = make_worker(source_protocols=("memory",))
    job = worker.do(Ocr(), "memory://owls/notes.txt")
    assert job.result is not None
    assert "An owl in a store." in job.result.text
    refused = make_worker().do(Ocr(), "memory://owls/notes.txt")
    assert error_of(refused)[0] == Code.SOURCE_UNSUPPORTED


def test_loopback_is_refused_by_default(make_worker: MakeWorker, web: Web) -> None:
    worker = make_worker()
    web.answers["/notes.txt"] = answer(b"An owl.")
    job = worker.do(Ocr(), web.url("/notes.txt"))
    assert job.state is JobState.FAILED
    assert error_of(job)[0] == Code.SOURCE_REFUSED
    assert (web.asked, job.attempts) == ([], 1)


def test_a_server_that_is_busy_is_asked_again(make_worker: MakeWorker, web: Web) -> None:
    worker = make_worker(source_private_hosts=LOOPBACK)
    job_id = worker.submit(Ocr(), web.url("/notes.txt"))
    web.answers["/notes.txt"] = answer(b"busy", status="503 Unavailable")
    assert worker.plan(job_id).state is JobState.PENDING
    web.answers["/notes.txt"] = answer(b"An owl.")
    assert worker.plan(job_id).state is JobState.PENDING  # not at once
    assert worker.drive(job_id).state is JobState.SUCCEEDED
    assert len(web.asked) == 2


def test_a_server_that_stays_busy_is_given_up_and_a_missing_page_at_once(make_worker: MakeWorker, web: Web) -> None:
    worker = make_worker(source_private_hosts=LOOPBACK, max_attempts=2)
    web.answers["/busy.txt"] = answer(b"busy", status="503 Unavailable")
    busy = worker.do(Ocr(), web.url("/busy.txt"))
    assert error_of(busy)[0] == Code.SOURCE_UNREACHABLE
    assert len(web.asked) == 2
    missing = worker.do(Ocr(), web.url("/missing.txt"))
    assert error_of(missing)[0] == Code.SOURCE_MISSING
    assert len(web.asked) == 3


def test_a_failed_job_fetches_anew_when_it_is_tried_again(make_worker: MakeWorker, web: Web, tmp_path: Path) -> None:
    worker = make_worker(source_private_hosts=LOOPBACK)
    web.answers["/a.pdf"] = answer(b"<html>please log in</html>")
    job_id = worker.submit(Ocr(), web.url("/a.pdf"))
    assert worker.drive(job_id).state is JobState.FAILED
    assert (copies(worker, job_id), files_in_store(worker, tmp_path)) == ([], [])
    web.answers["/a.pdf"] = answer(b"An owl.")
    with worker.context.database.write() as session:
        jobs.retry(session, job_id)
    # The text under a name that promises a PDF is refused too: what matters is that it was asked for again.
    worker.drive(job_id)
    assert len(web.asked) == 2


def test_a_partial_job_is_tried_again_with_what_was_planned(make_worker: MakeWorker, web: Web) -> None:
    readers = StandInReaders("One.", "Two.")
    worker = make_worker(readers, source_private_hosts=LOOPBACK)
    web.answers["/a.pdf"] = answer(b"anything")
    job_id = worker.submit(Ocr(), web.url("/a.pdf"))
    readers.sheets[1].error = RuntimeError("a defect")
    assert worker.drive(job_id).state is JobState.PARTIAL
    readers.sheets[1].error = None
    with gone(web):
        with worker.context.database.write() as session:
            jobs.retry(session, job_id)
        assert worker.drive(job_id).state is JobState.SUCCEEDED


def test_a_job_that_was_cancelled_while_it_was_planned_leaves_no_file(
    make_worker: MakeWorker, web: Web, tmp_path: Path
) -> None:
    readers = StandInReaders("One.")
    worker = make_worker(readers, source_private_hosts=LOOPBACK)
    web.answers["/a.pdf"] = answer(b"anything")
    job_id = worker.submit(Ocr(), web.url("/a.pdf"))
    readers.on_probe = lambda: worker.cancel(job_id)
    assert worker.plan(job_id).state is JobState.CANCELLED
    assert (copies(worker, job_id), files_in_store(worker, tmp_path)) == ([], [])


def test_a_copy_that_is_gone_is_told(make_worker: MakeWorker, web: Web) -> None:
    worker = make_worker(source_private_hosts=LOOPBACK)
    web.answers["/notes.txt"] = answer(b"An owl.")
    job_id = worker.submit(Ocr(), web.url(f"/notes.txt#{SECRET}"))
    worker.plan(job_id)
    (copy,) = copies(worker, job_id)
    Path(copy.url).unlink()
    code, message = error_of(worker.drive(job_id))
    assert code == Code.ARTIFACT_MISSING
    assert "notes.txt" in message


def test_a_copy_whose_row_is_gone_is_told(make_worker: MakeWorker, web: Web) -> None:
    worker = make_worker(source_private_hosts=LOOPBACK)
    web.answers[f"/notes.txt?{SECRET}"] = answer(b"An owl.")
    job_id = worker.submit(Ocr(), web.url(f"/notes.txt?{SECRET}"))
    worker.plan(job_id)
    with worker.context.database.write() as session:
        session.execute(update(tables.Artifact).values(job_id=None))
    code, message = error_of(worker.drive(job_id))
    assert code == Code.ARTIFACT_MISSING
    assert SECRET not in message


def test_a_store_on_another_machine_keeps_copies_too(
    make_worker: MakeWorker, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = make_worker(source_private_hosts=LOOPBACK)
    monkeypatch.setattr(worker.context.artifacts, "is_local", False)
    web.answers["/notes.txt"] = answer(b"An owl.")
    job_id = worker.submit(Ocr(), web.url("/notes.txt"))
    worker.plan(job_id)
    with gone(web):
        assert worker.drive(job_id).state is JobState.SUCCEEDED


@pytest.mark.parametrize("status", ["200 OK", "404 Not Found", "503 Unavailable"])
def test_the_query_stands_in_the_source_column_until_the_job_ends_and_nowhere_else(
    make_worker: MakeWorker, web: Web, caplog: pytest.LogCaptureFixture, status: str
) -> None:
    caplog.set_level(logging.DEBUG)
    worker = make_worker(source_private_hosts=LOOPBACK)
    target = f"/notes.pdf?sig={SECRET}"
    web.answers[target] = answer(b"An owl.", status=status)
    job_id = worker.submit(Ocr(), web.url(target))
    assert rows_with(SECRET, worker) == {"jobs.source"}
    job = worker.drive(job_id)
    assert web.asked
    assert job.source == web.url("/notes.pdf?…")
    assert SECRET not in caplog.text
    assert SECRET not in f"{job!r} {job.to_json()} {worker.bell.rung}"
    assert rows_with(SECRET, worker) == set()


def test_the_query_goes_with_a_job_that_is_cancelled_or_runs_out_of_time(make_worker: MakeWorker, web: Web) -> None:
    worker = make_worker(source_private_hosts=LOOPBACK)
    for state in (JobState.CANCELLED, JobState.FAILED):
        job_id = worker.submit(Ocr(), web.url(f"/a.pdf?{SECRET}"))
        with worker.context.database.write() as session:
            assert jobs.end(session, job_id, state=state, now=worker.context.clock())
    assert rows_with(SECRET, worker) == set()


def test_the_key_of_a_job_finds_it_though_its_query_is_gone(make_worker: MakeWorker, web: Web) -> None:
    worker = make_worker(source_private_hosts=LOOPBACK)
    spec = JobSpec(kind=Kind.OCR, params=Ocr(), source=web.url("/a.pdf?sig=1"), key="k")
    other = replace(spec, source=web.url("/b.pdf?sig=1"))
    with worker.context.database.write() as session:
        first, _ = jobs.submit(session, spec, now=worker.context.clock())
        jobs.cancel(session, first.id, now=worker.context.clock())
        again, is_new = jobs.submit(session, spec, now=worker.context.clock())
        with pytest.raises(ConflictError):
            jobs.submit(session, other, now=worker.context.clock())
    assert (again.id, is_new) == (first.id, False)


def test_a_retry_that_would_need_the_query_says_that_it_is_gone(make_worker: MakeWorker, web: Web) -> None:
    worker = make_worker(source_private_hosts=LOOPBACK)
    job_id = worker.submit(Ocr(), web.url(f"/a.pdf?{SECRET}"))
    assert worker.drive(job_id).state is JobState.FAILED  # 404
    with gone(web):
        with worker.context.database.write() as session:
            jobs.retry(session, job_id)
        code, message = error_of(worker.drive(job_id))
    assert code == Code.SOURCE_REFUSED
    assert "submit the source again" in message


def test_a_copy_goes_when_its_job_has_succeeded(make_worker: MakeWorker, web: Web, tmp_path: Path) -> None:
    worker = make_worker(source_private_hosts=LOOPBACK)
    web.answers["/notes.txt"] = answer(b"An owl.")
    job_id = worker.submit(Ocr(), web.url("/notes.txt"))
    worker.plan(job_id)
    assert "notes.txt" in files_in_store(worker, tmp_path)
    assert worker.drive(job_id).state is JobState.SUCCEEDED
    assert copies(worker, job_id) == []
    assert "notes.txt" not in files_in_store(worker, tmp_path)


def test_a_copy_that_no_retry_needs_goes_after_a_while(make_worker: MakeWorker, web: Web, tmp_path: Path) -> None:
    readers = StandInReaders("One.", "Two.")
    worker = make_worker(readers, source_private_hosts=LOOPBACK, keep_fetched_hours=1)
    web.answers["/a.pdf"] = answer(b"anything")
    readers.sheets[1].error = RuntimeError("a defect")
    job_id = worker.submit(Ocr(), web.url("/a.pdf"))
    planned = worker.submit(Ocr(), web.url("/a.pdf"))
    worker.plan(planned)
    assert worker.drive(job_id).state is JobState.PARTIAL
    tidy(worker.context)
    assert len(copies(worker, job_id)) == 1
    with worker.context.database.write() as session:
        long_ago = worker.context.clock() - timedelta(hours=2)
        session.execute(update(tables.Job).where(tables.Job.id == job_id).values(finished_at=long_ago))
    tidy(worker.context)
    assert copies(worker, job_id) == []
    assert len(copies(worker, planned)) == 1  # that job is not over
    assert files_in_store(worker, tmp_path).count("a.pdf") == 1


def test_a_row_with_a_password_in_its_url_is_refused(
    make_worker: MakeWorker, web: Web, caplog: pytest.LogCaptureFixture
) -> None:
    """docs/sql.md: an application may write any row."""
    caplog.set_level(logging.DEBUG)
    worker = make_worker(source_private_hosts=LOOPBACK)
    job_id = worker.insert(kind="ocr", params={}, source=web.url("/a.txt", host=f"owl:{SECRET}@127.0.0.1"))
    code, message = error_of(worker.drive(job_id))
    assert code == Code.SOURCE_REFUSED
    assert SECRET not in message + caplog.text
    assert web.asked == []


def test_limits_hold_for_what_is_fetched(make_worker: MakeWorker, web: Web) -> None:
    worker = make_worker(source_private_hosts=LOOPBACK, limits=Limits(max_source_bytes=5))
    web.answers["/notes.txt"] = answer(b"An owl.")
    assert error_of(worker.do(Ocr(), web.url("/notes.txt")))[0] == Code.SOURCE_TOO_LARGE


def test_nothing_is_left_in_the_temporary_folder(
    make_worker: MakeWorker, web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tempfile

    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    worker = make_worker(source_private_hosts=LOOPBACK)
    web.answers["/notes.txt"] = answer(b"An owl.")
    assert worker.do(Ocr(), web.url("/notes.txt")).state is JobState.SUCCEEDED
    assert list((tmp_path / "tmp").iterdir()) == []
