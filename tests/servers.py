"""A web server in threads that answers what a test says, byte by byte, honest or not."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self, TypeAlias

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator

Answer: TypeAlias = "bytes | Callable[[Web, socket.socket], None]"


def answer(body: bytes = b"", *headers: str, status: str = "200 OK", length: int | None = None) -> bytes:
    """An answer with a Content-Length, which is wrong if `length` says so; a negative one leaves it out."""
    size = len(body) if length is None else length
    lines = [f"HTTP/1.1 {status}", *headers, "Connection: close", *([f"Content-Length: {size}"] if size >= 0 else [])]
    return "\r\n".join([*lines, "", ""]).encode() + body


def redirect(location: str, status: str = "302 Found") -> bytes:
    return answer(b"elsewhere", f"Location: {location}", status=status)


def endless(*pieces: bytes, pause: float = 0.0) -> Callable[[Web, socket.socket], None]:
    """Sends the first piece once and the others for ever, until somebody hangs up."""

    def send(web: Web, connection: socket.socket) -> None:
        connection.sendall(pieces[0])
        while not web.closed.wait(pause):
            for piece in pieces[1:]:
                connection.sendall(piece)

    return send


@dataclass(frozen=True, slots=True)
class Asked:
    """A request: its target, its head as text, and the address of this machine that it came to."""

    target: str
    head: str
    to: str


@dataclass
class Web:
    """`answers` by target, query included; anything else is 404. Use as a context manager."""

    address: str = "127.0.0.1"
    tls: ssl.SSLContext | None = None
    answers: dict[str, Answer] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    closed: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        family = socket.AF_INET6 if ":" in self.address else socket.AF_INET
        self._listener = socket.create_server((self.address, 0), family=family)
        self.port = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._listen, daemon=True)]
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closed.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        limit = time.monotonic() + 5
        for thread in self._threads:
            thread.join(max(limit - time.monotonic(), 0.1))
            assert not thread.is_alive()

    def url(self, target: str = "/a.txt", *, host: str = "127.0.0.1") -> str:
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}{target}"

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(5)
        with contextlib.suppress(OSError), connection:
            if self.tls is None:
                self._answer(connection)
            else:
                with self.tls.wrap_socket(connection, server_side=True) as secure:
                    self._answer(secure)

    def _answer(self, connection: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            piece = connection.recv(65536)
            if not piece:
                return
            head += piece
        text = head.decode("latin-1")
        target = text.split(" ", 2)[1]
        self.asked.append(Asked(target, text, connection.getsockname()[0]))
        reply = self.answers.get(target, answer(b"no such page", status="404 Not Found"))
        if callable(reply):
            reply(self, connection)
        else:
            connection.sendall(reply)
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_WR)


def resolver(**hosts: list[str]) -> tuple[Callable[..., Any], list[str]]:
    """A getaddrinfo that knows these hosts (dots written as `_`) and literal addresses, and the names it was asked for.

    Each call for a name gives its next answer; the last one stays.
    """
    honest, names = socket.getaddrinfo, []
    left: dict[str, Iterator[str]] = {}
    known = {name.replace("_", "."): answers for name, answers in hosts.items()}

    def look_up(host: str, port: int, *rest: Any, **options: Any) -> Any:
        names.append(host)
        if host not in known:
            return honest(host, port, *rest, **options)
        current = next(left.setdefault(host, iter(known[host])), known[host][-1])
        return [entry for text in current.split(",") for entry in honest(text, port, *rest, **options)]

    return look_up, names
