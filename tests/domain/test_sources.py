from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from domain.errors import Code, SourceError
from domain.jobs import Job, JobSpec
from domain.kinds import Kind
from domain.params import Ocr
from domain.settings import UNGUARDED_PROTOCOLS, Settings, origins
from domain.sources import at_home, check_source, file_name, is_remote, masked, scheme
from domain.states import JobState

SECRET = "s3cr3t"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("https://example.com/a.pdf", "https"),
        ("HTTPS://example.com/a.pdf", "https"),
        ("s3://bucket/key", "s3"),
        ("file:///a.pdf", "file"),
        ("simplecache::s3://bucket/key", "simplecache::s3"),
        ("/archive/a.pdf", None),
        ("/archive/http://x/a.pdf", None),
        ("a//b.pdf", None),
        ("C:\\a.pdf", None),
        ("artifact:0199", None),
    ],
)
def test_what_is_a_url(source: str, expected: str | None) -> None:
    assert scheme(source) == expected
    assert is_remote(source) == (expected not in (None, "file"))


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("/archive/a b?.pdf", "/archive/a b?.pdf"),
        ("https://example.com/a.pdf", "https://example.com/a.pdf"),
        ("https://example.com:8443/a.pdf?", "https://example.com:8443/a.pdf?…"),
        (f"https://example.com/a.pdf?X-Amz-Signature={SECRET}", "https://example.com/a.pdf?…"),
        (f"https://example.com/a.pdf#{SECRET}", "https://example.com/a.pdf?…"),
        (f"https://example.com?{SECRET}", "https://example.com?…"),
        (f"https://owl:{SECRET}@example.com/a.pdf", "https://example.com/a.pdf"),
        (f"https://owl:{SECRET}@[::1]:80/a.pdf", "https://[::1]:80/a.pdf"),
        (f"https://owl:{SECRET}/more@example.com/a.pdf", "https://***"),
        (f"https://a@{SECRET}@example.com/a.pdf", "https://example.com/a.pdf"),
        (f"s3://key:{SECRET}@bucket/a.pdf", "s3://bucket/a.pdf"),
        (f"simplecache::s3://key:{SECRET}@bucket/a.pdf", "simplecache::s3://bucket/a.pdf"),
        (f"zip://a.pdf::s3://key:{SECRET}@bucket/b.zip", "zip://***"),
        (f"https://example.com/a\n?{SECRET}\n{SECRET}", "https://example.com/a\n?…"),
    ],
)
def test_what_is_shown_of_a_source(source: str, shown: str) -> None:
    assert masked(source) == shown
    assert SECRET not in shown


def test_a_long_url_is_shown_in_part() -> None:
    assert masked(f"https://example.com/{'x' * 99_999}?{SECRET}") == f"https://example.com/{'x' * 280}…"


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("/archive/a b.pdf", "a b.pdf"),
        ("https://example.com/x/a%20b.pdf?sig=1", "a b.pdf"),
        ("https://example.com/x/", "x"),
        ("https://example.com", "example.com"),
        ("https://example.com/..%2F..%2Fetc%2Fpasswd", "passwd"),
        ("https://example.com/a%00b.pdf", "ab.pdf"),
        (f"https://example.com/{'x' * 300}.pdf", "x" * 196 + ".pdf"),
        (f"https://{SECRET}@example.com", "example.com"),
    ],
)
def test_the_name_of_the_file(source: str, name: str) -> None:
    assert file_name(source) == name


@pytest.mark.parametrize(
    "source", [f"https://owl:{SECRET}@example.com/a", f"https://{SECRET}@example.com", f"s3://key:{SECRET}@bucket/a"]
)
def test_a_url_with_a_password_is_refused_and_says_what_to_do(source: str) -> None:
    with pytest.raises(SourceError, match="presigned") as caught:
        check_source(source)
    assert caught.value.code is Code.SOURCE_REFUSED
    assert SECRET not in caught.value.message


@pytest.mark.parametrize("source", [f"https://owl:{SECRET}/more@example.com/a", "http://[::1/a", "http://a b/c"])
def test_a_url_whose_host_is_none_is_refused(source: str) -> None:
    with pytest.raises(SourceError, match="no valid host") as caught:
        check_source(source)
    assert SECRET not in caught.value.message


