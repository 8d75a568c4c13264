"""Batches from elsewhere, by servers of their own: an S3, and web servers that know ranges or do not."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
import tarfile
import time
import zipfile
from typing import TYPE_CHECKING

import pytest

from domain.errors import Code, SourceError
from nightowl import Client, Ocr
from nightowl.intake import pages
from storage.artifacts import SCHEME
from tests.cluster.servers import S3
from tests.servers import Web, answer, endless

if TYPE_CHECKING:
    from collections.abc import Iterator


pytestmark = pytest.mark.stack


@pytest.fixture
def web() -> Iterator[Web]:
    pytest.importorskip("aiohttp")
    with Web() as made:
        yield made


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bytes]]:
    """What it holds is stored at the first submit."""
    s3fs = pytest.importorskip("s3fs")
    pytest.importorskip("moto")
    s3fs.S3FileSystem.clear_instance_cache()
    with S3() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        server.make_bucket("archive")
        fs = s3fs.S3FileSystem()
        content = {
            "2020/a/x.txt": b"a",
            "2020/b/x.txt": b"b",
            "2020/pack.tar.gz": tar("w:gz", {"d/1.txt": b"one", "d/2.txt": b"two"}),
            "2020/list.csv": b"source\na/x.txt\ns3://archive/2020/b/x.txt\n/etc/passwd\n",
            "pack.zip": packed_zip({"z/1.txt": b"one"}),
        }
        for name, data in content.items():
            fs.pipe_file(f"archive/{name}", data)
        yield content


def tar(mode: str, members: dict[str, bytes]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode=mode) as archive:  # type: ignore[call-overload]
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return made.getvalue()


def packed_zip(members: dict[str, bytes]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return made.getvalue()


def submitted(client: Client, source: str) -> dict[str, str]:
    """The members' paths, with the jobs' sources or why they were skipped."""
    report = client.submit_batch(Ocr(), source)
    assert report.batch is not None
    found = {}
    for member in client.members(report.batch.id):
        found[member.path] = member.error_code or str(client.get(member.job_id or "").source)
    return {path: "stored" if source.startswith(SCHEME) else source for path, source in found.items()}


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("source", "members"),
    [
        (
            "s3://archive/2020",
            {
                "a/x.txt": "s3://archive/2020/a/x.txt",
                "b/x.txt": "s3://archive/2020/b/x.txt",
                "list.csv": "s3://archive/2020/list.csv",
                "pack.tar.gz/d/1.txt": "stored",
                "pack.tar.gz/d/2.txt": "stored",
            },
        ),
        ("s3://archive/2020/b*/*.txt", {"x.txt": "s3://archive/2020/b/x.txt"}),
        ("s3://archive/pack.zip", {"z/1.txt": "stored"}),
        (
            "s3://archive/2020/list.csv",
            {
                "a/x.txt": "s3://archive/2020/a/x.txt",
                "archive/2020/b/x.txt": "s3://archive/2020/b/x.txt",
                "list.csv row 3": "source_refused",
            },
        ),
    ],
)
def test_a_bucket_is_a_folder(client: Client, bucket: dict[str, bytes], source: str, members: dict[str, str]) -> None:
    assert submitted(client, source) == members
    again = client.submit_batch(Ocr(), source)
    assert again.added == 0


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_list_from_a_web_server_names_what_lies_beside_it_and_no_file_of_this_machine(
    client: Client, web: Web
) -> None:
    rows = ["source,pages", "b.txt,", "../up.txt,1", "/etc/passwd,", "file:///etc/passwd,", "~/.ssh/id,"]
    web.answers["/lists/list.csv?sig=s3cr3t"] = answer("\n".join([*rows, "http://10.0.0.1/in.txt,"]).encode())
    found = submitted(client, web.url("/lists/list.csv?sig=s3cr3t"))
    refused = {path for path, source in found.items() if source == "source_refused"}
    assert refused == {f"list.csv row {number}" for number in (3, 4, 5)}
    others = {source for path, source in found.items() if path not in refused}
    # The workers judge addresses when they open them (tests/stack/test_network.py).
    assert others == {web.url("/lists/b.txt"), web.url("/up.txt"), "http://10.0.0.1/in.txt"}


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_an_index_page_is_a_folder_of_what_lies_below_it(client: Client, web: Web) -> None:
    html = "Content-Type: text/html"
    page = '<a href="../">up</a> <a href="a.txt">a</a> <a href="?sort=size">s</a> <a href="sub/">sub</a>'
    page += '<a href="http://elsewhere.example/x.txt">x</a> <a href="/other/y.txt">y</a> <a href="#top">t</a>'
    web.answers["/dir/"] = answer(page.encode(), html)
    web.answers["/dir/sub/"] = answer(b'<A HREF="b%20c.txt">b</A> <a href="pack.zip">p</a> <a href="./">.</a>', html)
    web.answers["/dir/sub/pack.zip"] = answer(packed_zip({"z/1.txt": b"one"}))
    found = submitted(client, web.url("/dir/"))
    assert found == {
        "a.txt": web.url("/dir/a.txt"),
        "sub/b%20c.txt": web.url("/dir/sub/b%20c.txt"),
        "sub/pack.zip/z/1.txt": "stored",
    }


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_an_index_without_an_end_is_not_read_to_its_end(
    client: Client, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "PAGE_BYTES", 100_000)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n\r\n"
    web.answers["/dir/"] = endless(head, b'<a href="a.txt">a</a>' * 500)
    with pytest.raises(SourceError, match="larger than"):
        client.submit_batch(Ocr(), web.url("/dir/"))


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_an_index_that_comes_in_pieces_is_read_to_its_end(client: Client, web: Web) -> None:
    def slowly(_: Web, connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n\r\n")
        for number in range(20):
            connection.sendall(f'<a href="{number}.txt">{number}</a>'.encode())
            time.sleep(0.01)
        connection.shutdown(socket.SHUT_WR)

    web.answers["/dir/"] = slowly
    assert len(submitted(client, web.url("/dir/"))) == 20


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_an_archive_on_a_server_without_ranges_is_read_as_it_comes(client: Client, web: Web, mode: str) -> None:
    """Larger than what is asked for at a time, so a second range would be asked for."""
    members = {f"d/{number}.txt": bytes([number]) * 1024**2 for number in range(12)}
    web.answers["/pack.tar"] = answer(tar(mode, members))
    assert submitted(client, web.url("/pack.tar")) == dict.fromkeys(members, "stored")


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_an_answer_that_breaks_off_is_told_and_the_same_submit_goes_on(client: Client, web: Web) -> None:
    members = {f"d/{number}.txt": bytes([number]) * 1024**2 for number in range(12)}
    whole = tar("w", members)
    web.answers["/pack.tar"] = answer(whole[: 6 * 1024**2], length=len(whole))
    with pytest.raises(SourceError, match="broke off") as broken:
        client.submit_batch(Ocr(), web.url("/pack.tar"))
    assert broken.value.code == Code.SOURCE_UNREACHABLE
    web.answers["/pack.tar"] = answer(whole)
    report = client.submit_batch(Ocr(), web.url("/pack.tar"))
    assert (report.added + report.already, report.skipped) == (12, {})
    assert web.asked


PEAK = """
from pathlib import Path
from nightowl.cli import app
try:
    app(standalone_mode=False)
finally:
    print(next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line))
"""


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_memory_does_not_grow_with_an_archive_on_s3(client: Client, bucket: dict[str, bytes]) -> None:
    """Prints the peaks in KiB (pytest -s); docs/performance.md has them."""
    import s3fs

    peaks = []
    for size in (20, 200):
        name = f"archive/{size}.tar"
        s3fs.S3FileSystem().pipe_file(name, tar("w", {f"{size}/{n}.bin": os.urandom(1024**2) for n in range(size)}))
        line = [sys.executable, "-c", PEAK, "batch", "ocr", f"s3://{name}"]
        done = subprocess.run(line, capture_output=True, text=True, check=True)
        assert f"{size} added" in done.stdout
        peaks.append(int(done.stdout.split()[-1]))
    print(peaks)
    assert peaks[1] < peaks[0] + 40 * 1024
