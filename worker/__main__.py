"""`python -m worker`: one worker process. Celery's threads pool, one engine, every queue that the settings name."""

from __future__ import annotations

import os
import sys
import warnings

from celery.exceptions import SecurityWarning

from domain.errors import SETUP_EXIT, SetupError
from domain.messages import GPU, queue_for
from domain.settings import Settings
from worker import logs, runtime
from worker.parent import die_with_parent

PARENT_VARIABLE = "NIGHTOWL_STACK"
"""Set by a stack or a fleet (nightowl/stack.py, nightowl/fleet.py) for the workers that belong to it."""

NODE_VARIABLE = "NIGHTOWL_NODE"
"""Set by a fleet: several workers of one host need names of their own."""


def main() -> int:
    runtime.calm_openmp()
    if os.environ.get(PARENT_VARIABLE):
        die_with_parent()
    settings = Settings()
    # Celery warns of root because of pickle; we accept JSON only.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    logs.configure(level=settings.log_level, format=settings.log_format)
    from worker.app import app

    try:
        queues = _queues(settings)
    except SetupError as error:
        sys.stderr.write(f"nightowl worker: {error}\n")
        return SETUP_EXIT
    app.worker_main(
        [
            *("--quiet", "worker", "--without-gossip", "--without-mingle"),
            *(f"--concurrency={settings.concurrency}", f"--loglevel={settings.log_level}"),
            "--queues=" + ",".join(queues),
            f"--hostname={os.environ.get(NODE_VARIABLE, 'celery')}@%h",
        ]
    )
    return 0


def _queues(settings: Settings) -> list[str]:
    """The queues of the settings, and the one of work that asks for this worker's engine by name."""
    from worker.engines.registry import resolve

    queues = list(settings.queues)
    if GPU in queues:
        queues.append(queue_for(GPU, resolve(settings.engine, model=settings.model)))
    return queues


if __name__ == "__main__":
    sys.exit(main())
