from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from domain.errors import Code, NightowlError, SourceError
from domain.jobs import Job
from domain.kinds import Kind
from domain.limits import Limits
from domain.states import JobState
from tasks.source import fetch_source, local_path, open_source

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


def fetch_refusal(worker: Worker, source: str) -> SourceError:
    """As planning is refused it."""
    row = Job(id="1", kind=Kind.OCR, state=JobState.PENDING, source=source)
    with pytest.raises(SourceError) as caught, fetch_source(worker.context, row, threading.Event()):
        pass
    return caught.value


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
        ("ftp://example.com/a.pdf?s3cret", "ftp://"),
        ("zip://a.pdf::s3://bucket/a.zip", "zip://"),
        ("gs+x.y-z://bucket/a", "gs+x.y-z://"),
        ("file://server/share/a.pdf?s3cret", "file://server/share"),
    ],
)
def test_other_addresses_are_refused_by_name(worker: Worker, source: str, named: str) -> None:
    error = fetch_refusal(worker, source)
    assert error.code is Code.SOURCE_UNSUPPORTED
    assert named in error.message
    assert "s3cret" not in error.message


def test_this_machine_may_be_named_in_a_file_url(worker: Worker, tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(b"hello")
    assert opened(worker, f"file://localhost{tmp_path}/a.pdf")[1] == b"hello"
    assert opened(worker, f"FILE://{tmp_path}/a.pdf")[1] == b"hello"


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


# Below the roots of NIGHTOWL_SOURCE_ROOTS.


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    """A root with a letter and links; beside it lies a secret."""
    (tmp_path / "secret.pdf").write_bytes(b"secret")
    root = tmp_path / "inbox"
    (root / "deep").mkdir(parents=True)
    (root / "deep" / "letter.pdf").write_bytes(b"hello")
    (root / "good.pdf").symlink_to(root / "deep" / "letter.pdf")
    (root / "bad.pdf").symlink_to(tmp_path / "secret.pdf")
    (root / "out").symlink_to(tmp_path)
    return root


@pytest.fixture
def bounded(make_worker: MakeWorker, inbox: Path) -> Worker:
    return make_worker(limits=Limits(max_source_bytes=100), source_roots=(inbox, inbox / "none"))


@pytest.mark.parametrize("name", ["deep/letter.pdf", "good.pdf", "deep/../deep/letter.pdf", "out/inbox/good.pdf"])
def test_below_a_root_is_allowed_however_it_is_written(bounded: Worker, inbox: Path, name: str) -> None:
    found, content = opened(bounded, inbox / name)
    assert content == b"hello"
    assert found is not None
    assert found.label == Path(name).name
    assert opened(bounded, (inbox / "good.pdf").as_uri())[1] == b"hello"


def test_a_root_may_be_a_link_itself(make_worker: MakeWorker, inbox: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(inbox)
    worker = make_worker(source_roots=(tmp_path / "link",))
    assert opened(worker, tmp_path / "link" / "good.pdf")[1] == b"hello"
    assert opened(worker, inbox / "good.pdf")[1] == b"hello"


@pytest.mark.parametrize(
    "name",
    ["bad.pdf", "out/secret.pdf", "../secret.pdf", "deep/../../secret.pdf", "../inbox2/a.pdf", "../none.pdf", ".."],
)
def test_outside_of_the_roots_is_refused_there_or_not(bounded: Worker, inbox: Path, name: str) -> None:
    error = refusal(bounded, inbox / name)
    assert error.code is Code.SOURCE_REFUSED
    assert str(inbox / name) in error.message
    assert f"{inbox}, {inbox / 'none'} (setting NIGHTOWL_SOURCE_ROOTS)" in error.message


@pytest.mark.parametrize("source", ["/proc/self/environ", "/dev/zero", "/etc/passwd", "file:///etc/passwd", "."])
def test_files_of_the_system_lie_outside(bounded: Worker, source: str) -> None:
    assert refusal(bounded, source).code is Code.SOURCE_REFUSED


def test_no_root_is_no_local_file(make_worker: MakeWorker, inbox: Path) -> None:
    worker = make_worker(source_roots=())
    assert "none (setting NIGHTOWL_SOURCE_ROOTS)" in refusal(worker, inbox / "good.pdf").message
    assert opened(worker, f"artifact:{worker.upload(b'hello', 'a.pdf').id}")[1] == b"hello"


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("gone.pdf", Code.SOURCE_MISSING),
        ("good.pdf/inside", Code.SOURCE_MISSING),
        ("x" * 400, Code.SOURCE_MISSING),
        ("a\0b", Code.SOURCE_MISSING),
        ("deep", Code.SOURCE_UNSUPPORTED),
        ("pipe", Code.SOURCE_UNSUPPORTED),
        ("zero", Code.SOURCE_REFUSED),
        ("empty", Code.SOURCE_EMPTY),
        ("large", Code.SOURCE_TOO_LARGE),
    ],
)
def test_what_cannot_be_read_below_a_root(bounded: Worker, inbox: Path, name: str, code: Code) -> None:
    os.mkfifo(inbox / "pipe")
    (inbox / "zero").symlink_to("/dev/zero")
    (inbox / "empty").touch()
    (inbox / "large").write_bytes(b"x" * 101)
    error = refusal(bounded, inbox / name)
    assert error.code is code
    assert "nightowl-" not in error.message


