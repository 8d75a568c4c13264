"""Exports: each format holds every row, a partial one says what it lacks, names stay below the folder."""

from __future__ import annotations

import csv
import json
import zipfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import insert
from typer.testing import CliRunner

from domain.errors import ParamsError, SetupError
from domain.states import JobState
from nightowl.cli import app
from nightowl.export import MANIFEST, Format, Suffix, export, format_of, safe_path
from storage import artifacts, tables
from storage.exports import Which
from tests.storage.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nightowl import Client
    from storage.session import Database

ALL = list(Suffix)


@pytest.fixture
def batch(client: Client, database: Database) -> str:
    """Two members of one name in two folders that are done, one with subtitles; one is open, one skipped."""
    ledger = Ledger(database)
    store = artifacts.ArtifactStore(client.settings.artifacts)
    with database.write() as session:
        session.add(tables.Batch(id="b", name="night"))
    paths = {"one": "a/x.pdf", "two": "b/x.pdf", "open": "b/../../etc/passwd"}
    for id in ("one", "two"):
        ledger.planned(id=id, pages=1)
        ledger.do(ledger.must_claim(id), 1)
        claim = ledger.finish_claim(id)
        assert claim is not None
        ledger.close(claim, f'text of {id}, "quoted"\nand more')
    ledger.submit(id="open")
    subtitles = store.put(b"1\n00:00:00,000 --> 00:00:01,000\nhi\n", name="captions.srt", media_type="text/plain")
    with database.write() as session:
        artifacts.add(session, subtitles, role="result", job_id="two")
        session.execute(tables.Job.__table__.update().values(batch_id="b"))  # type: ignore[attr-defined]
        session.execute(insert(tables.Member), [member(path, id) for id, path in paths.items()])
        session.execute(insert(tables.Member), [{**member("z.exe", None), "error_code": "source_refused"}])
    return "night"


def member(path: str, job_id: str | None) -> dict[str, Any]:
    state = "submitted" if job_id else "skipped"
    return {"batch_id": "b", "digest": path, "path": path, "job_id": job_id, "state": state, "error_code": None}


def write(client: Client, output: Path, format: Format, **which: Any) -> str:
    chosen = Which(**(which or {"batch_id": client.batch_id("night")}))
    return str(export(client.results(chosen), output, format=format, suffixes=ALL, read=client.read))


def test_json_lines_hold_every_member_and_say_what_is_missing(client: Client, batch: str, tmp_path: Path) -> None:
    said = write(client, tmp_path / "out.jsonl", Format.JSONL)
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(row["path"], row["state"]) for row in rows] == [
        ("a/x.pdf", "succeeded"),
        ("b/../../etc/passwd", "pending"),
        ("b/x.pdf", "succeeded"),
        ("z.exe", "skipped"),
    ]
    assert rows[0]["result"]["text"].startswith("text of one")
    assert rows[3]["error"]["code"] == "source_refused"
    assert said == "exported 4: 1 pending, 1 skipped, 2 succeeded; 1 are not over, export again for them"


def test_csv_and_parquet_hold_the_same(client: Client, batch: str, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="the extra parquet is not installed")
    write(client, tmp_path / "out.csv", Format.CSV)
    write(client, tmp_path / "out.parquet", Format.PARQUET)
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    table = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert [{name: "" if value is None else str(value) for name, value in row.items()} for row in table] == rows
    assert rows[2]["text"] == 'text of two, "quoted"\nand more'


@pytest.mark.parametrize("format", [Format.FOLDER, Format.ZIP])
def test_a_tree_mirrors_the_members_paths(client: Client, batch: str, tmp_path: Path, format: Format) -> None:
    target = tmp_path / "deep" / "tree"
    write(client, target, format)
    if format is Format.ZIP:
        with zipfile.ZipFile(target) as archive:
            assert archive.testzip() is None
            files = {name: archive.read(name) for name in archive.namelist()}
    else:
        files = {str(path.relative_to(target)): path.read_bytes() for path in target.rglob("*") if path.is_file()}
    assert set(files) == {
        MANIFEST,
        *(f"{path}.{suffix}" for path in ("a/x.pdf", "b/x.pdf") for suffix in ("md", "txt", "json")),
        "b/x.pdf.srt",
    }
    assert files["a/x.pdf.md"].startswith(b"text of one")
    assert files["b/x.pdf.srt"].endswith(b"hi\n")
    manifest = [json.loads(line) for line in files[MANIFEST].splitlines()]
    assert [len(line["files"]) for line in manifest] == [3, 0, 4, 0]
    assert list(target.parent.iterdir()) == [target], "nothing unfinished is left, nothing lies outside"


