"""One worker per GPU. The workers here are small scripts: what is tested is who starts, sees what, and ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from domain.errors import SETUP_EXIT, ParamsError, SetupError
from nightowl.fleet import Fleet, environment, parse_gpus


@pytest.mark.parametrize(("text", "gpus"), [("0", ("0",)), ("0,1", ("0", "1")), (" 3 , GPU-8a ", ("3", "GPU-8a"))])
def test_gpus_are_named_by_number_or_uuid(text: str, gpus: tuple[str, ...]) -> None:
    assert parse_gpus(text) == gpus


@pytest.mark.parametrize("text", ["", "0,", "one", "-1", "0;1", "0,0"])
def test_what_names_no_gpu_is_refused(text: str) -> None:
    with pytest.raises(ParamsError, match="--gpu"):
        parse_gpus(text)


def test_a_worker_sees_its_own_gpu_only() -> None:
    values = environment("1")
    assert (values["CUDA_VISIBLE_DEVICES"], values["NIGHTOWL_DEVICE"]) == ("1", "cuda:0")
    assert values["NIGHTOWL_NODE"] != environment("0")["NIGHTOWL_NODE"]


def test_a_worker_that_cannot_be_set_up_ends_the_fleet_and_the_others() -> None:
    script = (
        f"import os, sys, time\nif os.environ['CUDA_VISIBLE_DEVICES'] == '1': sys.exit({SETUP_EXIT})\ntime.sleep(60)\n"
    )
    fleet = Fleet(["0", "1"], stop_seconds=5, command=("-c", script))
    began = time.monotonic()
    with pytest.raises(SetupError, match="GPU 1"):
        _watched(fleet)
    assert time.monotonic() - began < 10


def _watched(fleet: Fleet) -> None:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        fleet.watch()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def test_a_dead_worker_is_replaced_and_a_signal_ends_all(tmp_path: Path) -> None:
    worker = (
        "import os, pathlib, time\n"
        f"mark = pathlib.Path({str(tmp_path)!r}) / (os.environ['CUDA_VISIBLE_DEVICES'] + '-' + str(os.getpid()))\n"
        "mark.touch()\n"
        "time.sleep(60)\n"
    )
    script = f"from nightowl.fleet import Fleet; Fleet(['0', '1'], stop_seconds=5, command=('-c', {worker!r})).watch()"
    fleet = subprocess.Popen([sys.executable, "-c", script], cwd=Path(__file__).resolve().parents[2])
    try:
        first = _marks(tmp_path, count=2)
        os.kill(int(first["0"][0]), signal.SIGKILL)
        again = _marks(tmp_path, count=3)
        assert (len(again["0"]), len(again["1"])) == (2, 1)
        fleet.send_signal(signal.SIGTERM)
        assert fleet.wait(15) == 0
        assert not any(_is_alive(int(pid)) for pids in again.values() for pid in pids)
    finally:
        fleet.kill()
        fleet.wait()


def _marks(folder: Path, *, count: int) -> dict[str, list[str]]:
    """Process ids by GPU, once so many workers have started."""
    limit = time.monotonic() + 30
    while len(names := [path.name for path in folder.iterdir()]) < count:
        assert time.monotonic() < limit
        time.sleep(0.05)
    found: dict[str, list[str]] = {}
    for name in names:
        gpu, _, pid = name.partition("-")
        found.setdefault(gpu, []).append(pid)
    return found


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
