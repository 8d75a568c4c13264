from __future__ import annotations

import ipaddress
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from domain.errors import Code, LostError, SourceError
from tests.servers import resolver
from worker.readers.addresses import is_public, resolve
from worker.readers.patience import Patience, TimeUpError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.readers.addresses import Address


@pytest.fixture
def never() -> Iterator[threading.Event]:
    """An event that happens when the test is over."""
    event = threading.Event()
    yield event
    event.set()


def looked_up(host: str, *private: str, patience: Patience | None = None, seconds: float = 5) -> list[Address]:
    waiting = patience or Patience.of(10, None)
    return resolve(host, 80, label="x", private_hosts=private, patience=waiting, seconds=seconds)


@pytest.mark.parametrize(
    "text",
    [
        *("8.8.8.8", "1.1.1.1", "100.63.255.255", "100.128.0.0", "172.15.0.1", "172.32.0.1", "169.253.1.1"),
        *("192.0.1.1", "198.17.0.1", "198.20.0.1", "223.255.255.255", "168.63.129.15"),
        *("2606:4700:4700::1111", "2a00:1450:4001:81b::200e", "64:ff9b::808:808"),
    ],
)
def test_public_addresses(text: str) -> None:
    assert is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize(
    "text",
    [
        *("127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3", "10.1.2.3", "172.16.0.1", "172.31.255.255"),
        *("192.168.1.1", "169.254.169.254", "169.254.170.2", "100.64.0.1", "100.100.100.200", "192.0.0.192"),
        *("192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "192.88.99.1", "224.0.0.1", "239.1.1.1"),
        *("240.0.0.1", "255.255.255.255", "168.63.129.16"),
        *("::", "::1", "fe80::1", "fe80::1%eth0", "fec0::1", "fc00::1", "fd00:ec2::254", "fd20:ce::254", "ff02::1"),
        *("::ffff:8.8.8.8", "::7f00:1", "::8.8.8.8", "2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2"),
        *("2002:7f00:1::", "2002:808:808::", "2001:db8::1", "3fff::1", "100::1", "5f00::1", "4000::1"),
        *("64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b::a00:1", "64:ff9b:1::808:808"),
    ],
)
def test_addresses_that_are_not_public(text: str) -> None:
    """::ffff:… stands here too: `resolve` unwraps it before it judges."""
    assert not is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "localhost", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "017700000001", "127.1", "0"),
        *("::1", "::ffff:127.0.0.1", "::ffff:7f00:1", "::ffff:10.0.0.1", "2852039166", "169.254.169.254"),
    ],
)
def test_however_an_address_is_spelled_it_is_judged(host: str) -> None:
    with pytest.raises(SourceError, match="NIGHTOWL_SOURCE_PRIVATE_HOSTS") as caught:
        looked_up(host)
    assert caught.value.code is Code.SOURCE_REFUSED
    assert not caught.value.retryable


def test_one_private_address_among_public_ones_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", resolver(mixed_test=["8.8.8.8,10.0.0.1"])[0])
    with pytest.raises(SourceError, match=r"mixed\.test"):
        looked_up("mixed.test")


def test_public_addresses_come_in_their_order_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", resolver(good_test=["8.8.8.8,2606:4700::1,8.8.8.8"])[0])
    assert [str(address) for address in looked_up("good.test")] == ["8.8.8.8", "2606:4700::1"]


@pytest.mark.parametrize(
    ("host", "private"),
    [
        *[("127.0.0.1", "127.0.0.0/8"), ("127.0.0.1", "127.0.0.1/32"), ("::ffff:127.0.0.1", "127.0.0.0/8")],
        *[("::1", "::1/128"), ("LocalHost", "localhost"), ("0x7f.1", "127.0.0.1/32")],
    ],
)
def test_what_the_setting_names_is_allowed(host: str, private: str) -> None:
    assert looked_up(host, "192.168.0.0/16", private)


@pytest.mark.parametrize(
    ("host", "private"), [("127.0.0.2", "127.0.0.1/32"), ("127.0.0.1", "localhost"), ("localhost", "local")]
)
def test_and_nothing_else(host: str, private: str) -> None:
    with pytest.raises(SourceError):
        looked_up(host, private)


@pytest.mark.parametrize("code", [socket.EAI_NONAME, socket.EAI_AGAIN])
def test_a_name_that_is_not_found_may_be_tried_again(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(code, "no such name")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(SourceError, match=r"missing\.test cannot be resolved: no such name") as caught:
        looked_up("missing.test")
    assert caught.value.code is Code.SOURCE_UNREACHABLE
    assert caught.value.retryable


def test_a_lookup_that_hangs_is_left_behind(monkeypatch: pytest.MonkeyPatch, never: threading.Event) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: never.wait(30))
    with pytest.raises(SourceError, match=r"within 0\.2 s .*CONNECT_SECONDS") as caught:
        looked_up("slow.test", seconds=0.2)
    assert caught.value.retryable
    with pytest.raises(TimeUpError):
        looked_up("slow.test", patience=Patience.of(0.2, None))
    stop = threading.Event()
    stop.set()
    with pytest.raises(LostError):
        looked_up("slow.test", patience=Patience.of(10, stop))
