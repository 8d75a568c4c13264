"""Object stores, stood in for by fsspec's memory and by drivers that misbehave."""

from __future__ import annotations

import importlib
import io
import logging
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem

from domain.errors import Code, LostError, SourceError
from domain.limits import Limits
from worker.readers import objects
from worker.readers.fetch import Rules, fetch

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRET = "s3cr3t"


class Driver(MemoryFileSystem):  # type: ignore[misc]  # fsspec is not typed
    """A store of its own. `fails` is raised by every call, `size` is what it says of a file."""

    protocol = "owlstore"
    cachable = False
    store: dict[str, Any] = {}  # noqa: RUF012 - as the class above has it
    fails: Exception | None = None
    size: int | None = None
    wait = threading.Event()

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.removeprefix("owlstore://").strip("/")

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        if self.fails is not None:
            raise self.fails
        return {**super().info(path, **options), **({} if self.size is None else {"size": self.size})}

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        file = super()._open(path, mode, **options)
        return Endless(file) if path.endswith("endless") else Hanging() if path.endswith("hangs") else file


class Endless(io.RawIOBase):
    def __init__(self, _: MemoryFile) -> None:
        self.reads = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        self.reads += 1
        return b"x" * 1000


class Hanging(io.RawIOBase):
    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        Driver.wait.wait(30)
        return b""


@pytest.fixture(autouse=True)
def driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Driver]]:
    fsspec.register_implementation("owlstore", Driver, clobber=True)
    monkeypatch.setattr(Driver, "store", {})
    monkeypatch.setattr(Driver, "pseudo_dirs", [""])
    monkeypatch.setattr(Driver, "wait", threading.Event())
    for name in ("a.txt", "endless", "hangs"):
        Driver().pipe_file(f"/bucket/{name}", b"An owl.")
    yield Driver
    Driver.wait.set()


def rules(**limits: Any) -> Rules:
    return Rules(limits=Limits(**{"max_source_bytes": 100_000, **limits}), protocols=("owlstore", "memory", "s3", "gs"))


def fetched(url: str, given: Rules | None = None, stop: threading.Event | None = None) -> bytes:
    file = io.BytesIO()
    fetch(url, file, given or rules(), stop=stop)
    return file.getvalue()


def refusal(url: str, given: Rules | None = None) -> SourceError:
    with pytest.raises(SourceError) as caught:
        fetched(url, given)
    assert SECRET not in caught.value.message
    return caught.value


def test_an_object_is_fetched() -> None:
    assert fetched("owlstore://bucket/a.txt") == b"An owl."
    assert fetched("OWLSTORE://bucket/a.txt") == b"An owl."


def test_what_fsspec_keeps_in_memory_can_be_fetched() -> None:
    fsspec.filesystem("memory").pipe_file("/owls/a.txt", b"An owl.")
    assert fetched("memory://owls/a.txt") == b"An owl."


def test_a_large_object_comes_in_pieces() -> None:
    content = bytes(range(256)) * 40_000
    assert len(content) > 2 * objects.CHUNK_BYTES
    Driver().pipe_file("/bucket/large", content)
    assert fetched("owlstore://bucket/large", rules(max_source_bytes=10**8)) == content


@pytest.mark.parametrize(
    "url",
    [
        *("ftp://h/a", "sftp://h/a", "simplecache::owlstore://bucket/a.txt", "zip://a::owlstore://bucket/a.txt"),
        *("local:///etc/passwd", "dir://x", "generic://file:///etc/passwd", "data://x", "filecache::http://127.0.0.1/"),
    ],
)
def test_a_protocol_that_the_setting_does_not_name(url: str) -> None:
    error = refusal(url)
    assert error.code is Code.SOURCE_UNSUPPORTED
    assert "allowed are http, https, owlstore, memory, s3, gs (setting NIGHTOWL_SOURCE_PROTOCOLS)" in error.message


def test_no_option_is_taken_out_of_the_url(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: str) -> dict[str, str]:
        raise AssertionError("the URL must not configure the driver")

    monkeypatch.setattr(Driver, "_get_kwargs_from_urls", staticmethod(refuse))
    assert fetched("owlstore://bucket/a.txt") == b"An owl."


