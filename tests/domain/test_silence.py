from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from domain.silence import socket_options

if TYPE_CHECKING:
    import pytest


def test_a_silent_peer_is_left_after_25_seconds() -> None:
    options = socket_options()
    probes = options[socket.TCP_KEEPINTVL] * options[socket.TCP_KEEPCNT]
    assert options[socket.TCP_KEEPIDLE] + probes == 25
    assert options[socket.TCP_USER_TIMEOUT] == 25_000


def test_what_a_system_does_not_have_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "TCP_USER_TIMEOUT")
    monkeypatch.delattr(socket, "TCP_KEEPIDLE")
    assert set(socket_options()) == {socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT}
