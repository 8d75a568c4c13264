"""All five kinds with `--engine mplug-owl` over tiny checkpoints in the published layout, through the whole stack."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from domain.params import ChatTurn
from mplug_owl.testing import tiny_checkpoint
from nightowl import Ask, Caption, Client, Copywrite, Ocr, Summarize
from tests.stack.conftest import Site, eventually

pytestmark = pytest.mark.stack

SAMPLES = Path(__file__).resolve().parents[2] / "samples"
CONVERSATION = (
    ChatTurn(role="user", text="What is it?"),
    ChatTurn(role="assistant", text="A poster."),
    ChatTurn(role="user", text="Of what?"),
)
JOBS: tuple[tuple[Any, str], ...] = (
    (Ocr(mode="image", pages="1"), "report.pdf"),
    (Summarize(length="short", language="French"), "report.pdf"),
    (Copywrite(channel="social", max_words=20, variants=2), "poster.png"),
    (Caption(), "clip.mp4"),
    (Ask(turns=CONVERSATION), "poster.png"),
)


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """One database is enough: what is tried here is the engine."""
    return sqlite_url


@pytest.mark.parametrize(("variant", "language"), [("image", "llama"), ("video", "llama"), ("image", "bloom")])
def test_all_five_kinds_run(site: Site, tmp_path: Path, variant: Any, language: Any) -> None:
    checkpoint = tiny_checkpoint(tmp_path / "owl", variant, language=language)
    site.start_worker(engine="mplug-owl", model=str(checkpoint), device="cpu", threads="1")
    with Client() as client:
        jobs = [client.submit(params, SAMPLES / name).id for params, name in JOBS]
        eventually(lambda: all(client.get(job).state.is_final for job in jobs), seconds=200)
        done = [client.get(job) for job in jobs]
    assert [(job.kind, job.state, job.error) for job in done] == [(job.kind, "succeeded", None) for job in done]
    assert {(job.engine, job.model) for job in done} == {("mplug-owl", "owl")}
    ocr, caption = done[0], done[3]
    assert ocr.result is not None and ocr.result.text
    assert caption.result is not None
    assert {"captions.srt", "captions.vtt"} <= set(caption.result.artifacts)
    assert "mplug-owl ready" in site.log()


def _doctor(checkpoint: Path, tmp_path: Path) -> dict[str, Any]:
    """What `nightowl doctor --json` says of the engine."""
    made = subprocess.run(
        [sys.executable, "-c", "from nightowl.cli import main; main()", "doctor", "--json"],
        env={
            **os.environ,
            "NIGHTOWL_DATA_DIR": str(tmp_path / "data"),
            "NIGHTOWL_ENGINE": "mplug-owl",
            "NIGHTOWL_MODEL": str(checkpoint),
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    checks = [json.loads(line) for line in made.stdout.splitlines()]
    (engine,) = [check for check in checks if check["name"] == "engine"]
    return {**engine, "status": made.returncode}


def test_doctor_says_whether_a_checkpoint_loads_and_generates(tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint(tmp_path / "owl")
    good = _doctor(checkpoint, tmp_path)
    assert (good["ok"], good["status"]) == (True, 0)
    assert "looked at a picture" in good["detail"]
    weights = next(checkpoint.glob("pytorch_model*.bin"))
    weights.write_bytes(weights.read_bytes()[:-1000])
    bad = _doctor(checkpoint, tmp_path)
    assert (bad["ok"], bad["status"]) == (False, 3)
    assert str(checkpoint) in bad["detail"]
