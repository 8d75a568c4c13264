"""The password of a document, through real processes: where is it while the job runs, and when it is over?"""

from __future__ import annotations

import contextlib
import subprocess
import threading
from typing import TYPE_CHECKING

import pymupdf
import pytest
import redis
from sqlalchemy import select

from domain.states import JobState
from nightowl import Ocr
from storage.session import Database
from storage.tables import Base
from tests.stack.test_cli import Shell

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from nightowl import Client
    from tests.stack.conftest import Site

pytestmark = pytest.mark.stack

RIGHT, WRONG, OWN = "open-sesame-4711", "shut-sesame-4711", "a-row-s-own-4711"
SECRETS = (RIGHT, WRONG, OWN)


def locked(path: Path, *, password: str = RIGHT, pages: int = 1) -> Path:
    document = pymupdf.open()
    for number in range(pages):
        document.new_page().insert_text((72, 72), f"Page {number} of a locked document.")
    document.save(path, encryption=pymupdf.PDF_ENCRYPT_AES_256, user_pw=password, owner_pw=password)
    return path


@contextlib.contextmanager
def wire(socket: Path) -> Iterator[list[bytes]]:
    """Everything that Redis is told while the block runs."""
    with redis.Redis(unix_socket_path=str(socket)) as client, client.monitor() as monitor:
        heard: list[bytes] = []

        def listen() -> None:
            with contextlib.suppress(redis.exceptions.RedisError, OSError, ValueError):
                for command in monitor.listen():
                    heard.append(repr(command).encode())
                    if b"the end of it" in heard[-1]:
                        return

        thread = threading.Thread(target=listen)
        thread.start()
        yield heard
        client.echo("the end of it")
        thread.join(30)
        assert not thread.is_alive()


def rows(database_url: str) -> str:
    """Everything that stands in the database."""
    database = Database(database_url)
    with database.read() as session:
        said = [repr(session.execute(select(table)).all()) for table in Base.metadata.sorted_tables]
    database.close()
    return "\n".join(said)


def submitted(client: Client, folder: Path) -> dict[str, str]:
    """Jobs by how they are to end, with a password each."""
    good, wrong = Ocr.model_validate({"password": RIGHT}), Ocr.model_validate({"password": WRONG})
    locked(folder / "good.pdf")
    locked(folder / "many.pdf", pages=40)
    (folder / "torn.pdf").write_bytes((folder / "good.pdf").read_bytes()[:300])
    sources = {"succeeded": (good, "good"), "password_wrong": (wrong, "good"), "source_damaged": (good, "torn")}
    sources |= {
        "cancelled": (good, "good"),
        "deadline": (Ocr.model_validate({"password": RIGHT, "mode": "image"}), "many"),
    }
    return {end: client.submit(params, folder / f"{name}.pdf").id for end, (params, name) in sources.items()}


def test_a_password_is_gone_when_its_job_is_over_however_that_ends(site: Site, broker: Path, tmp_path: Path) -> None:
    batch = tmp_path / "batch"
    batch.mkdir()
    locked(batch / "a.pdf")
    locked(batch / "b.pdf", password=OWN)
    (batch / "list.csv").write_text(f"source,password,pages\na.pdf,,\nb.pdf,{OWN},\na.pdf,{OWN},seven\n")
    with wire(broker) as heard, site.client() as client:
        jobs = submitted(client, tmp_path)
        client.cancel(jobs["cancelled"])
        report = client.submit_batch(Ocr.model_validate({"password": RIGHT}), batch / "list.csv", name="night")
        assert report.batch is not None and (report.added, sum(report.skipped.values())) == (2, 1)
        assert RIGHT in rows(site.environment["NIGHTOWL_DATABASE_URL"])  # the workers need it
        site.start_worker(log_level="debug", model="delay=1", job_seconds="8", part_seconds="8")
        ended = {end: client.wait(id, timeout_seconds=120) for end, id in jobs.items()}
        assert client.wait_batch("night", timeout_seconds=120).states == {JobState.SUCCEEDED: 2}
        shown = "\n".join(f"{job!r} {job.to_json()} {client.parts(job.id)!r}" for job in ended.values())
        shown += repr(client.members("night")) + repr(client.batch("night"))
    assert {end: str(job.error.code if job.error else job.state) for end, job in ended.items()} == {
        **{end: end for end in jobs},
        "deadline": ended["deadline"].state if ended["deadline"].state is JobState.PARTIAL else "deadline",
    }
    assert len(heard) > 20
    everything = "\n".join((rows(site.environment["NIGHTOWL_DATABASE_URL"]), shown, site.log(), repr(heard)))
    assert [secret for secret in SECRETS if secret in everything] == []


def test_a_password_of_stdin_is_in_no_command_line_and_leaves_no_byte(tmp_path: Path) -> None:
    home, data = tmp_path / "home", tmp_path / "data"
    home.mkdir()
    shell = Shell(home, tmp_path)
    source = locked(tmp_path / "good.pdf")
    environment = {**shell.environment, "NIGHTOWL_DATA_DIR": str(data), "NIGHTOWL_LOG_LEVEL": "debug"}
    process = subprocess.Popen(
        shell.command("run", "ocr", str(source), "--password", "-"),
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    out, err = process.communicate(f"{RIGHT}\n", timeout=120)
    assert process.returncode == 0, err
    assert "Page 0 of a locked document." in out
    files = [path for path in data.rglob("*") if path.is_file()]
    assert any(path.name == "nightowl.db" for path in files)
    assert [path for path in files if RIGHT.encode() in path.read_bytes()] == []
    assert RIGHT not in out + err


@pytest.mark.parametrize("arguments", [("run", "ocr", "x.pdf"), ("retry", "abc"), ("batch", "ocr", "x.csv")])
def test_a_password_that_does_not_come_is_told(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    shell = Shell(tmp_path, tmp_path)
    done = subprocess.run(
        shell.command(*arguments, "--password", "-"),
        env={**shell.environment, "NIGHTOWL_DATA_DIR": str(tmp_path / "data")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert "reads a line of stdin, and none came" in done.stderr
