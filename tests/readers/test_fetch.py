"""Fetching over http and https from real servers on this machine, which the setting allows."""

from __future__ import annotations

import gzip
import io
import logging
import socket
import ssl
import threading
import time
import tracemalloc
from typing import TYPE_CHECKING, Any

import httpcore2
import pytest
import trustme

from domain.errors import Code, LostError, SourceError
from domain.limits import Limits
from tests.servers import Web, answer, endless, redirect, resolver
from worker.readers.fetch import Rules, fetch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECRET = "X-Amz-Signature=s3cr3t"
LOOPBACK = ("127.0.0.1/32",)
CHUNKED = answer(b"", "Transfer-Encoding: chunked", length=-1)


@pytest.fixture
def web() -> Iterator[Web]:
    with Web() as server:
        yield server


def rules(private_hosts: tuple[str, ...] = LOOPBACK, **limits: Any) -> Rules:
    return Rules(limits=Limits(**{"max_source_bytes": 100_000, **limits}), private_hosts=private_hosts)


def fetched(url: str, given: Rules | None = None, stop: threading.Event | None = None) -> bytes:
    file = io.BytesIO()
    fetch(url, file, given or rules(), stop=stop)
    return file.getvalue()


def refusal(url: str, given: Rules | None = None) -> SourceError:
    with pytest.raises(SourceError) as caught:
        fetched(url, given)
    assert "s3cr3t" not in caught.value.message
    return caught.value


def test_the_content_is_fetched(web: Web) -> None:
    web.answers["/a.txt"] = answer(b"An owl.")
    assert fetched(web.url()) == b"An owl."
    (asked,) = web.asked
    assert f"\r\nHost: 127.0.0.1:{web.port}\r\n" in asked.head
    assert "\r\nAccept-Encoding: identity\r\n" in asked.head
    assert "cookie" not in asked.head.lower()
    assert "authorization" not in asked.head.lower()


def test_the_query_is_sent_and_the_fragment_is_not(web: Web) -> None:
    web.answers["/a%20b/%C3%A4.txt?x=1&sig=a%2Fb+c"] = answer(b"An owl.")
    assert fetched(web.url("/a b/ä.txt?x=1&sig=a%2Fb+c#page=2")) == b"An owl."


def test_a_url_may_have_no_path(web: Web) -> None:
    web.answers["/?q"] = answer(b"An owl.")
    assert fetched(web.url("?q")) == b"An owl."


def test_chunks_are_joined(web: Web) -> None:
    web.answers["/a.txt"] = CHUNKED + b"3\r\nAn \r\n4\r\nowl.\r\n0\r\n\r\n"
    assert fetched(web.url()) == b"An owl."


def test_a_body_may_end_with_the_connection(web: Web) -> None:
    web.answers["/a.txt"] = answer(b"An owl.", length=-1)
    assert fetched(web.url()) == b"An owl."


def test_ipv6(web: Web) -> None:
    with Web(address="::1") as server:
        server.answers["/a.txt"] = answer(b"An owl.")
        assert fetched(server.url(host="[::1]"), rules(("::1/128",))) == b"An owl."
        assert f"\r\nHost: [::1]:{server.port}\r\n" in server.asked[0].head


# Addresses.


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "2130706433",
        "0x7f.1",
        "0177.0.0.1",
        "127.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "１２７.0.0.1",
    ],
)
def test_loopback_is_refused_however_it_is_spelled(web: Web, host: str) -> None:
    web.answers["/a.txt"] = answer(b"An owl.")
    error = refusal(web.url(f"/a.txt?{SECRET}", host=host), rules(()))
    assert error.code is Code.SOURCE_REFUSED
    assert not error.retryable
    assert "NIGHTOWL_SOURCE_PRIVATE_HOSTS" in error.message
    assert web.asked == []