def test_a_url_that_lost_a_slash_is_no_path() -> None:
    with pytest.raises(SourceError, match="one slash") as caught:
        check_source(str(Path(f"https://owl:{SECRET}@example.com/a.pdf?sig={SECRET}")))
    assert SECRET not in caught.value.message


@pytest.mark.parametrize(
    "source",
    ["/a/b@c.pdf", "C:/a.pdf", "s3://bucket/a@b", "https://h/@x?a=b@c", "s3://arn:aws:s3:us-west-2:1:accesspoint/a/b"],
)
def test_other_sources_pass(source: str) -> None:
    check_source(source)


@pytest.mark.parametrize("named", [False, True])
def test_a_job_shows_no_secret_of_its_source(named: bool) -> None:
    url = f"https://example.com/a.pdf?sig={SECRET}"
    job = Job(id="1", kind=Kind.OCR, state=JobState.PENDING, source=url, source_name=url if named else None)
    assert job.source == url
    assert (job.name, job.to_json()["source"]) == ("https://example.com/a.pdf?…",) * 2
    assert SECRET not in repr(job) or named
    assert SECRET not in repr(JobSpec(kind=Kind.OCR, params=Ocr(), source=url))


def test_roots_are_separated_as_paths_are_or_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings().source_roots is None
    monkeypatch.setenv("NIGHTOWL_SOURCE_ROOTS", "/a:/b , /c d,")
    assert Settings().source_roots == (Path("/a"), Path("/b"), Path("/c d"))
    monkeypatch.setenv("NIGHTOWL_SOURCE_ROOTS", "")
    assert Settings().source_roots == ()


def test_doctor_prints_lists_as_they_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTOWL_SOURCE_ROOTS", "/a:/b")
    printed = {each.name: each.value for each in origins(Settings())}
    assert printed["NIGHTOWL_SOURCE_ROOTS"] == "/a,/b"
    assert printed["NIGHTOWL_QUEUES"] == "cpu,gpu"


def test_roots_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/owl")
    assert Settings(source_roots=(Path("in"), Path("~/x"))).source_roots == (tmp_path / "in", Path("/home/owl/x"))


@pytest.mark.parametrize("name", sorted(UNGUARDED_PROTOCOLS))
def test_protocols_that_pass_the_checks_by_are_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("NIGHTOWL_SOURCE_PROTOCOLS", f"s3,{name.upper()}")
    with pytest.raises(ValidationError, match=name):
        Settings()


def test_private_hosts_are_networks_addresses_and_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTOWL_SOURCE_PRIVATE_HOSTS", "10.0.0.0/8, 127.0.0.1,::1,fd00::/8,MinIO.internal.,localhost")
    expected = ("10.0.0.0/8", "127.0.0.1/32", "::1/128", "fd00::/8", "minio.internal", "localhost")
    assert Settings().source_private_hosts == expected


@pytest.mark.parametrize("entry", ["10.0.0.1/8", "10.0.0", "http://minio", "min io", "*", "a/b", "[::1]"])
def test_a_private_host_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, entry: str) -> None:
    monkeypatch.setenv("NIGHTOWL_SOURCE_PRIVATE_HOSTS", entry)
    with pytest.raises(ValidationError, match=re.escape(entry)):
        Settings()


@pytest.mark.parametrize("source", ["\udcff\udcfe.pdf", "a\0b.pdf"])
def test_a_name_that_no_row_can_hold_is_refused(source: str) -> None:
    with pytest.raises(SourceError, match=r"is no name that the database can hold") as caught:
        check_source(source)
    assert caught.value.code == Code.NAME_REFUSED
    caught.value.message.encode()


def test_only_a_tilde_alone_is_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/owl")
    assert at_home("~/a.pdf") == Path("/home/owl/a.pdf")
    assert at_home("~$report.pdf") == Path("~$report.pdf")
    assert at_home("/x/~/a.pdf") == Path("/x/~/a.pdf")
