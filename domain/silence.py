"""How long we wait for a peer across the network that says nothing any more: then we hang up and connect again."""

from __future__ import annotations

import socket

CONNECT_SECONDS = 10
IDLE_SECONDS, PROBE_SECONDS, PROBES = 10, 5, 3
HANG_UP_SECONDS = IDLE_SECONDS + PROBE_SECONDS * PROBES
"""For an answer; and so long may what we sent stay without a receipt."""

_OPTIONS = {
    "TCP_KEEPIDLE": IDLE_SECONDS,
    "TCP_KEEPINTVL": PROBE_SECONDS,
    "TCP_KEEPCNT": PROBES,
    "TCP_USER_TIMEOUT": 1000 * HANG_UP_SECONDS,
}


def socket_options() -> dict[int, int]:
    """Of a TCP socket with keep-alive. Some of them are Linux's own: a client elsewhere does without those."""
    return {getattr(socket, name): value for name, value in _OPTIONS.items() if hasattr(socket, name)}
