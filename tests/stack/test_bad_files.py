"""Every hostile file of the shared test material, but the archives, through the whole stack."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from domain.states import JobState
from nightowl import Caption, Ocr

if TYPE_CHECKING:
    from domain.jobs import Job
    from nightowl import Client
    from tests.stack.conftest import Site

pytestmark = [pytest.mark.stack, pytest.mark.shared]

DATA = Path(__file__).parents[2].parent / "shared" / "data" / "dev"
DONE, PART, FAIL = JobState.SUCCEEDED, JobState.PARTIAL, JobState.FAILED

ALLOWED = {
    "process": {DONE},
    "fail": {FAIL},
    "fail_without_password": {FAIL},
    "partial": {PART},
    "process_or_fail": {DONE, FAIL},
    "partial_or_fail": {DONE, PART, FAIL},  # a file that gave what it held says so in its warnings
    "partial_or_process": {DONE, PART},
}
ARCHIVES = (".zip", ".tar", ".gz")
VIDEOS = (".mp4", ".mkv")


def bad_files() -> list[dict[str, Any]]:
    manifest = json.loads((DATA / "MANIFEST.json").read_text())
    return [file for file in manifest["files"] if file["kind"] == "bad" and not file["file"].endswith(ARCHIVES)]


def submit(client: Client, name: str) -> Job:
    return client.submit(Caption() if name.endswith(VIDEOS) else Ocr(pages="1-40"), DATA / name, name=name)


@pytest.mark.skipif(not DATA.is_dir(), reason="../shared is not here")
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_each_bad_file_ends_as_its_manifest_says_and_the_worker_lives(site: Site) -> None:
    worker = site.start_worker(limits__read_seconds="15", readers="2", lease_seconds="30")
    files = bad_files()
    with site.client() as client:
        jobs = {file["file"]: submit(client, file["file"]) for file in files}
        ended = {name: client.wait(job.id, timeout_seconds=240) for name, job in jobs.items()}
        assert worker.poll() is None
    wrong = {
        file["file"]: (ended[file["file"]].state, file["expect"]["outcome"])
        for file in files
        if ended[file["file"]].state not in ALLOWED[file["expect"]["outcome"]]
    }
    assert wrong == {}
    for job in ended.values():
        if job.state is FAIL:
            assert job.error is not None and job.error.code != "internal", job
            assert len(job.error.message) > 20, job
    for name, job in ended.items():
        print(f"{name:45} {job.state:10} {job.error.code + ': ' + job.error.message if job.error else ''}")
