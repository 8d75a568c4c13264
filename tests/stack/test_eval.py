"""`nightowl eval` as a user types it: a data set through the stack, its report, two runs compared, a rating."""

from __future__ import annotations

import json
import sqlite3
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from tests.stack.test_cli import Shell, shell

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.stack
__all__ = ["shell"]


def write_set(folder: Path, reference: str) -> Path:
    (folder / "good.txt").write_text(
        "Two owls fly over the barn.\n\nThree mice run away from them.\n", encoding="utf-8"
    )
    rows = [
        {"source": "good.txt", "reference": reference, "group": "text"},
        {"source": "missing.txt", "reference": "Nothing.", "group": "gone"},
    ]
    path = folder / "set.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def test_a_data_set_is_run_scored_reported_and_compared(shell: Shell, tmp_path: Path) -> None:
    manifest = write_set(tmp_path, "Two owls fly over the barn. Three mice run away from them.")
    page = tmp_path / "report.html"
    done = shell.run("eval", "ocr", str(manifest), "--name", "first", "--report", str(page))
    assert done.returncode == 1, "one file is missing"
    assert "good.txt" in done.stdout and "0.00 %" in done.stdout and "100.00 %" in done.stdout
    assert "source_missing" in done.stdout
    assert "three mice" in page.read_text(encoding="utf-8").lower()

    write_set(tmp_path, "Two owls fly over a barn. Three mice run away from them.")
    second = shell.run("eval", "ocr", str(manifest), "--name", "second", "--no-pictures", "--json")
    *items, run = (json.loads(line) for line in second.stdout.splitlines())
    assert [(item["name"], item["error"] is None) for item in items] == [("good.txt", True), ("missing.txt", False)]
    assert 0 < items[0]["scores"]["cer"] < 0.1
    assert (run["task"], run["items"], run["engine"]) == ("ocr", 2, "fake")

    diff = shell.run("eval", "diff", "first", "second", "--fail-on-worse")
    assert diff.returncode == 1
    assert "worse by cer: 1" in diff.stdout and "1 worse, 0 better, 1 the same" in diff.stdout
    assert shell.run("eval", "diff", "second", "first", "--fail-on-worse").returncode == 0
    assert [json.loads(line)["name"] for line in shell.run("eval", "list", "--json").stdout.splitlines()] == [
        "second",
        "first",
    ]
    wrong = shell.run("eval", "rate", "first", str(tmp_path / "rate.html"))
    assert wrong.returncode == 2 and "only answers to questions are rated" in wrong.stderr


def test_a_conversation_is_asked_turn_by_turn_and_rated(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "cases").mkdir()
    assert cv2.imwrite(str(tmp_path / "cases" / "1.png"), np.arange(40 * 60 * 3, dtype=np.uint8).reshape(40, 60, 3))
    rows = [
        {
            "image": "1.png",
            "question_id": 1,
            "question": "What is it?",
            "ability": "a,b",
            "category": ["single_turn", "multi_turn"],
        },
        {"image": "1.png", "question_id": 2, "question": "Why so?", "ability": "a,f", "category": ["multi_turn"]},
    ]
    (tmp_path / "questions.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    done = shell.run("eval", "owleval", str(tmp_path), "--name", "owls", "--no-pictures", "--json")
    assert done.returncode == 0, done.stderr
    job_id = json.loads(done.stdout.splitlines()[1])["job_id"]
    with sqlite3.connect(next((tmp_path / "home").rglob("nightowl.db"))) as ledger:
        ((params,),) = ledger.execute("SELECT params FROM jobs WHERE id = ?", (job_id,)).fetchall()
    turns = json.loads(params)["turns"]
    assert [(turn["role"], turn["text"]) for turn in turns if turn["role"] == "user"] == [
        ("user", "What is it?"),
        ("user", "Why so?"),
    ]
    assert turns[1]["role"] == "assistant" and turns[1]["text"]

    page = tmp_path / "rate.html"
    assert shell.run("eval", "rate", "owls", str(page)).returncode == 0
    key = json.loads((tmp_path / "rate.key.json").read_text(encoding="utf-8"))
    assert "data:image/jpeg;base64," in page.read_text(encoding="utf-8")
    saved = tmp_path / "saved.json"
    saved.write_text(json.dumps({"page": key["page"], "ratings": dict.fromkeys(key["answers"], "B")}), encoding="utf-8")
    tally = [
        json.loads(line)
        for line in shell.run(
            "eval", "tally", str(tmp_path / "rate.key.json"), str(saved), "--json"
        ).stdout.splitlines()
    ]
    assert {"system": "nightowl", "part": "multi-turn", "rated": 2, "A": 0, "B": 2, "C": 0, "D": 0} in tally