@pytest.mark.parametrize("swap", ["the file", "its folder"])
def test_a_path_that_is_swapped_after_it_was_checked_leads_nowhere_else(
    bounded: Worker, inbox: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swap: str
) -> None:
    path, honest = inbox / "deep" / "letter.pdf", os.open
    (tmp_path / "letter.pdf").write_bytes(b"secret")

    def open_late(name: Any, flags: int, *rest: Any, **options: Any) -> int:
        if name == path:
            path.unlink()
            if swap == "the file":
                path.symlink_to(tmp_path / "letter.pdf")
            else:
                path.parent.rmdir()
                path.parent.symlink_to(tmp_path)
        return honest(name, flags, *rest, **options)

    monkeypatch.setattr(os, "open", open_late)
    assert refusal(bounded, path).code is Code.SOURCE_REFUSED
    assert path.read_bytes() == b"secret"


def test_a_pipe_that_comes_after_the_check_is_not_waited_for(
    bounded: Worker, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, honest = inbox / "deep" / "letter.pdf", os.open

    def open_late(name: Any, flags: int, *rest: Any, **options: Any) -> int:
        if name == path:
            path.unlink()
            os.mkfifo(path)
        return honest(name, flags, *rest, **options)

    monkeypatch.setattr(os, "open", open_late)
    assert refusal(bounded, path).code is Code.SOURCE_UNSUPPORTED


def test_a_path_that_is_swapped_while_it_is_read_is_still_the_file(bounded: Worker, inbox: Path) -> None:
    row = Job(id="1", kind=Kind.OCR, state=JobState.PENDING, source=str(inbox / "good.pdf"))
    with open_source(bounded.context, row) as found:
        (inbox / "good.pdf").unlink()
        (inbox / "good.pdf").symlink_to(inbox.parent / "secret.pdf")
        assert found is not None
        assert found.path.read_bytes() == b"hello"
    assert not found.path.parent.exists()


def test_two_openings_have_different_paths(bounded: Worker, inbox: Path) -> None:
    """A reader child knows a document that it keeps open by its path."""
    paths = {opened(bounded, inbox / "good.pdf")[0] for _ in range(3)}
    assert len({found.path for found in paths if found}) == 3


def test_no_descriptor_is_left_open(bounded: Worker, inbox: Path) -> None:
    opened(bounded, inbox / "good.pdf")
    before = sorted(Path("/proc/self/fd").iterdir())
    opened(bounded, inbox / "good.pdf")
    refusal(bounded, inbox / "deep")
    refusal(bounded, inbox / "bad.pdf")
    assert sorted(Path("/proc/self/fd").iterdir()) == before
