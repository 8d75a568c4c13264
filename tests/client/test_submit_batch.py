"""Batches through the client: what is in the ledger and in the store afterwards."""

from __future__ import annotations

import gzip
import hashlib
import os
import sys
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest

from domain.errors import Code, ConflictError, NotFoundError, ParamsError, SourceError
from domain.settings import Settings
from domain.states import JobState
from nightowl import Client, Ocr
from storage import artifacts, migrations
from storage.session import Database
from tests.client.archives import tarred, zipped

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def client(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """No stack is up: nothing can be rung for."""
    monkeypatch.setenv("NIGHTOWL_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("NIGHTOWL_DATABASE_URL", database_url)
    database = Database(database_url)
    migrations.upgrade(database)
    database.close()
    with Client(Settings()) as made:
        yield made


def members(client: Client, name: str) -> dict[str, Any]:
    return {member.path: member for member in client.members(name)}


def test_an_archive_becomes_jobs_and_a_manifest_and_the_same_again_nothing(client: Client, tmp_path: Path) -> None:
    archive = tmp_path / "in.zip"
    archive.write_bytes(
        zipped({"a/x.pdf": b"%PDF-1 one", "b/x.pdf": b"%PDF-1 one", "b/y.pdf": b"%PDF-1 two", "e": b""})
    )
    report = client.submit_batch(Ocr(pages="1"), archive, name="first", priority=-3, engine="fake")
    assert (report.added, report.already, report.skipped) == (3, 0, {"source_empty": 1})
    found = members(client, "first")
    assert found["a/x.pdf"].sha256 == hashlib.sha256(b"%PDF-1 one").hexdigest()
    assert (found["a/x.pdf"].size, found["a/x.pdf"].format) == (10, "pdf")
    jobs = {path: client.get(member.job_id) for path, member in found.items() if member.job_id}
    assert jobs["a/x.pdf"].source == jobs["b/x.pdf"].source, "one content is stored once"
    assert jobs["a/x.pdf"].id != jobs["b/x.pdf"].id
    job = jobs["b/y.pdf"]
    assert (job.params, job.priority, job.engine, job.source_name) == ({"pages": "1"}, -3, "fake", "b/y.pdf")
    (pack,) = packs(tmp_path)
    assert pack.read_bytes() == b"%PDF-1 one%PDF-1 two"
    again = client.submit_batch(Ocr(pages="1"), archive, name="first", priority=-3, engine="fake")
    assert (again.added, again.already) == (0, 4)
    assert again.batch is not None
    assert report.batch is not None
    assert again.batch.id == report.batch.id


def packs(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "data/artifacts/packs").glob("*/*"))


def content_of(client: Client, path: str, *, batch: str) -> bytes:
    """As a client reads it, which must be as a worker does."""
    job = client.get(members(client, batch)[path].job_id)
    with client._database.read() as session:
        stored = artifacts.get(session, (job.source or "").removeprefix(artifacts.SCHEME))
    read = client.read(stored)
    with client._artifacts.local(stored) as file:
        assert file.read_bytes() == read
    return read


def test_small_members_lie_in_one_file_and_each_is_read_by_itself(client: Client, tmp_path: Path) -> None:
    texts = {f"{number}.txt": f"text {number}".encode() * (number + 1) for number in range(7)}
    large = b"l" * (artifacts.PACKED_BYTES + 1)
    (tmp_path / "in.tar").write_bytes(tarred({**texts, "large": large}))
    client.submit_batch(Ocr(), tmp_path / "in.tar", name="b")
    assert len(packs(tmp_path)) == 1
    assert {path: content_of(client, path, batch="b") for path in texts} == texts
    assert content_of(client, "large", batch="b") == large
    (tmp_path / "next.tar").write_bytes(tarred({"seen.txt": texts["3.txt"], "new.txt": b"new"}))
    client.submit_batch(Ocr(), tmp_path / "next.tar", name="next")
    assert sorted(pack.stat().st_size for pack in packs(tmp_path))[0] == len(b"new"), "what is here is not stored again"
    assert content_of(client, "seen.txt", batch="next") == texts["3.txt"]


def test_a_pack_that_is_gone_is_said_and_made_good_by_the_next_submit(client: Client, tmp_path: Path) -> None:
    (tmp_path / "in.tar").write_bytes(tarred({"a": b"one", "b": b"two"}))
    client.submit_batch(Ocr(), tmp_path / "in.tar", name="b")
    packs(tmp_path)[0].unlink()
    with pytest.raises(SourceError) as gone:
        content_of(client, "a", batch="b")
    assert gone.value.code == Code.ARTIFACT_MISSING
    client.submit_batch(Ocr(), tmp_path / "in.tar", name="again")
    assert [content_of(client, path, batch="b") for path in "ab"] == [b"one", b"two"]


def test_a_chunk_ends_where_its_small_members_fill_a_pack(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nightowl.batches.CHUNK_BYTES_HELD", 100)
    (tmp_path / "in.tar").write_bytes(tarred({f"{number}": b"%d" % number * 30 for number in range(9)}))
    assert client.submit_batch(Ocr(), tmp_path / "in.tar", name="b").added == 9
    assert sorted(pack.stat().st_size for pack in packs(tmp_path)) == [30, 120, 120]
    assert content_of(client, "7", batch="b") == b"7" * 30


def test_a_submit_that_was_killed_is_gone_on_with(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "in.tar"
    archive.write_bytes(tarred({f"{number}.txt": f"text {number}".encode() for number in range(10)}))
    monkeypatch.setattr("nightowl.batches.CHUNK_MEMBERS", 4)
    with monkeypatch.context() as patch:
        patch.setattr(client._doorbell, "ring", killed)
        with pytest.raises(KeyboardInterrupt):
            client.submit_batch(Ocr(), archive)
    name = client.batches()[0].name
    assert name is not None
    assert client.batch(name).jobs == 4
    report = client.submit_batch(Ocr(), archive)
    assert (report.added, report.already, client.batch(name).jobs) == (6, 4, 10)


def killed(*_: object, **__: object) -> bool:
    raise KeyboardInterrupt


def test_a_folder_is_read_in_place_or_uploaded(client: Client, tmp_path: Path) -> None:
    (tmp_path / "in/deep").mkdir(parents=True)
    (tmp_path / "in/deep/x.txt").write_text("text")
    client.submit_batch(Ocr(), tmp_path / "in", name="in place")
    client.submit_batch(Ocr(), tmp_path / "in", name="uploaded", upload=True)
    in_place, uploaded = (client.get(members(client, name)["deep/x.txt"].job_id) for name in ("in place", "uploaded"))
    assert in_place.source == str(tmp_path / "in/deep/x.txt")
    assert uploaded.source == f"artifact:{hashlib.sha256(b'text').hexdigest()}"


def test_rows_of_a_manifest_have_params_of_their_own_and_wrong_ones_are_skipped(client: Client, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    manifest = tmp_path / "m.csv"
    manifest.write_text("source,pages,colour\na.txt,1,\na.txt,2,\na.txt,,red\nnone.txt,,\nhttps://x.org/b.pdf,,\n")
    report = client.submit_batch(Ocr(output="text"), manifest, name="m")
    assert (report.added, report.skipped) == (3, {"params_invalid": 1, "source_missing": 1})
    with_params = [client.get(member.job_id or "") for member in client.members("m", skipped=False)]
    assert {(job.source_name, job.params.get("output"), job.params.get("pages")) for job in with_params} == {
        ("a.txt", "text", "1"),
        ("a.txt", "text", "2"),
        ("x.org/b.pdf", "text", None),
    }
    assert "https://x.org/b.pdf" in {job.source for job in with_params}


def test_a_dry_run_stores_nothing(client: Client, tmp_path: Path) -> None:
    archive = tmp_path / "in.zip"
    archive.write_bytes(zipped({"x.pdf": b"%PDF", "../y": b"y"}))
    report = client.submit_batch(Ocr(), archive, dry_run=True)
    assert (report.batch, report.added, report.skipped) == (None, 1, {"name_refused": 1})
    assert client.batches() == []
    assert not list((tmp_path / "data/artifacts").rglob("*"))


def test_large_members_are_stored_whole_and_no_larger_than_the_limit(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = os.urandom(3_000_000)
    archive = tmp_path / "in.tar"
    archive.write_bytes(tarred({"x": content, "too large": content + b"1", "after": b"text"}))
    monkeypatch.setattr(client, "settings", client.settings.model_copy(update={"limits": limits(3_000_000)}))
    report = client.submit_batch(Ocr(), archive, name="b")
    assert (report.added, report.skipped) == (2, {"source_too_large": 1})
    stored = tmp_path / "data/artifacts/content"
    assert next(stored.rglob(hashlib.sha256(content).hexdigest())).read_bytes() == content
    assert list((tmp_path / "data/artifacts/incoming").iterdir()) == []


def limits(max_source_bytes: int) -> Any:
    return Settings().limits.model_copy(update={"max_source_bytes": max_source_bytes})


def test_cancel_and_retry_of_a_batch(client: Client, tmp_path: Path) -> None:
    archive = tmp_path / "in.tar"
    archive.write_bytes(tarred({f"{number}.txt": f"{number}".encode() for number in range(7)}))
    client.submit_batch(Ocr(), archive, name="b")
    assert client.cancel_batch("b").states == {JobState.CANCELLED: 7}
    assert client.retry_batch("b") == 7
    assert client.batch("b").states == {JobState.PENDING: 7}
    assert client.retry_batch("b") == 0


def test_a_name_of_another_kind_of_batch_is_refused_and_a_missing_one_is_said(client: Client, tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("x")
    client.submit_batch(Ocr(), tmp_path / "x.txt", name="b")
    with pytest.raises(ConflictError):
        client.submit_batch(Ocr(pages="2"), tmp_path / "x.txt", name="b")
    with pytest.raises(NotFoundError):
        client.batch("nothing")
    with pytest.raises(SourceError, match="does not exist"):
        client.submit_batch(Ocr(), tmp_path / "none.zip")


def test_memory_does_not_grow_with_the_members(client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nightowl.batches.CHUNK_MEMBERS", 100)

    def peak(count: int) -> int:
        archive = tmp_path / f"{count}.tar.gz"
        archive.write_bytes(tarred({f"{number}.txt": b"%d" % number for number in range(count)}, mode="w:gz"))
        tracemalloc.start()
        try:
            client.submit_batch(Ocr(), archive)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(50)
    small, large = peak(300), peak(900)
    assert large < small * 1.2


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """SQLite; the ledger's own tests run on both databases."""
    return sqlite_url


def test_a_remote_store_gets_every_file(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    monkeypatch.setenv("NIGHTOWL_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("NIGHTOWL_DATABASE_URL", database_url)
    monkeypatch.setenv("NIGHTOWL_ARTIFACTS_URL", "memory://store")
    database = Database(database_url)
    migrations.upgrade(database)
    database.close()
    (tmp_path / "in").mkdir()
    (tmp_path / "in/x.txt").write_text("small")
    (tmp_path / "in/y.bin").write_bytes(b"1" * 2_000_000)
    memory = fsspec.filesystem("memory")
    try:
        with Client(Settings()) as client:
            assert client.submit_batch(Ocr(), tmp_path / "in", name="b").added == 2
            assert content_of(client, "x.txt", batch="b") == b"small"
        sizes = [[memory.info(path)["size"] for path in memory.find(f"/store/{kind}")] for kind in ("packs", "content")]
        assert sizes == [[5], [2_000_000]]
    finally:
        memory.rm("/store", recursive=True)


@pytest.mark.parametrize("name", ["in.zip", "in.tar"])
def test_an_archive_as_one_job_is_refused_with_the_command_to_use(client: Client, tmp_path: Path, name: str) -> None:
    archive = tmp_path / name
    archive.write_bytes(zipped({"x": b"x"}) if name == "in.zip" else tarred({"x": b"x"}))
    with pytest.raises(SourceError, match=f"nightowl batch ocr {name}"):
        client.submit(Ocr(), archive)


class Rung:
    """A doorbell that keeps what it was rung for."""

    def __init__(self) -> None:
        self.jobs: list[str] = []

    def ring(self, job_id: str, *, priority: int) -> bool:
        self.jobs.append(job_id)
        return True

    def close(self) -> None:
        pass


def test_messages_stay_bounded_whatever_is_submitted(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rung = Rung()
    monkeypatch.setattr(client, "_doorbell", rung)
    monkeypatch.setattr(client, "settings", client.settings.model_copy(update={"max_messages": 8}))
    monkeypatch.setattr("nightowl.batches.CHUNK_MEMBERS", 10)
    archive = tmp_path / "in.tar"
    archive.write_bytes(tarred({f"{number}.txt": b"%d" % number for number in range(40)}))
    client.submit_batch(Ocr(), archive, name="b")
    assert len(rung.jobs) == 6, "a batch leaves a quarter of the messages to others"
    (tmp_path / "x.txt").write_text("x")
    for _ in range(30):
        client.submit(Ocr(), tmp_path / "x.txt")
    assert len(rung.jobs) == 16
    urgent = client.submit(Ocr(), tmp_path / "x.txt", priority=1)
    assert rung.jobs[-1] == urgent.id, "somebody waits for it"


def test_params_over_the_limit_are_refused_at_the_door(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIGHTOWL_LIMITS__MAX_PARAMS_BYTES", "60")
    (tmp_path / "a.txt").write_text("An owl.")
    (tmp_path / "list.csv").write_text(f'source,pages\na.txt,1\na.txt,"{",".join(["1"] * 50)}"\n')
    long = Ocr(pages=",".join(["1"] * 50))
    with Client(Settings()) as small:
        with pytest.raises(ParamsError, match=r"the limit is 60 \(setting NIGHTOWL_LIMITS__MAX_PARAMS_BYTES\)"):
            small.submit_batch(long, tmp_path / "list.csv", name="large")
        with pytest.raises(NotFoundError):
            small.batch("large")
        report = small.submit_batch(Ocr(), tmp_path / "list.csv", name="rows")
    assert (report.added, report.skipped) == (1, {"params_invalid": 1})


@pytest.mark.parametrize("form", ["zip", "gz"])
def test_a_bomb_that_is_the_last_member_is_told(client: Client, tmp_path: Path, form: str) -> None:
    bomb = b"%PDF-1.4\n" + bytes(80 * 1024**2)
    path = tmp_path / f"in.pdf.{form}"
    path.write_bytes(zipped({"a.pdf": b"%PDF-1.4 one", "z.pdf": bomb}) if form == "zip" else gzip.compress(bomb))
    report = client.submit_batch(Ocr(), path, name="bomb")
    assert (report.added, report.skipped) == (1 if form == "zip" else 0, {"archive_limit": 1})
    (skipped,) = client.members("bomb", skipped=True)
    assert "NIGHTOWL_LIMITS__MAX_ARCHIVE_RATIO" in (skipped.error_message or "")


def test_texts_that_no_database_holds_are_refused_at_the_door(client: Client, tmp_path: Path) -> None:
    for call in (
        lambda: client.submit(Ocr(), b"x", key="\udcff"),
        lambda: client.submit(Ocr(), b"x", engine="a\0b"),
        lambda: client.submit_batch(Ocr(), tmp_path, name="\udcff"),
    ):
        with pytest.raises(ParamsError, match=r"is not UTF-8, or has a NUL in it"):
            call()
    assert client.submit(Ocr(), b"x", name="a\0b\udcff.txt").source_name == "ab.txt"


@pytest.mark.skipif(sys.platform == "darwin", reason="its file system has names in UTF-8 only")
def test_a_folder_whose_name_no_row_can_hold_is_told(client: Client, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"d\xff")
    folder.mkdir()
    (folder / "a.txt").write_text("An owl.")
    report = client.submit_batch(Ocr(), folder)
    assert report.skipped == {"name_refused": 1}
    assert report.batch is not None and "\\udcff" in str(report.batch.name)