def test_an_export_that_breaks_leaves_no_file_under_its_name(client: Client, batch: str, tmp_path: Path) -> None:
    def broken() -> Iterator[Any]:
        yield from client.results(Which(batch_id="b"))
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        export(broken(), tmp_path / "out.csv", format=Format.CSV, suffixes=ALL, read=client.read)
    assert not (tmp_path / "out.csv").exists()


def test_the_same_path_twice_is_two_files(client: Client, database: Database, batch: str, tmp_path: Path) -> None:
    with database.write() as session:
        session.execute(tables.Member.__table__.update().values(path="same"))  # type: ignore[attr-defined]
    write(client, tmp_path / "tree", Format.FOLDER)
    assert len(list((tmp_path / "tree").glob("same*.txt"))) == 2


def test_a_name_that_is_a_file_and_a_folder_is_both(
    client: Client, database: Database, batch: str, tmp_path: Path
) -> None:
    with database.write() as session:
        rename = tables.Member.__table__.update()  # type: ignore[attr-defined]
        session.execute(rename.where(tables.Member.job_id == "one").values(path="x"))
        session.execute(rename.where(tables.Member.job_id == "two").values(path="x.md/y"))
    write(client, tmp_path / "tree", Format.FOLDER)
    assert (
        sum(path.read_bytes().startswith(b"text of") for path in (tmp_path / "tree").rglob("*") if path.is_file()) == 4
    )


def test_jobs_outside_a_batch_go_out_as_they_changed(client: Client, batch: str, tmp_path: Path) -> None:
    last = client.get("two").change_seq
    rows = list(client.results(Which(since=last - 1, states=(JobState.SUCCEEDED,))))
    assert [row.job.id for row in rows if row.job] == ["two"]
    write(client, tmp_path / "tree", Format.FOLDER, job_ids=("one", "two"))
    assert len(list((tmp_path / "tree").glob("a.pdf~*.txt"))) == 2


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=60), min_size=1, max_size=4))
def test_any_path_stays_below_its_folder(pieces: list[str]) -> None:
    path = "/".join(pieces)
    made = PurePosixPath(safe_path(path))
    assert not made.is_absolute()
    assert ".." not in made.parts
    assert all(0 < len(part.encode()) <= 200 for part in made.parts)
    assert all(ord(letter) >= 32 and letter not in '\\:*?"<>|' for letter in str(made))


@pytest.mark.parametrize("path", ["a/b.pdf", "ünïcode/日本語.pdf", "with space/x.tar.gz"])
def test_an_honest_path_is_kept(path: str) -> None:
    assert safe_path(path) == path


def test_two_paths_that_look_the_same_stay_two() -> None:
    assert len({safe_path(path) for path in ("a:b", "a?b", "a_b", "/a_b", "./a_b", "x" * 300, "x" * 301)}) == 7


def test_the_output_says_the_format() -> None:
    assert format_of(Path("a.CSV"), None) is Format.CSV
    assert format_of(Path("results"), None) is Format.FOLDER
    assert format_of(None, None) is Format.JSONL
    with pytest.raises(ParamsError, match="needs --output"):
        format_of(None, Format.ZIP)
    with pytest.raises(ParamsError, match="does not say its format"):
        format_of(Path("a.xlsx"), None)


def test_without_pyarrow_the_extra_is_named(client: Client, batch: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(SetupError, match=r"nightowl\[parquet\]"):
        write(client, tmp_path / "out.parquet", Format.PARQUET)
    assert not (tmp_path / "out.parquet").exists()


def test_the_command_streams_to_stdout(client: Client, batch: str) -> None:
    done = CliRunner().invoke(app, ["export", "night", "--state", "succeeded"])
    assert done.exit_code == 0, done.output
    assert [json.loads(line)["path"] for line in done.stdout.splitlines()] == ["a/x.pdf", "b/x.pdf"]
    one = CliRunner().invoke(app, ["export", "two"])
    assert json.loads(one.stdout)["id"] == "two"
