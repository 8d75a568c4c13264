"""The artifact store on S3, by a server of its own: what is written is there, and what fails says so in one code."""

from __future__ import annotations

import os
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from domain.errors import Code, SourceError, StoreError
from storage.artifacts import CHUNK_BYTES, ArtifactStore, content_file
from tests.cluster.servers import S3

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.stack


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    s3fs = pytest.importorskip("s3fs")
    s3fs.S3FileSystem.clear_instance_cache()  # they keep the server of the test before
    pytest.importorskip("moto")
    with S3() as made:
        for name, value in made.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        yield made


@pytest.mark.parametrize("size", [0, 10, CHUNK_BYTES, 3 * CHUNK_BYTES + 5])
def test_what_is_kept_is_read_back_and_lies_there_once(server: S3, size: int, tmp_path: Path) -> None:
    store = ArtifactStore(f"{server.make_bucket()}/store")
    content = os.urandom(size)
    path = tmp_path / "a.bin"
    path.write_bytes(content)
    kept = []
    for _ in range(2):
        with path.open("rb") as file:
            kept.append(store.keep(file.read(CHUNK_BYTES), file.read, name="a.bin"))
    assert kept[0] == kept[1]
    whole = store.put_file(path, name="a.bin")
    for stored in (kept[0], whole, store.put(content, name="a.bin", media_type="text/plain")):
        assert store.read(stored) == content
        with store.local(stored) as copy:
            assert copy.read_bytes() == content
        store.remove(stored)
        store.remove(stored)
        assert not store.exists(stored)
        with pytest.raises(SourceError) as gone:
            store.read(stored)
        assert gone.value.code == Code.ARTIFACT_MISSING


def test_a_bucket_that_is_not_there_is_not_made(server: S3) -> None:
    store = ArtifactStore("s3://nobody-made-this/store")
    with pytest.raises(StoreError, match="does not exist"):
        store.put(b"x", name="a.txt", media_type="text/plain")
    with pytest.raises(StoreError):
        store.keep(b"x", lambda _: b"", name="a.txt")


def test_a_server_that_is_away_is_worth_another_try(server: S3) -> None:
    store = ArtifactStore(f"{server.make_bucket()}/store")
    stored = store.put(b"x", name="a.txt", media_type="text/plain")
    server.stop()
    for ask in (store.read, store.exists, store.remove):
        with pytest.raises(StoreError) as away:
            ask(stored)
        assert away.value.code == Code.STORE_UNREACHABLE
        assert away.value.retryable


def test_a_pack_is_read_by_ranges(server: S3) -> None:
    store = ArtifactStore(f"{server.make_bucket()}/store")
    contents = {sha256(data).hexdigest(): data for data in (b"first", b"the second", b"3")}
    for name, url in store.pack(contents).items():
        data = contents[name]
        stored = content_file(name, name="a.txt", size=len(data), url=url)
        assert store.exists(stored)
        assert store.read(stored) == data
        with store.local(stored) as copy:
            assert copy.read_bytes() == data