def test_the_address_that_was_judged_is_the_one_that_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name whose second answer is another one, as in DNS rebinding: it is not asked a second time."""
    look_up, names = resolver(rebinding_test=["127.0.0.2", "127.0.0.1"])
    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with Web(address="0.0.0.0") as server:
        server.answers["/a.txt"] = answer(b"An owl.")
        url = server.url(host="rebinding.test")
        assert fetched(url, rules(("127.0.0.2/32",))) == b"An owl."
        assert names.count("rebinding.test") == 1
        assert refusal(url, rules(("127.0.0.2/32",))).code is Code.SOURCE_REFUSED
    (asked,) = server.asked
    assert asked.to == "127.0.0.2"
    assert f"\r\nHost: rebinding.test:{server.port}\r\n" in asked.head


def test_the_next_address_is_tried_where_one_does_not_answer(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", resolver(two_test=["127.0.0.9,127.0.0.1"])[0])
    web.answers["/a.txt"] = answer(b"An owl.")
    assert fetched(web.url(host="two.test"), rules(("two.test",))) == b"An owl."


def test_no_proxy_of_the_environment_is_asked(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    web.answers["/a.txt"] = answer(b"An owl.")
    assert fetched(web.url()) == b"An owl."


@pytest.mark.parametrize(
    "url",
    [
        *(
            "http:///a",
            "http://",
            "http://127.0.0.1:port/a",
            "http://127.0.0.1:99999/a",
            "http://[::1/a",
            "http://a..b/",
        ),
        *("http://127.0.0.1\\@example.com/a", "http://127.0.0.1/a\r\nX: y", "http://exa mple.com/", "http://[::g]/"),
        *(f"http://{'x' * 64}.com/", "http://%31/"),
    ],
)
def test_a_url_that_is_none(url: str) -> None:
    assert refusal(url).code in (Code.SOURCE_UNSUPPORTED, Code.SOURCE_REFUSED)


def test_a_password_in_the_url_is_refused_before_anything_is_asked(web: Web) -> None:
    assert refusal(web.url(host="owl:s3cr3t@127.0.0.1")).code is Code.SOURCE_REFUSED
    assert web.asked == []


# Redirects.


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
def test_redirects_are_followed(web: Web, status: str) -> None:
    web.answers["/a.txt"] = redirect("/b.txt?x=1#there", status)
    web.answers["/b.txt?x=1"] = redirect(web.url("/c.txt"), status)
    web.answers["/c.txt"] = answer(b"An owl.")
    assert fetched(web.url()) == b"An owl."


def test_a_redirect_is_judged_again(web: Web) -> None:
    web.answers["/a.txt"] = redirect(f"http://127.0.0.2:{web.port}/b.txt?{SECRET}")
    error = refusal(web.url(f"/a.txt?{SECRET}"), rules(("127.0.0.0/8",)))
    assert error.code is not Code.SOURCE_REFUSED  # nobody listens there, but it was allowed
    web.answers[f"/a.txt?{SECRET}"] = redirect(f"http://127.0.0.2:{web.port}/b.txt?{SECRET}")
    error = refusal(web.url(f"/a.txt?{SECRET}"))
    assert error.code is Code.SOURCE_REFUSED
    assert f"http://127.0.0.2:{web.port}/b.txt?… (redirected to by {web.url()}?…)" in error.message
    assert len(web.asked) == 2


@pytest.mark.parametrize(
    "location",
    ["file:///etc/passwd", "ftp://127.0.0.1/a", "s3://bucket/a", "javascript:1", "http://owl:s3cr3t@127.0.0.1/"],
)
def test_a_redirect_leads_to_http_only_and_without_a_password(web: Web, location: str) -> None:
    web.answers["/a.txt"] = redirect(location)
    assert refusal(web.url()).code in (Code.SOURCE_REFUSED, Code.SOURCE_UNSUPPORTED)
    assert len(web.asked) == 1


def test_a_redirect_without_a_location_leads_to_itself_and_ends(web: Web) -> None:
    web.answers["/a.txt"] = answer(b"", status="302 Found")
    assert "more than 5 times" in refusal(web.url()).message
    assert len(web.asked) == 6


def test_five_redirects_are_followed_and_six_are_not(web: Web) -> None:
    for number in range(6):
        web.answers[f"/{number}"] = redirect(f"/{number + 1}")
    web.answers["/6"] = answer(b"An owl.")
    assert fetched(web.url("/1")) == b"An owl."
    error = refusal(web.url("/0"))
    assert (error.code, error.retryable) == (Code.SOURCE_REFUSED, False)


# Bounds.


def test_an_announced_size_over_the_limit_is_not_read(web: Web) -> None:
    web.answers["/a.txt"] = answer(b"x", length=100_001)
    error = refusal(web.url())
    assert error.code is Code.SOURCE_TOO_LARGE
    assert "100001 bytes; the limit is 100000 (setting NIGHTOWL_LIMITS__MAX_SOURCE_BYTES)" in error.message


@pytest.mark.parametrize("head", [CHUNKED, answer(length=-1)], ids=["chunked", "unframed"])
def test_an_endless_body_is_cut_off_at_the_limit(web: Web, head: bytes) -> None:
    web.answers["/a.txt"] = endless(head, b"1000\r\n" + b"x" * 4096 + b"\r\n")
    file = io.BytesIO()
    with pytest.raises(SourceError, match="more than 100000 bytes") as caught:
        fetch(web.url(), file, rules())
    assert caught.value.code is Code.SOURCE_TOO_LARGE
    assert file.tell() <= 100_000


def test_exactly_the_limit_is_not_too_much(web: Web) -> None:
    web.answers["/a.txt"] = answer(b"x" * 100_000)
    assert len(fetched(web.url())) == 100_000


def test_a_body_shorter_than_announced_may_be_tried_again(web: Web) -> None:
    web.answers["/a.txt"] = answer(b"An owl.", length=99)
    error = refusal(web.url())
    assert (error.code, error.retryable) == (Code.SOURCE_UNREACHABLE, True)
    assert "broke off" in error.message


def test_nothing_is_read_past_the_announced_size(web: Web) -> None:
    web.answers["/a.txt"] = answer(b"An owl. And a mouse.", length=7)
    assert fetched(web.url()) == b"An owl."


def test_nothing_is_an_empty_source(web: Web) -> None:
    web.answers["/a.txt"] = answer(b"")
    web.answers["/b.txt"] = answer(b"", length=-1)
    assert refusal(web.url("/a.txt")).code is Code.SOURCE_EMPTY
    assert refusal(web.url("/b.txt")).code is Code.SOURCE_EMPTY


@pytest.mark.parametrize(
    "pieces",
    [
        (b"",),
        (b"HTTP/1.1 200 OK\r\nX: ", b"y"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (answer(length=99_999), b"x"),
        (CHUNKED, b"1\r\nx\r\n"),
    ],
    ids=["silence", "header", "interim answers", "body", "chunks"],
)
def test_a_drip_keeps_nobody_waiting(web: Web, pieces: tuple[bytes, ...]) -> None:
    web.answers["/a.txt"] = endless(*pieces, pause=0.02)
    started = time.monotonic()
    error = refusal(web.url(), rules(fetch_seconds=0.4))
    assert time.monotonic() - started < 1.5
    assert (error.code, error.retryable) == (Code.SOURCE_UNREACHABLE, True)
    assert "within 0.4 s" in error.message
    assert "NIGHTOWL_LIMITS__FETCH_SECONDS" in error.message


def test_time_counts_over_all_redirects(web: Web) -> None:
    def slowly(server: Web, connection: socket.socket) -> None:
        server.closed.wait(0.15)
        connection.sendall(redirect("/a.txt"))

    web.answers["/a.txt"] = slowly
    assert "within 0.4 s" in refusal(web.url(), rules(fetch_seconds=0.4)).message


def test_headers_without_end_are_refused(web: Web) -> None:
    web.answers["/a.txt"] = endless(b"HTTP/1.1 200 OK\r\n", b"X-Owl: " + b"y" * 4096 + b"\r\n")
    error = refusal(web.url())
    assert (error.code, error.retryable) == (Code.SOURCE_UNREACHABLE, True)
    assert "is not HTTP" in error.message


@pytest.mark.parametrize("reply", [b"", b"SSH-2.0-OpenSSH_9.9\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n"])
def test_what_is_not_http_is_not_repeated(web: Web, reply: bytes) -> None:
    web.answers["/a.txt"] = reply
    error = refusal(web.url())
    assert (error.code, error.retryable) == (Code.SOURCE_UNREACHABLE, True)
    assert "SSH" not in error.message


def test_a_stop_ends_the_wait(web: Web) -> None:
    web.answers["/a.txt"] = endless(answer(length=9), b"", pause=0.05)
    stop = threading.Event()
    timer = threading.Timer(0.2, stop.set)
    timer.start()
    started = time.monotonic()
    with pytest.raises(LostError):
        fetched(web.url(), stop=stop)
    assert time.monotonic() - started < 1.5
    timer.join()


# Compression, which nobody asked for.


def test_gzip_is_undone_all_members_of_it(web: Web) -> None:
    body = gzip.compress(b"An owl. ") + gzip.compress(b"And a mouse." * 50_000)
    web.answers["/a.txt"] = answer(body, "Content-Encoding: gzip")
    assert fetched(web.url(), rules(max_source_bytes=10**6)) == b"An owl. " + b"And a mouse." * 50_000


def test_a_bomb_is_cut_off_at_the_limit(web: Web) -> None:
    body = gzip.compress(bytes(50_000_000))
    web.answers["/a.txt"] = answer(body, "Content-Encoding: gzip")
    assert len(body) < 100_000
    file = io.BytesIO()
    tracemalloc.start()
    with pytest.raises(SourceError, match="more than 100000 bytes"):
        fetch(web.url(), file, rules())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert file.tell() <= 100_000
    assert peak < 5_000_000


def test_gzip_that_is_cut_off_may_be_tried_again(web: Web) -> None:
    web.answers["/a.txt"] = answer(gzip.compress(b"An owl.")[:-4], "Content-Encoding: gzip")
    assert refusal(web.url()).retryable


def test_gzip_that_is_none(web: Web) -> None:
    web.answers["/a.txt"] = answer(b"An owl.", "Content-Encoding: gzip")
    assert refusal(web.url()).code is Code.SOURCE_DAMAGED


def test_another_encoding_is_refused_by_name(web: Web) -> None:
    web.answers["/a.txt"] = answer(b"An owl.", "Content-Encoding: br")
    error = refusal(web.url())
    assert error.code is Code.SOURCE_UNSUPPORTED
    assert "'br'" in error.message


# Answers that are none.


@pytest.mark.parametrize(
    ("status", "code", "retryable"),
    [
        *[("400 Bad Request", Code.SOURCE_MISSING, False), ("401 Unauthorized", Code.SOURCE_MISSING, False)],
        *[("403 Forbidden", Code.SOURCE_MISSING, False), ("404 Not Found", Code.SOURCE_MISSING, False)],
        *[("410 Gone", Code.SOURCE_MISSING, False), ("204 No Content", Code.SOURCE_MISSING, False)],
        *[("206 Partial Content", Code.SOURCE_MISSING, False), ("304 Not Modified", Code.SOURCE_MISSING, False)],
        *[("408 Request Timeout", Code.SOURCE_UNREACHABLE, True), ("429 Too Many", Code.SOURCE_UNREACHABLE, True)],
        *[("500 Oh", Code.SOURCE_UNREACHABLE, True), ("503 Unavailable", Code.SOURCE_UNREACHABLE, True)],
        ("599 Odd", Code.SOURCE_UNREACHABLE, True),
    ],
)
def test_the_status_says_whether_to_try_again(web: Web, status: str, code: Code, retryable: bool) -> None:
    target = f"/a.txt?{SECRET}"
    web.answers[target] = answer(b"" if status[0] == "3" or status[:3] == "204" else b"sorry", status=status)
    error = refusal(web.url(target))
    assert (error.code, error.retryable) == (code, retryable)
    assert error.message.startswith(f"{web.url()}?…: the server answered {status[:3]}")


def test_nobody_listens(web: Web) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    error = refusal(f"http://127.0.0.1:{port}/a.txt?{SECRET}")
    assert (error.code, error.retryable) == (Code.SOURCE_UNREACHABLE, True)
    assert "refused" in error.message


def test_a_connection_that_is_never_made(web: Web) -> None:
    """A full backlog: the kernel drops further calls."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        callers = [socket.socket() for _ in range(3)]
        for caller in callers:
            caller.setblocking(False)
            caller.connect_ex(deaf.getsockname())
        error = refusal(f"http://127.0.0.1:{deaf.getsockname()[1]}/", rules(connect_seconds=0.2))
        for caller in callers:
            caller.close()
    assert error.retryable
    assert "within 0.2 s (setting NIGHTOWL_LIMITS__CONNECT_SECONDS)" in error.message