@pytest.mark.parametrize(("url", "package"), [("s3://bucket/a", "s3fs"), ("gs://bucket/a", "gcsfs")])
def test_a_driver_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, url: str, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    known = importlib.import_module("fsspec.registry")._registry  # a driver that was loaded before is found there
    monkeypatch.delitem(known, url.partition(":")[0], raising=False)
    error = refusal(f"{url}?{SECRET}")
    assert (error.code, error.retryable) == (Code.SOURCE_UNSUPPORTED, False)
    assert f"pip install {package}" in error.message


def test_a_protocol_that_nobody_knows() -> None:
    error = refusal("nostore://bucket/a", Rules(limits=Limits(), protocols=("nostore",)))
    assert (error.code, error.retryable) == (Code.SOURCE_UNSUPPORTED, False)
    assert "nostore://" in error.message


@pytest.mark.parametrize(
    ("error", "code", "retryable"),
    [
        (FileNotFoundError(f"https://store/?sig={SECRET}"), Code.SOURCE_MISSING, False),
        (PermissionError(SECRET), Code.SOURCE_MISSING, False),
        (OSError(5, SECRET), Code.SOURCE_UNREACHABLE, True),
        (RuntimeError(SECRET), Code.SOURCE_UNREACHABLE, True),
    ],
)
def test_what_a_driver_raises_is_told_without_its_words(
    driver: type[Driver],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    code: Code,
    retryable: bool,
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(driver, "fails", error)
    with pytest.raises(SourceError) as caught:
        fetched(f"owlstore://bucket/a.txt?{SECRET}")
    logging.getLogger("test").error("%s", caught.value, exc_info=caught.value)
    assert (caught.value.code, caught.value.retryable) == (code, retryable)
    assert "owlstore://bucket/a.txt?…" in caught.value.message
    assert SECRET not in caplog.text


def test_a_folder_is_no_file() -> None:
    assert refusal("owlstore://bucket").code is Code.SOURCE_UNSUPPORTED


def test_a_missing_object() -> None:
    assert refusal("owlstore://bucket/none").code is Code.SOURCE_MISSING


def test_an_empty_object() -> None:
    Driver().pipe_file("/bucket/empty", b"")
    assert refusal("owlstore://bucket/empty").code is Code.SOURCE_EMPTY


def test_a_size_over_the_limit_is_not_read() -> None:
    Driver().pipe_file("/bucket/large", bytes(100_001))
    error = refusal("owlstore://bucket/large")
    assert error.code is Code.SOURCE_TOO_LARGE
    assert "100001 bytes" in error.message


def test_more_than_was_said_is_cut_off_at_the_limit() -> None:
    assert "more than 100000 bytes" in refusal("owlstore://bucket/endless").message


@pytest.mark.parametrize("said", [6, 8])
def test_another_size_than_was_said_may_be_tried_again(
    driver: type[Driver], monkeypatch: pytest.MonkeyPatch, said: int
) -> None:
    monkeypatch.setattr(driver, "size", said)
    error = refusal("owlstore://bucket/a.txt")
    assert (error.code, error.retryable) == (Code.SOURCE_UNREACHABLE, True)
    assert f"7 of {said} bytes" in error.message


def test_a_driver_that_hangs_is_left_behind() -> None:
    started = time.monotonic()
    error = refusal("owlstore://bucket/hangs", rules(fetch_seconds=0.3))
    assert time.monotonic() - started < 1.5
    assert (error.code, error.retryable) == (Code.SOURCE_UNREACHABLE, True)
    assert "FETCH_SECONDS" in error.message


def test_a_stop_ends_the_wait() -> None:
    stop = threading.Event()
    timer = threading.Timer(0.1, stop.set)
    timer.start()
    with pytest.raises(LostError):
        fetched("owlstore://bucket/hangs", stop=stop)
    timer.join()


def test_a_reading_that_is_given_up_ends() -> None:
    refusal("owlstore://bucket/endless")
    limit = time.monotonic() + 5
    while any(thread.name == "object-store" for thread in threading.enumerate()):
        assert time.monotonic() < limit
        time.sleep(0.02)
