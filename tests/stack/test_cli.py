"""The command line as a user types it: in an empty folder, with an empty HOME, on the embedded stack."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from tests.stack.conftest import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.stack

JOB_KEYS = [
    *("id", "batch_id", "kind", "state", "source", "parts", "result", "error", "attempts", "engine", "model"),
    *("created_at", "started_at", "finished_at"),
]


class Shell:
    """Runs `nightowl …` in an empty folder."""

    def __init__(self, home: Path, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "NIGHTOWL_ENGINE": "fake",
            "NIGHTOWL_SWEEP_SECONDS": "0.5",
            "NIGHTOWL_READERS": "1",
        }
        self.started: list[subprocess.Popen[str]] = []

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-c", "from nightowl.cli import main; main()", *arguments]

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            env={**self.environment, **environment},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            self.command(*arguments),
            env={**self.environment, **environment},
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.started.append(process)
        return process

    def jobs(self, *arguments: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.run(*arguments, "--json").stdout.splitlines()]


@pytest.fixture
def shell(tmp_path: Path, document: Path) -> Iterator[Shell]:
    home, folder = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    folder.mkdir()
    made = Shell(home, folder)
    yield made
    for process in made.started:
        process.send_signal(signal.SIGTERM)
        process.communicate()


def test_run_prints_the_text_and_leaves_the_folder_as_it_was(shell: Shell, document: Path) -> None:
    done = shell.run("run", "ocr", str(document), "-p", "pages=1", "-p", "output=text")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("This is line 0 of a plain text.")
    assert "succeeded" in done.stderr
    assert list(shell.folder.iterdir()) == []


def test_run_prints_one_json_object_per_job_with_stable_keys(shell: Shell, document: Path) -> None:
    done = shell.run("run", "ocr", str(document), "nowhere.pdf", "--json")
    good, bad = (json.loads(line) for line in done.stdout.splitlines())
    assert done.returncode == 1 and done.stderr == ""
    assert list(good) == list(bad) == JOB_KEYS
    assert good["state"] == "succeeded" and good["parts"]["succeeded"] == good["parts"]["total"] > 1
    assert bad["state"] == "failed" and bad["error"]["code"] == "source_missing" and not bad["error"]["retryable"]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("run", "ocr", "a.pdf", "-p", "colour=red"), 2, "unknown param 'colour' for ocr"),
        (("run", "ocr", "a.pdf", "-p", "colour"), 2, "not KEY=VALUE"),
        (("run", "dance", "a.pdf"), 2, "dance"),
        (("run", "ocr", "a.pdf", "b.pdf", "--key", "k"), 2, "--key names one job"),
        (("status",), 3, "nightowl migrate"),
    ],
)
def test_wrong_usage_is_told_in_a_line_and_an_exit_code(
    shell: Shell, arguments: tuple[str, ...], code: int, says: str
) -> None:
    done = shell.run(*arguments)
    assert done.returncode == code
    assert says in done.stderr and "Traceback" not in done.stderr


def test_settings_that_are_wrong_are_named(shell: Shell) -> None:
    done = shell.run("doctor", "--no-engine", NIGHTOWL_SLOTS="many")
    assert done.returncode == 3
    assert done.stderr.startswith("nightowl: setting NIGHTOWL_SLOTS:")


@pytest.mark.parametrize(
    ("engine", "says"), [("nobody:makes", "nobody"), ("json:loads", "must be str"), ("mplug-owl", "hub id")]
)
def test_an_engine_that_cannot_be_made_is_told(shell: Shell, document: Path, engine: str, says: str) -> None:
    done = shell.run("run", "ocr", str(document), "--engine", engine)
    assert done.returncode == 3
    assert says in done.stderr and "Traceback" not in done.stderr


def test_a_life_with_up(shell: Shell, document: Path) -> None:
    shell.start("up")
    eventually(lambda: shell.run("status").returncode == 0)
    (job,) = shell.jobs("submit", "ocr", str(document), "--wait", "--key", "k")
    assert job["state"] == "succeeded"
    assert [again["id"] for again in shell.jobs("submit", "ocr", str(document), "--key", "k")] == [job["id"]]
    assert [found["id"] for found in shell.jobs("status")] == [job["id"]]

    parts = shell.jobs("result", job["id"][:20], "--parts")
    assert [part["number"] for part in parts] == list(range(1, job["parts"]["total"] + 1))
    saved = shell.run("result", job["id"], "--save", "out")
    assert saved.returncode == 0 and (shell.folder / "out" / "text.md").is_file()

    (failed,) = shell.jobs("submit", "ocr", "late.txt", "--wait")
    assert failed["state"] == "failed"
    assert shell.run("result", failed["id"]).returncode == 1
    (shell.folder / "late.txt").write_text("Here after all.")
    assert shell.jobs("retry", failed["id"])[0]["state"] == "pending"
    eventually(lambda: shell.jobs("status", failed["id"])[0]["state"] == "succeeded")
    assert shell.run("retry", failed["id"]).returncode == 1
    assert shell.run("cancel", failed["id"]).returncode == 0
    assert shell.run("result", "zzz").returncode == 4

    joined = shell.run("run", "ocr", str(document), "-p", "pages=2")
    assert joined.returncode == 0
    assert shell.run("up").returncode == 1


def test_doctor_says_what_it_found(shell: Shell) -> None:
    done = shell.run("doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "NIGHTOWL_ENGINE" in done.stdout and "environment NIGHTOWL_ENGINE" in done.stdout
    for name in ("disk", "database", "broker", "readers", "engine"):
        assert f"ok    {name}:" in done.stdout
    assert all(check["ok"] for check in shell.jobs("doctor"))


def test_doctor_looks_into_the_ledger(shell: Shell, document: Path) -> None:
    assert shell.run("doctor", "--ledger").stdout == "ok    ledger: there is none yet\n"
    (job,) = shell.jobs("run", "ocr", str(document), "-p", "pages=1-2")
    (sound,) = shell.jobs("doctor", "--ledger")
    assert sound["ok"] and "no promises broken in 1 jobs, 2 parts and 3 attempts" in sound["detail"]

    ledger = sqlite3.connect(next((Path(shell.environment["HOME"])).rglob("nightowl.db")))
    ledger.execute("UPDATE parts SET text = NULL WHERE number = 2")
    ledger.commit()
    ledger.close()
    broken = shell.run("doctor", "--ledger")
    assert broken.returncode == 1
    violation, summary = broken.stdout.splitlines()
    assert violation.startswith(f"part_result: job {job['id']} part 2 is succeeded: ")
    assert summary.startswith("WRONG ledger: 1 promises broken")
    told, _ = shell.jobs("doctor", "--ledger")
    assert told["type"] == "violation"
    assert (told["name"], told["job_id"], told["part"]) == ("part_result", job["id"], 2)


def test_the_stack_outlives_work_that_kills_its_worker_and_knows_how_it_died(shell: Shell, document: Path) -> None:
    """Its parent sees the worker die, so nobody waits for the lease of 30 s."""
    began = time.monotonic()
    done = shell.run("run", "summarize", str(document), "--json", NIGHTOWL_MODEL="delay=0.1, die=line 130 of")
    (job,) = (json.loads(line) for line in done.stdout.splitlines())
    assert done.returncode == 1
    assert (job["state"], job["parts"]["failed"]) == ("partial", 1)
    assert job["error"]["code"] == "worker_lost"
    assert "it was killed by SIGKILL" in job["error"]["message"]
    assert time.monotonic() - began < 3 * 30
    assert shell.run("doctor", "--ledger").returncode == 0


def test_a_source_all_of_whose_pages_kill_their_worker_comes_to_an_end(shell: Shell, document: Path) -> None:
    """More deaths than the stack would allow a worker that cannot start."""
    asked = ("run", "summarize", str(document), "-p", "pages=1-4", "--json")
    done = shell.run(*asked, NIGHTOWL_MODEL="die=a plain text")
    (job,) = (json.loads(line) for line in done.stdout.splitlines())
    assert done.returncode == 1
    assert (job["state"], job["parts"]["failed"]) == ("failed", 4)
    assert job["error"]["code"] == "worker_lost"
    workers = set(
        re.findall(r"from (\S+) \(it was killed by SIGKILL", shell.run("result", job["id"], "--parts").stdout)
    )
    assert len(workers) == 4  # each part was alone when it was given up
    assert shell.run("doctor", "--ledger").returncode == 0


def test_killing_run_leaves_no_process_behind_and_the_next_run_does_the_work(shell: Shell, document: Path) -> None:
    process = shell.start("run", "summarize", str(document), NIGHTOWL_MODEL="hang")
    eventually(lambda: any(job["state"] == "running" for job in shell.jobs("status")))
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 3  # Redis, worker, reader
    process.kill()
    process.wait()
    gone, alive = psutil.wait_procs(children, timeout=15)
    assert alive == [] and gone
    (left,) = shell.jobs("status")
    assert left["state"] == "running"
    assert shell.run("run", "ocr", str(document), NIGHTOWL_LEASE_SECONDS="2").returncode == 0


def test_a_file_that_is_refused_at_the_door_costs_no_other_its_job(shell: Shell, document: Path) -> None:
    zipped = shell.folder / "many.zip"
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("a.txt", "An owl.")
    files = (str(document), "many.zip", b"\xff.txt".decode("utf-8", "surrogateescape"))
    done = shell.run("run", "ocr", *files, "-p", "pages=1", "--json")
    assert done.returncode == 1, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines()]
    refused = [(line["source"], line["error"]["code"]) for line in told if line.get("type") == "refused"]
    assert refused == [("many.zip", "source_unsupported"), ("\\udcff.txt", "name_refused")]
    assert [line["state"] for line in told if "state" in line] == ["succeeded"]
    assert "nightowl batch ocr many.zip" in shell.run("run", "ocr", "many.zip").stderr


def test_a_batch_of_nothing_is_told_and_ends_with_1(shell: Shell, tmp_path: Path) -> None:
    data = {"NIGHTOWL_DATA_DIR": str(tmp_path / "data")}
    assert shell.run("migrate", **data).returncode == 0
    zipfile.ZipFile(shell.folder / "empty.zip", "w").close()
    done = shell.run("batch", "ocr", "empty.zip", **data)
    assert (done.returncode, "no job comes of empty.zip: it holds no file" in done.stderr) == (1, True), done.stderr
    (shell.folder / "none.pdf").write_bytes(b"")
    done = shell.run("batch", "ocr", "none.pdf", **data)
    assert (done.returncode, "no job comes of none.pdf: everything in it was skipped" in done.stderr) == (1, True)
