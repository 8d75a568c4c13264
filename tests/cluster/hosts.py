"""Hosts of a cluster in miniature: network namespaces on one bridge, or process groups where those are not to be had.

A host of its own namespace that is cut off sends and gets nothing: no packet is refused, none comes back, and its
processes and clocks go on. A process group that is "cut off" is stopped (SIGSTOP): it is as silent, but stands still.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Protocol, Self

import psutil

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

BRIDGE_MAC = "02:00:0a:00:00:01"


class Hosts(Protocol):
    """Use as a context manager. `address` is where every host finds the shared servers."""

    address: str
    network: str
    """The addresses of hosts, for PostgreSQL's list of who may connect."""
    kind: str

    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...
    def start(self, host: int, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None: ...
    def pid(self, host: int) -> int:
        """Of the process that was started last."""
        ...

    def alive(self, host: int) -> bool: ...
    def cut(self, host: int) -> None: ...
    def join(self, host: int) -> None: ...
    def kill(self, host: int) -> int:
        """SIGKILL to all that runs there, children first known; returns how many processes there were."""
        ...


def choose(count: int) -> tuple[Hosts, str | None]:
    """Namespaces, or process groups and why."""
    if why := missing():
        return Groups(count), why
    return Namespaces(count), None


def missing() -> str | None:
    """What is missing for network namespaces; None where they can be made."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "network namespaces need the command `ip` (package iproute2)"
    probe = f"nwl{os.getpid()}p"
    try:
        _ip("netns", "add", probe)
        _ip("-n", probe, "link", "add", "name", "probe0", "type", "veth", "peer", "name", "probe1")
        _ip("-n", probe, "link", "add", "name", "probe2", "type", "bridge")
    except subprocess.CalledProcessError as error:
        return f"the kernel makes no network namespaces here: {error.stderr.strip()}"
    finally:
        subprocess.run(["ip", "netns", "delete", probe], capture_output=True, check=False)
    return None


def _ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


class Namespaces:
    """One bridge with the shared servers' address, and a namespace for each host with one leg on it."""

    kind = "network namespaces"

    def __init__(self, count: int) -> None:
        self._mark = f"nwl{os.getpid()}"
        self._net = f"10.213.{random.randrange(1, 255)}"
        self._count = count
        self._first: dict[int, subprocess.Popen[bytes]] = {}
        self.address = f"{self._net}.1"
        self.network = f"{self._net}.0/24"

    def __enter__(self) -> Self:
        try:
            _ip("link", "add", "name", self._mark, "address", BRIDGE_MAC, "type", "bridge")
            _ip("address", "add", f"{self.address}/24", "dev", self._mark)
            _ip("link", "set", self._mark, "up")
            for host in range(self._count):
                self._make(host)
        except BaseException:
            self._remove()
            raise
        return self

    def _make(self, host: int) -> None:
        """Neighbours are fixed on both sides: with nobody to answer ARP, a cut would be told as "no route to host"."""
        name, leg, mac = self._name(host), self._leg(host), f"02:00:0a:00:01:{host:02x}"
        _ip("netns", "add", name)
        _ip("link", "add", "name", leg, "type", "veth", "peer", "name", "eth0", "address", mac, "netns", name)
        _ip("link", "set", leg, "master", self._mark, "up")
        _ip("-n", name, "address", "add", f"{self._address(host)}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _ip("-n", name, "link", "set", device, "up")
        _ip("-n", name, "neigh", "replace", self.address, "lladdr", BRIDGE_MAC, "dev", "eth0", "nud", "permanent")
        _ip("neigh", "replace", self._address(host), "lladdr", mac, "dev", self._mark, "nud", "permanent")

    def _name(self, host: int) -> str:
        return f"{self._mark}h{host}"

    def _leg(self, host: int) -> str:
        return f"{self._mark}v{host}"

    def _address(self, host: int) -> str:
        return f"{self._net}.{host + 11}"

    def start(self, host: int, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        line = ["ip", "netns", "exec", self._name(host), *command]
        with log.open("ab") as file:
            self._first[host] = subprocess.Popen(line, env=dict(environment), stdout=file, stderr=file)

    def pid(self, host: int) -> int:
        return self._first[host].pid

    def alive(self, host: int) -> bool:
        return self._first[host].poll() is None

    def cut(self, host: int) -> None:
        """Its leg leaves the bridge. The link stays up, and what is sent on it goes nowhere."""
        _ip("link", "set", self._leg(host), "nomaster")

    def join(self, host: int) -> None:
        _ip("link", "set", self._leg(host), "master", self._mark)

    def kill(self, host: int) -> int:
        killed = 0
        while pids := _ip("netns", "pids", self._name(host)).split():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            killed += len(pids)
            if host in self._first:
                self._first[host].wait()
            time.sleep(0.05)
        return killed

    def __exit__(self, *_: object) -> None:
        for host in range(self._count):
            self.kill(host)
        self._remove()

    def _remove(self) -> None:
        for host in range(self._count):
            subprocess.run(["ip", "netns", "delete", self._name(host)], capture_output=True, check=False)
        subprocess.run(["ip", "link", "delete", self._mark], capture_output=True, check=False)


class Groups:
    """Process groups on one network. Only what they do with their data folders and the store is apart."""

    kind = "process groups"
    address = "127.0.0.1"
    network = "127.0.0.1/32"

    def __init__(self, count: int) -> None:
        self._first: dict[int, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        return self

    def start(self, host: int, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        with log.open("ab") as file:
            self._first[host] = subprocess.Popen(
                command, env=dict(environment), stdout=file, stderr=file, start_new_session=True
            )

    def pid(self, host: int) -> int:
        return self._first[host].pid

    def alive(self, host: int) -> bool:
        return self._first[host].poll() is None

    def cut(self, host: int) -> None:
        os.killpg(self._first[host].pid, signal.SIGSTOP)

    def join(self, host: int) -> None:
        os.killpg(self._first[host].pid, signal.SIGCONT)

    def kill(self, host: int) -> int:
        with contextlib.suppress(psutil.NoSuchProcess):
            whole = psutil.Process(self._first[host].pid)
            processes = [*whole.children(recursive=True), whole]
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            self._first[host].wait()
            return len(processes)
        return 0

    def __exit__(self, *_: object) -> None:
        for host in self._first:
            self.kill(host)
