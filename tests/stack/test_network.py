"""URLs on the command line, from a server on this machine to the printed result."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from domain.states import JobState
from nightowl import Ocr
from tests.servers import Web, answer
from tests.stack.test_cli import Shell

if TYPE_CHECKING:
    from pathlib import Path

    from tests.stack.conftest import Site

pytestmark = pytest.mark.stack

SECRET = "s3cr3t"


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    home, folder = tmp_path / "home", tmp_path / "empty"
    home.mkdir()
    folder.mkdir()
    return Shell(home, folder)


def test_a_url_is_run_and_its_query_is_printed_and_logged_nowhere(shell: Shell, tmp_path: Path) -> None:
    with Web() as web:
        web.answers[f"/notes.txt?sig={SECRET}"] = answer(b"An owl on a server.\n")
        good, bad = web.url(f"/notes.txt?sig={SECRET}"), web.url(f"/notes.txt?sig={SECRET}", host="127.0.0.2")
        done = shell.run(
            *("run", "ocr", good, bad, "--json"),
            NIGHTOWL_SOURCE_PRIVATE_HOSTS="127.0.0.1",
            NIGHTOWL_LOG_LEVEL="debug",
            NIGHTOWL_DATA_DIR=str(tmp_path / "data"),
        )
    first, second = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 1
    assert (first["state"], first["result"]["text"].strip()) == ("succeeded", "An owl on a server.")
    assert first["source"] == f"{web.url('/notes.txt')}?…"
    assert (second["state"], second["error"]["code"]) == ("failed", "source_refused")
    assert len(web.asked) == 1
    log = (tmp_path / "data" / "logs" / "worker.log").read_text()
    assert "source_refused" in log or "NIGHTOWL_SOURCE_PRIVATE_HOSTS" in log
    assert SECRET not in done.stdout + done.stderr + log


def test_a_url_with_a_password_is_not_stored(shell: Shell, tmp_path: Path) -> None:
    data = {"NIGHTOWL_DATA_DIR": str(tmp_path / "data")}
    assert shell.run("migrate", **data).returncode == 0
    done = shell.run("submit", "ocr", f"https://owl:{SECRET}@example.com/a.pdf", **data)
    assert done.returncode == 1
    assert "presigned" in done.stderr
    assert SECRET not in done.stdout + done.stderr
    assert shell.run("status", "--json", **data).stdout == ""


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_rows_of_a_list_from_elsewhere_are_opened_by_workers_under_their_rules(site: Site) -> None:
    """The list is read by the submitter, from a private address as it was told; what it names is judged."""
    pytest.importorskip("aiohttp")
    with Web(address="0.0.0.0") as web, site.client() as client:
        web.answers["/one.txt"] = answer(b"An owl on a server.\n")
        rows = [web.url("/one.txt"), web.url("/one.txt", host="127.0.0.2"), web.url("/none.txt")]
        web.answers["/list.jsonl"] = answer("\n".join(json.dumps({"source": row}) for row in rows).encode())
        batch = client.submit_batch(Ocr(), web.url("/list.jsonl"), name="list")
        assert batch.added == 3
        site.start_worker(source_private_hosts="127.0.0.1")
        summary = client.wait_batch("list", timeout_seconds=60)
        assert summary.states == {JobState.SUCCEEDED: 1, JobState.FAILED: 2}
        assert summary.codes == {"source_refused": 1, "source_missing": 1}
        assert {asked.to for asked in web.asked} == {"127.0.0.1"}
