"""`python -m tests.chaos.broker SOCKET`: becomes a Redis that writes its messages down, ended with the harness.

The embedded Redis forgets all when it ends. This one comes back with what it had, unless its folder was emptied.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from worker.embedded import command
from worker.parent import die_with_parent

if __name__ == "__main__":
    die_with_parent(signal.SIGKILL)
    socket = Path(sys.argv[1])
    socket.unlink(missing_ok=True)
    line = [*command(socket), "--appendonly", "yes"]
    os.execv(line[0], line)
