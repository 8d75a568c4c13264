"""Processes that must not outlive the one that started them, even if that one is killed."""

from __future__ import annotations

import ctypes
import signal

PR_SET_PDEATHSIG = 1
"""prctl(2): the signal that the kernel sends to this process when its parent ends; it survives exec."""


def die_with_parent(sent: signal.Signals = signal.SIGTERM) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(sent), 0, 0, 0)
