"""What the tests of `Readers` let a child do. Imported in the child, so it imports little."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path


def crash(number: int) -> None:
    os.kill(os.getpid(), number)


def leave(code: int) -> None:
    os._exit(code)


def hold_the_gil(seconds: int, note: str) -> None:
    """As decord can: C code that never gives the interpreter back."""
    Path(note).write_text(str(os.getpid()), encoding="ascii")
    ctypes.PyDLL(None).sleep(seconds)


def allocate(megabytes: int) -> int:
    return len(bytearray(megabytes * 1024 * 1024))


def stumble() -> None:
    raise ZeroDivisionError("seventeen divided by nothing")


def shout() -> str:
    print("noise on stdout")
    os.write(1, b"noise from C\n")
    os.write(2, b"noise on stderr\n")
    return "said"


def process_id() -> int:
    return os.getpid()


def loaded() -> set[str]:
    return {name.partition(".")[0] for name in sys.modules}


def main_module() -> str:
    return str(getattr(sys.modules.get("__mp_main__"), "__file__", None))


def core_limit_and_interrupt() -> tuple[int, bool]:
    import resource

    return resource.getrlimit(resource.RLIMIT_CORE)[0], signal.getsignal(signal.SIGINT) is signal.SIG_IGN