# TLS.


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trusted(authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))


def secure(authority: trustme.CA, name: str) -> Web:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return Web(tls=context)


def test_https_asks_the_address_for_the_name(
    authority: trustme.CA, trusted: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", resolver(owl_test=["127.0.0.1"])[0])
    names: list[str | None] = []
    server = secure(authority, "owl.test")
    assert server.tls is not None
    server.tls.sni_callback = lambda _, name, __: names.append(name)
    with server as web:
        web.answers["/a.txt"] = answer(b"An owl.")
        assert fetched(web.url(host="owl.test")) == b"An owl."
    assert names == ["owl.test"]


def test_a_certificate_of_another_name_is_refused(
    authority: trustme.CA, trusted: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", resolver(mouse_test=["127.0.0.1"])[0])
    with secure(authority, "owl.test") as web:
        error = refusal(web.url(f"/?{SECRET}", host="mouse.test"))
    assert (error.code, error.retryable) == (Code.SOURCE_REFUSED, False)
    assert "certificate" in error.message
    assert web.asked == []


def test_a_certificate_of_nobody_known_is_refused(authority: trustme.CA) -> None:
    with secure(authority, "127.0.0.1") as web:
        assert refusal(web.url()).code is Code.SOURCE_REFUSED


def test_https_does_not_lead_to_http(authority: trustme.CA, trusted: None, web: Web) -> None:
    with secure(authority, "127.0.0.1") as safe:
        safe.answers["/a.txt"] = redirect(web.url(f"/b.txt?{SECRET}"))
        error = refusal(safe.url())
    assert (error.code, error.retryable) == (Code.SOURCE_REFUSED, False)
    assert web.asked == []


def test_http_leads_to_https(authority: trustme.CA, trusted: None, web: Web) -> None:
    with secure(authority, "127.0.0.1") as safe:
        web.answers["/a.txt"] = redirect(safe.url())
        safe.answers["/a.txt"] = answer(b"An owl.")
        assert fetched(web.url()) == b"An owl."


def test_a_server_that_does_not_speak_tls(web: Web) -> None:
    web.answers["/a.txt"] = answer(b"An owl.")
    error = refusal(web.url().replace("http:", "https:"), rules(connect_seconds=0.5))
    assert (error.code, error.retryable) == (Code.SOURCE_UNREACHABLE, True)


# Secrets.


@pytest.mark.parametrize("status", ["200 OK", "302 Found", "403 Forbidden", "503 Unavailable"])
def test_no_log_line_has_the_query_at_any_level(web: Web, caplog: pytest.LogCaptureFixture, status: str) -> None:
    caplog.set_level(logging.DEBUG)
    web.answers[f"/a.txt?{SECRET}"] = answer(b"An owl.", f"Location: /b.txt?{SECRET}&again", status=status)
    web.answers[f"/b.txt?{SECRET}&again"] = answer(b"An owl.")
    try:
        fetched(web.url(f"/a.txt?{SECRET}"))
    except SourceError as error:
        logging.getLogger("test").exception("%s", error)
    assert web.asked
    assert "s3cr3t" not in caplog.text


def test_the_library_would_log_it(web: Web, caplog: pytest.LogCaptureFixture) -> None:
    """So that the test above cannot pass for another reason."""
    library = logging.getLogger("httpcore2")
    level = library.level
    caplog.set_level(logging.DEBUG, logger="httpcore2")
    web.answers["/a.txt"] = redirect(f"/b.txt?{SECRET}")
    with httpcore2.ConnectionPool() as pool:
        assert pool.request("GET", web.url()).status == 302
    assert "s3cr3t" in caplog.text
    assert level == logging.INFO
