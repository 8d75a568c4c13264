"""`python -m tests.chaos.worker`: the real worker behind the seams, ended with the harness that started it."""

from __future__ import annotations

import signal
import sys

from tests.chaos import seams
from tests.chaos.switches import Switches
from worker.__main__ import main
from worker.parent import die_with_parent

if __name__ == "__main__":
    die_with_parent(signal.SIGKILL)
    seams.install(seams.Chaos(Switches.of_this_worker()))
    sys.exit(main())
