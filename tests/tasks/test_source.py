from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from domain.errors import Code, NightowlError, SourceError
from domain.jobs import Job
from domain.kinds import Kind
from domain.limits import Limits
from domain.states import JobState
from tasks.source import local_path, open_source

if TYPE_CHECKING:
    from tests.tasks.conftest import MakeWorker, Worker
    from worker.readers.base import Open


@pytest.fixture
def worker(make_worker: MakeWorker) -> Worker:
    return make_worker(limits=Limits(max_source_bytes=100))


def opened(worker: Worker, source: str | Path | None, **job: Any) -> tuple[Open | None, bytes]:
    """What was opened, and its content while it was."""
    row = Job(id="1", kind=Kind.OCR, state=JobState.PENDING, source=str(source) if source else None, **job)
    with open_source(worker.context, row) as found:
        return found, found.path.read_bytes() if found else b""


def refusal(worker: Worker, source: str | Path) -> SourceError:
    with pytest.raises(SourceError) as caught:
        opened(worker, source)
    assert not caught.value.retryable
    return caught.value


@pytest.mark.parametrize("form", ["path", "file"])
def test_a_local_file_is_opened_by_path_and_by_url(worker: Worker, tmp_path: Path, form: str) -> None:
    path = tmp_path / "a file with späces 100%.pdf"
    path.write_bytes(b"hello")
    found, content = opened(worker, path if form == "path" else path.as_uri())
    assert found is not None
    assert (found.path, content, found.label) == (path, b"hello", path.name)
    assert found.limits == worker.context.settings.limits


def test_messages_use_the_name_that_people_gave(worker: Worker, tmp_path: Path) -> None:
    (tmp_path / "x1").write_bytes(b"hello")
    found, _ = opened(worker, tmp_path / "x1", source_name="inbox/letter.pdf")
    assert found is not None
    assert found.label == "letter.pdf"


def test_a_job_without_a_source_has_nothing_to_open(worker: Worker) -> None:
    assert opened(worker, None)[0] is None


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("http://example.com/a.pdf", "http://"),
        ("https://user:s3cret@example.com/a.pdf", "https://"),
        ("s3://bucket/a.pdf", "s3://"),
        ("gs+x.y-z://bucket/a", "gs+x.y-z://"),
    ],
)
def test_other_addresses_are_refused_by_name(worker: Worker, source: str, named: str) -> None:
    error = refusal(worker, source)
    assert error.code is Code.SOURCE_UNSUPPORTED
    assert named in error.message
    assert "s3cret" not in error.message


@pytest.mark.parametrize("source", ["/a/b:c.pdf", "C:\\a.pdf", "a//b.pdf"])
def test_a_colon_does_not_make_an_address(source: str) -> None:
    assert local_path(source) == Path(source)


def test_a_folder_is_no_file(worker: Worker, tmp_path: Path) -> None:
    error = refusal(worker, tmp_path)
    assert error.code is Code.SOURCE_UNSUPPORTED
    assert str(tmp_path) in error.message


def test_a_pipe_is_not_waited_for(worker: Worker, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert refusal(worker, tmp_path / "pipe").code is Code.SOURCE_UNSUPPORTED


@pytest.mark.parametrize("name", ["gone.pdf", "no/such/folder.pdf", "report.txt/inside.pdf", "x" * 400])
def test_a_missing_file(worker: Worker, tmp_path: Path, name: str) -> None:
    (tmp_path / "report.txt").write_bytes(b"a file, not a folder")
    error = refusal(worker, tmp_path / name)
    assert error.code is Code.SOURCE_MISSING
    assert (tmp_path / name).name in error.message


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("locked", ["folder/a.pdf", "folder"])
def test_a_file_that_may_not_be_read(worker: Worker, tmp_path: Path, locked: str) -> None:
    path = tmp_path / "folder" / "a.pdf"
    path.parent.mkdir()
    path.write_bytes(b"hello")
    (tmp_path / locked).chmod(0)
    try:
        assert refusal(worker, path).code is Code.SOURCE_MISSING
    finally:
        (tmp_path / locked).chmod(0o700)


@pytest.mark.parametrize("call", ["open", "stat"])
def test_a_file_that_the_system_refuses(
    worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "a.pdf"
    path.write_bytes(b"hello")
    honest: Any = getattr(Path, call)

    def refuse(self: Path, *args: Any, **options: Any) -> Any:
        if self == path:
            raise PermissionError(13, "Permission denied", str(path))
        return honest(self, *args, **options)

    monkeypatch.setattr(Path, call, refuse)
    error = refusal(worker, path)
    assert error.code is Code.SOURCE_MISSING
    assert "a.pdf" in error.message
    assert "Permission denied" in error.message


def test_an_empty_file(worker: Worker, tmp_path: Path) -> None:
    (tmp_path / "a.pdf").touch()
    assert refusal(worker, tmp_path / "a.pdf").code is Code.SOURCE_EMPTY


def test_a_file_over_the_limit(worker: Worker, tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(b"x" * 101)
    error = refusal(worker, tmp_path / "a.pdf")
    assert error.code is Code.SOURCE_TOO_LARGE
    assert "101" in error.message


def test_an_upload_is_opened_from_the_store(worker: Worker) -> None:
    stored = worker.upload(b"hello", "letter.pdf")
    found, content = opened(worker, f"artifact:{stored.id}")
    assert found is not None
    assert content == b"hello"
    assert found.label == "letter.pdf"


def test_limits_hold_for_uploads(worker: Worker) -> None:
    stored = worker.upload(b"x" * 101, "letter.pdf")
    assert refusal(worker, f"artifact:{stored.id}").code is Code.SOURCE_TOO_LARGE


def test_an_upload_whose_file_is_gone(worker: Worker) -> None:
    stored = worker.upload(b"hello", "letter.pdf")
    Path(stored.url).unlink()
    error = refusal(worker, f"artifact:{stored.id}")
    assert error.code is Code.ARTIFACT_MISSING
    assert "letter.pdf" in error.message


def test_an_upload_that_never_was_is_a_missing_artifact(worker: Worker) -> None:
    """docs/errors.md: `not_found` answers a call and is never the failure of a job."""
    with pytest.raises(NightowlError) as caught:
        opened(worker, "artifact:nonsense")
    assert caught.value.code is Code.ARTIFACT_MISSING


def test_the_password_comes_from_its_column(worker: Worker, tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(b"hello")
    found, _ = opened(worker, tmp_path / "a.pdf", password="p")
    assert found is not None
    assert found.password == "p"
    assert "'p'" not in repr(found)
