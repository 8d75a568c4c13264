"""One worker process per GPU of this machine: `nightowl worker --gpu 0,1`.

Each process sees one GPU only, so none can take another's memory. The fleet ends with this process, and gives a signal
to stop on to all of its workers.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from domain.errors import SETUP_EXIT, ParamsError, SetupError

if TYPE_CHECKING:
    from collections.abc import Sequence

logger = logging.getLogger(__name__)

WATCH_SECONDS = 0.5
LONGEST_PAUSE = 60.0
STEADY_SECONDS = 300.0
"""A worker that lived so long counts as one that works: if it dies, the next one starts after a second."""

STOP_MARGIN_SECONDS = 3.0
"""Beyond the time that a worker takes to give its work back."""


def parse_gpus(text: str) -> tuple[str, ...]:
    """The GPUs of "0,1" or of a list of UUIDs, as CUDA_VISIBLE_DEVICES names them.

    Raises:
        ParamsError: for anything else, naming the piece.
    """
    names = tuple(piece.strip() for piece in text.split(","))
    for name in names:
        if not (name.isdecimal() or name.startswith(("GPU-", "MIG-"))):
            raise ParamsError(f"--gpu {text}: {name!r} is neither the number of a GPU nor its UUID; write --gpu 0,1")
    if len(set(names)) < len(names):
        raise ParamsError(f"--gpu {text}: a GPU is named twice; one worker has it to itself")
    return names


def environment(gpu: str) -> dict[str, str]:
    """Of the worker that has this GPU: it sees no other, and so calls it cuda:0."""
    return {
        **os.environ,
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": gpu,
        "NIGHTOWL_DEVICE": "cuda:0",
        "NIGHTOWL_NODE": f"gpu-{gpu.lower()}",
        "NIGHTOWL_STACK": "1",
    }


@dataclass(slots=True)
class _Seat:
    """A GPU and who has it. A dead worker is replaced after a pause, which doubles while they die young: a part that
    kills its worker costs a few starts, and a machine that cannot run one is not kept busy with trying."""

    gpu: str
    worker: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    next_start_at: float = 0.0
    pause: float = 1.0

    def check(self, command: Sequence[str], *, now: float) -> None:
        """Raises SetupError if the worker could not be set up; no other start would go better."""
        if self.worker is not None and (status := self.worker.poll()) is not None:
            self._account_for(status, now=now)
        if self.worker is None and now >= self.next_start_at:
            self.started_at = now
            self.worker = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, env=environment(self.gpu), start_new_session=True
            )

    def _account_for(self, status: int, *, now: float) -> None:
        self.worker = None
        if status == SETUP_EXIT:
            raise SetupError(f"the worker of GPU {self.gpu} cannot start; see its message above")
        self.pause = 1.0 if now - self.started_at > STEADY_SECONDS else min(self.pause * 2, LONGEST_PAUSE)
        self.next_start_at = now + self.pause
        logger.warning("the worker of GPU %s ended with %d; the next starts in %.0f s", self.gpu, status, self.pause)


class Fleet:
    """The workers of some GPUs. `watch` returns when a signal asked for the end and all have left.

    `command` is what a worker runs, for tests.
    """

    def __init__(self, gpus: Sequence[str], *, stop_seconds: float, command: Sequence[str] = ("-m", "worker")) -> None:
        self._command = [sys.executable, *command]
        self._stop_seconds = stop_seconds
        self._seats = [_Seat(gpu) for gpu in gpus]
        self._is_ending = False

    def watch(self) -> None:
        """Start the workers and replace those that die. Raises SetupError where one cannot be set up, after the others
        have stopped."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._end)
        try:
            while not self._is_ending:
                for seat in self._seats:
                    seat.check(self._command, now=time.monotonic())
                time.sleep(WATCH_SECONDS)
        finally:
            self._stop()

    def _end(self, *_: object) -> None:
        self._is_ending = True

    def _stop(self) -> None:
        """All are asked at once, then waited for; who does not leave in time is killed."""
        workers = [seat.worker for seat in self._seats if seat.worker is not None]
        for worker in workers:
            worker.terminate()
        limit = time.monotonic() + self._stop_seconds
        for worker in workers:
            try:
                worker.wait(max(limit - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()
