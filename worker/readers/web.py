"""http and https: the judged address is connected to, redirects are followed by hand, every wait ends.

httpcore2 speaks HTTP and lets us make the connection: its network backend is where the address is pinned and the
deadline is kept. It reads no proxy from the environment, sends no cookies and follows no redirect.
"""

from __future__ import annotations

import logging
import re
import ssl
import zlib
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urljoin, urlsplit

import httpcore2

from domain import sources
from domain.errors import Code, SourceError
from worker.readers import addresses

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from worker.readers.addresses import Address
    from worker.readers.fetch import Rules, Sink
    from worker.readers.patience import Patience

MAX_REDIRECTS = 5
CHUNK_BYTES = 256 * 1024
POLL_SECONDS = 0.25
"""How often a wait for the server looks whether it should end."""
_PORTS = {"http": 80, "https": 443}
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_GOOD = frozenset({200, 203})
_TRY_AGAIN = frozenset({408, 425, 429})
_HOST_NAME = re.compile(r"[a-z0-9_][a-z0-9._\-]*")
_KEPT = "/%:=&?~#+!$,;'@()*[]"
"""Not quoted in a path and query that somebody has quoted already, or typed with spaces."""

# At debug it would log requests and redirects with their queries.
logging.getLogger("httpcore2").setLevel(logging.INFO)


def download(url: str, sink: Sink, rules: Rules, patience: Patience) -> None:
    """Raises SourceError, TimeUpError and LostError."""
    target = _parse(url, label=sink.label)
    for _ in range(MAX_REDIRECTS + 1):
        following = _get(target, sink, rules, patience)
        if following is None:
            return
        target = following
    raise SourceError(f"{sink.label} redirects more than {MAX_REDIRECTS} times", code=Code.SOURCE_REFUSED)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Target:
    """One request. `path` includes the query, `label` does not."""

    scheme: str
    host: str
    port: int
    path: str
    label: str

    @property
    def url(self) -> httpcore2.URL:
        return httpcore2.URL(
            scheme=self.scheme.encode(), host=self.host.encode(), port=self.port, target=self.path.encode()
        )

    @property
    def headers(self) -> list[tuple[str, str]]:
        host = f"[{self.host}]" if ":" in self.host else self.host
        if self.port != _PORTS[self.scheme]:
            host = f"{host}:{self.port}"
        return [("Host", host), ("User-Agent", "nightowl"), ("Accept", "*/*"), ("Accept-Encoding", "identity")]

    def redirected(self, location: str) -> _Target:
        """Where an answer sends us on. Raises SourceError where we do not go."""
        url = urljoin(f"{self.scheme}://{self.headers[0][1]}{self.path}", location)
        label = f"{sources.masked(url)} (redirected to by {self.label})"
        if sources.scheme(url) not in sources.WEB:
            raise SourceError(f"{label}: only http and https are followed", code=Code.SOURCE_REFUSED)
        sources.check_source(url)
        following = _parse(url, label=label)
        if self.scheme == "https" and following.scheme == "http":
            raise SourceError(f"{label}: https does not lead to http", code=Code.SOURCE_REFUSED)
        return following


def _parse(url: str, *, label: str) -> _Target:
    try:
        if re.search(r"[\x00-\x1f\x7f\\]", url):
            raise ValueError("a control character or backslash")
        parts = urlsplit(url)
        host = (parts.hostname or "").encode("idna").decode()
        if ":" not in host and not _HOST_NAME.fullmatch(host):
            raise ValueError("no host")
        port = parts.port or _PORTS[parts.scheme]
    except ValueError:  # also of a port, of a bracket and of an international name
        raise SourceError(f"{label} is not a valid URL", code=Code.SOURCE_UNSUPPORTED) from None
    query = f"?{parts.query}" if parts.query else ""
    path = quote(f"{parts.path or '/'}{query}", safe=_KEPT, errors="surrogateescape")
    return _Target(scheme=parts.scheme, host=host, port=port, path=path, label=label)


def _get(target: _Target, sink: Sink, rules: Rules, patience: Patience) -> _Target | None:
    """Receive the content, or return where to go on."""
    seconds = rules.limits.connect_seconds
    judged = addresses.resolve(
        target.host,
        target.port,
        label=target.label,
        private_hosts=rules.private_hosts,
        patience=patience,
        seconds=seconds,
    )
    backend = _Pinned(judged, patience, seconds)
    try:
        with (
            httpcore2.ConnectionPool(max_connections=1, network_backend=backend) as pool,
            pool.stream("GET", target.url, headers=target.headers) as response,
        ):
            if response.status in _REDIRECTS:
                return target.redirected(_header(response, b"location"))
            if response.status not in _GOOD:
                raise _bad_answer(target, response.status)
            _receive(response, target, sink)
            return None
    except (httpcore2.NetworkError, httpcore2.TimeoutException, httpcore2.ProtocolError) as error:
        raise _broken(target, error, seconds) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Posting:
    """Where may be posted to. `private_hosts` is the setting NIGHTOWL_CALLBACK_PRIVATE_HOSTS."""

    private_hosts: tuple[str, ...]
    connect_seconds: float


