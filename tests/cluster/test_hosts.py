"""The hosts of the cluster in miniature: a cut is silence, a join lets through what was sent, a kill kills."""

from __future__ import annotations

import os
import socket
import sys
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.cluster.hosts import Groups, Hosts, Namespaces, missing

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.stack

COUNTS = """
import socket, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
with socket.create_connection((sys.argv[1], int(sys.argv[2]))) as connection:
    while True:
        connection.sendall(b".")
        time.sleep(0.02)
"""


@pytest.mark.parametrize("kind", [Groups, Namespaces])
def test_a_host_is_cut_off_joined_and_killed(kind: type[Groups] | type[Namespaces], tmp_path: Path) -> None:
    if kind is Namespaces and (why := missing()):
        pytest.skip(why)
    made: Hosts = kind(2)
    with made as hosts, socket.create_server((hosts.address, 0)) as server:
        line = [sys.executable, "-c", COUNTS, hosts.address, str(server.getsockname()[1])]
        hosts.start(1, line, os.environ, tmp_path / "log")
        server.settimeout(30)
        connection, _ = server.accept()
        with connection:
            connection.settimeout(30)
            assert connection.recv(1) == b"."
            hosts.cut(1)
            _drain(connection)
            connection.settimeout(1)
            with pytest.raises(TimeoutError):  # nothing comes, and nothing is refused
                connection.recv(1)
            assert hosts.alive(1)
            hosts.join(1)
            connection.settimeout(30)
            assert connection.recv(1) == b"."
            whole = psutil.Process(hosts.pid(1))
            processes = [whole, *whole.children(recursive=True)]
            assert hosts.kill(1) == len(processes) == 2
            assert all(_is_dead(process) for process in processes)
            assert not hosts.alive(1)


def _is_dead(process: psutil.Process) -> bool:
    """Gone, or waiting to be collected by whoever inherited it."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _drain(connection: socket.socket) -> None:
    """What was on its way when the cut came."""
    connection.settimeout(0.3)
    try:
        while connection.recv(65536):
            pass
    except TimeoutError:
        return