def post(url: str, body: bytes, headers: Mapping[str, str], rules: Posting, patience: Patience) -> int:
    """Send a body; the status of the answer, whose content is not read. Redirects are not followed.

    Raises SourceError (refused; or retryable, where there is no connection), TimeUpError and LostError.
    """
    target = _parse(sources.check_callback(url), label=f"callback {sources.masked(url)}")
    seconds = rules.connect_seconds
    judged = addresses.resolve(
        target.host,
        target.port,
        label=target.label,
        private_hosts=rules.private_hosts,
        patience=patience,
        seconds=seconds,
        setting="NIGHTOWL_CALLBACK_PRIVATE_HOSTS",
    )
    backend = _Pinned(judged, patience, seconds)
    sent = [*target.headers, *headers.items(), ("Content-Length", str(len(body)))]
    try:
        with (
            httpcore2.ConnectionPool(max_connections=1, network_backend=backend) as pool,
            pool.stream("POST", target.url, headers=sent, content=body) as response,
        ):
            return int(response.status)
    except (httpcore2.NetworkError, httpcore2.TimeoutException, httpcore2.ProtocolError) as error:
        raise _broken(target, error, seconds) from None


class _Pinned(httpcore2.NetworkBackend):
    """Connects to the addresses that were judged, whatever the name resolves to by now."""

    def __init__(self, judged: Sequence[Address], patience: Patience, seconds: float) -> None:
        self._judged, self._patience, self._seconds = judged, patience, seconds
        self._plain = httpcore2.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> _Bounded:
        failed: Exception = httpcore2.ConnectError(f"{host} has no address")
        for address in self._judged:
            seconds = self._patience.left(self._seconds)
            try:
                stream = self._plain.connect_tcp(str(address), port, seconds, local_address, socket_options)
                return _Bounded(stream, self._patience, self._seconds)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failed = error
        raise failed


class _Bounded(httpcore2.NetworkStream):
    """A stream whose waits end with our patience: a byte now and then keeps no read alive."""

    def __init__(self, stream: httpcore2.NetworkStream, patience: Patience, seconds: float) -> None:
        self._stream, self._patience, self._seconds = stream, patience, seconds

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        while True:
            try:
                return self._stream.read(max_bytes, self._patience.left(POLL_SECONDS))
            except httpcore2.ReadTimeout:
                continue

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._patience.left())

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> _Bounded:
        """`server_hostname` is that of the URL: the certificate must be the host's, not the address's."""
        stream = self._stream.start_tls(ssl_context, server_hostname, self._patience.left(self._seconds))
        return _Bounded(stream, self._patience, self._seconds)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _header(response: httpcore2.Response, name: bytes) -> str:
    """The first header of that name (in lower case); empty if there is none."""
    found = next((value for key, value in response.headers if key.lower() == name), b"")
    return found.decode("utf-8", "surrogateescape").strip()


def _receive(response: httpcore2.Response, target: _Target, sink: Sink) -> None:
    if length := _header(response, b"content-length"):
        sink.announce(int(length))
    encoding = _header(response, b"content-encoding").lower()
    chunks = response.iter_stream()
    if encoding in ("gzip", "x-gzip"):
        chunks = _unzipped(chunks, target)
    elif encoding not in ("", "identity"):
        raise SourceError(
            f"{target.label} came with the content encoding {encoding!r}, although none was asked for",
            code=Code.SOURCE_UNSUPPORTED,
        )
    for chunk in chunks:
        sink.write(chunk)


def _unzipped(chunks: Iterable[bytes], target: _Target) -> Iterator[bytes]:
    """In pieces of bounded size, so that a small answer cannot become a large one before it is counted."""
    machine = zlib.decompressobj(wbits=31)
    try:
        for chunk in chunks:
            rest = chunk
            while rest:
                if machine.eof:  # a file may have several members
                    machine = zlib.decompressobj(wbits=31)
                while piece := machine.decompress(rest, CHUNK_BYTES):
                    yield piece
                    rest = machine.unconsumed_tail
                rest = machine.unused_data if machine.eof else b""
    except zlib.error:
        raise SourceError(f"{target.label} came with damaged gzip encoding", code=Code.SOURCE_DAMAGED) from None
    if not machine.eof:
        raise httpcore2.RemoteProtocolError("the encoded content ended early")


def _bad_answer(target: _Target, status: int) -> SourceError:
    try:
        words = f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        words = str(status)
    again = status >= 500 or status in _TRY_AGAIN
    code = Code.SOURCE_UNREACHABLE if again else Code.SOURCE_MISSING
    return SourceError(f"{target.label}: the server answered {words}", code=code, retryable=again)


def _broken(target: _Target, error: Exception, seconds: float) -> SourceError:
    """Only what we know to be harmless is said: an answer may repeat the query that was asked."""
    cause = error.args[0] if error.args else None  # the system's error, where httpcore2 wrapped one
    if isinstance(cause, ssl.SSLCertVerificationError):
        return SourceError(
            f"{target.label}: the server's certificate is not valid: {cause.verify_message}", code=Code.SOURCE_REFUSED
        )
    if isinstance(error, httpcore2.TimeoutException):
        why = f"no connection within {seconds:g} s (setting NIGHTOWL_LIMITS__CONNECT_SECONDS)"
    elif isinstance(error, httpcore2.ProtocolError):
        why = "the answer broke off or is not HTTP"
    elif isinstance(cause, ssl.SSLError):
        why = f"no secure connection: {cause.reason or 'TLS failed'}"
    else:
        why = f"no connection: {getattr(cause, 'strerror', None) or 'it was closed'}"
    return SourceError(f"{target.label}: {why}", code=Code.SOURCE_UNREACHABLE, retryable=True)
