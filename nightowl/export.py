"""Results out: JSON lines, CSV, Parquet, or a folder or zip that mirrors the paths of a batch's members.

Each row is written as it comes. A job that is not over is written too, with its state: a file says what it lacks.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
import sys
import zipfile
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, Protocol

from domain import sources
from domain.errors import ParamsError, SetupError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from storage.artifacts import StoredFile
    from storage.exports import Exported


class Format(StrEnum):
    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"
    FOLDER = "folder"
    ZIP = "zip"


class Suffix(StrEnum):
    """The files that a folder or zip may hold of each job."""

    MD = "md"
    TXT = "txt"
    JSON = "json"
    SRT = "srt"
    VTT = "vtt"


COLUMNS = ("path", "id", "batch_id", "kind", "state", "parts_total", "parts_succeeded", "parts_failed", "text")
MORE_COLUMNS = ("data", "error_code", "error_message", "engine", "model", "created_at", "started_at", "finished_at")
NUMBERS = frozenset({"parts_total", "parts_succeeded", "parts_failed"})
PARQUET_ROWS = 1000
MANIFEST = "_manifest.jsonl"
LONGEST_NAME = 180
"""Bytes; filesystems allow 255, and an ending is added."""
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


class Writer(Protocol):
    def write(self, row: Exported) -> None: ...


@dataclass(slots=True)
class Report:
    """What was written: rows by state, skipped members among them."""

    states: Counter[str] = field(default_factory=Counter)
    missing: int = 0

    def add(self, row: Exported) -> None:
        self.states[row.job.state.value if row.job else "skipped"] += 1
        self.missing += row.is_missing

    def __str__(self) -> str:
        told = ", ".join(f"{count} {state}" for state, count in sorted(self.states.items()))
        text = f"exported {self.states.total()}: {told}" if told else "nothing to export"
        return f"{text}; {self.missing} are not over, export again for them" if self.missing else text


def format_of(output: Path | None, wanted: Format | None) -> Format:
    """The one that was asked for, or that the output's ending says. Raises ParamsError where neither will do."""
    if output is None:
        if wanted in (None, Format.JSONL, Format.CSV):
            return wanted or Format.JSONL
        raise ParamsError(f"--format {wanted} needs --output PATH; only jsonl and csv can go to stdout")
    if wanted is not None:
        return wanted
    ending = output.suffix.lower().lstrip(".")
    if ending and ending not in list(Format):
        raise ParamsError(
            f"{output.name} does not say its format: end it in .jsonl, .csv, .parquet or .zip, or --format"
        )
    return Format(ending) if ending else Format.FOLDER


def export(
    rows: Iterable[Exported],
    output: Path | None,
    *,
    format: Format,
    suffixes: Sequence[Suffix],
    read: Callable[[StoredFile], bytes],
) -> Report:
    """Write every row. A file appears under its name only when it is whole. `read` gives a stored file's content."""
    report = Report()
    with _opened(output, format, suffixes, read) as writer:
        for row in rows:
            writer.write(row)
            report.add(row)
    return report


@contextmanager
def _opened(
    output: Path | None, format: Format, suffixes: Sequence[Suffix], read: Callable[[StoredFile], bytes]
) -> Iterator[Writer]:
    if output is None:
        yield Lines(sys.stdout) if format is Format.JSONL else Table(sys.stdout)
    elif format is Format.FOLDER:
        output.mkdir(parents=True, exist_ok=True)
        with _whole(output / MANIFEST) as path, path.open("w", encoding="utf-8") as manifest:
            yield Tree(_into_folder(output), manifest, suffixes, read)
    else:
        with _whole(output) as path, _in_file(path, format, suffixes, read) as writer:
            yield writer


@contextmanager
def _in_file(
    path: Path, format: Format, suffixes: Sequence[Suffix], read: Callable[[StoredFile], bytes]
) -> Iterator[Writer]:
    if format is Format.ZIP:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            lines = path.with_name(f"{path.name}.manifest")
            with lines.open("w", encoding="utf-8") as manifest:
                yield Tree(_into_zip(archive), manifest, suffixes, read)
            archive.write(lines, MANIFEST)
            lines.unlink()
    elif format is Format.PARQUET:
        with Parquet(path) as parquet:
            yield parquet
    else:
        with path.open("w", encoding="utf-8", newline="" if format is Format.CSV else None) as file:
            yield Lines(file) if format is Format.JSONL else Table(file)


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A name beside it to write to; it gets its own when all went well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.unfinished")
    yield beside
    beside.replace(path)


class Lines:
    """One JSON object per line: the job as `--json` has it everywhere, with the member's path."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def write(self, row: Exported) -> None:
        self._file.write(json.dumps(_as_json(row), ensure_ascii=False) + "\n")


class Table:
    """CSV with a header; `data` is JSON in a cell."""

    def __init__(self, file: IO[str]) -> None:
        self._writer = csv.DictWriter(file, (*COLUMNS, *MORE_COLUMNS))
        self._writer.writeheader()

    def write(self, row: Exported) -> None:
        self._writer.writerow(_flat(row))


class Parquet:
    """The columns of the CSV, typed, in groups of 1000 rows. Raises SetupError where pyarrow is not installed."""

    def __init__(self, path: Path) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError as error:
            raise SetupError(
                "Parquet needs pyarrow: pip install 'nightowl[parquet]', or export jsonl or csv"
            ) from error
        names = (*COLUMNS, *MORE_COLUMNS)
        fields = [(name, pyarrow.int32() if name in NUMBERS else pyarrow.string()) for name in names]
        self._schema: Any = pyarrow.schema(fields)
        self._batch_of: Any = pyarrow.RecordBatch.from_pylist
        self._writer: Any = pyarrow.parquet.ParquetWriter(path, self._schema)
        self._rows: list[dict[str, Any]] = []

    def write(self, row: Exported) -> None:
        self._rows.append(_flat(row))
        if len(self._rows) >= PARQUET_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_batch(self._batch_of(self._rows, schema=self._schema))
            self._rows.clear()

    def __enter__(self) -> Parquet:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._flush()
        self._writer.close()


class Tree:
    """Files beside where the members lay: `a/x.pdf` gives a/x.pdf.md, a/x.pdf.json and so on; and a manifest of all."""

    def __init__(
        self,
        put: Callable[[str, bytes], str],
        manifest: IO[str],
        suffixes: Sequence[Suffix],
        read: Callable[[StoredFile], bytes],
    ) -> None:
        self._put, self._manifest, self._suffixes, self._read = put, manifest, suffixes, read
        self._last: str | None = None

    def write(self, row: Exported) -> None:
        written = []
        name = self._name(row)
        for suffix in self._suffixes:
            if (content := self._content(row, suffix)) is not None:
                written.append(self._put(f"{name}.{suffix}", content))
        line = {**_as_json(row), "result": None, "files": written}
        self._manifest.write(json.dumps(line, ensure_ascii=False) + "\n")

    def _name(self, row: Exported) -> str:
        """Rows come in the order of their paths, so two of one path are neighbours; the second gets its job's id."""
        id = row.job.id if row.job else ""
        if row.path is None:
            return safe_path(f"{sources.file_name(row.job.shown_source or '') if row.job else ''}~{id[-12:]}")
        again, self._last = row.path == self._last, row.path
        return safe_path(f"{row.path}~{id[-12:]}" if again else row.path)

    def _content(self, row: Exported, suffix: Suffix) -> bytes | None:
        if row.job is None or row.job.result is None:
            return None
        if suffix is Suffix.JSON:
            return json.dumps(_as_json(row), ensure_ascii=False, indent=1).encode()
        if suffix in (Suffix.MD, Suffix.TXT):
            return row.job.result.text.encode()
        found = next((file for file in row.files if file.name.endswith(f".{suffix}")), None)
        return self._read(found) if found else None


def _into_folder(folder: Path) -> Callable[[str, bytes], str]:
    def put(name: str, content: bytes) -> str:
        try:
            return _put(folder, name, content)
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            # A member `x` and another `x.md/y`: a name cannot be a file and a folder.
            return _put(folder, f"{_hash(name)}{PurePosixPath(name).suffix}", content)

    return put


def _put(folder: Path, name: str, content: bytes) -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return name


def _into_zip(archive: zipfile.ZipFile) -> Callable[[str, bytes], str]:
    def put(name: str, content: bytes) -> str:
        archive.writestr(name, content)
        return name

    return put


def safe_path(path: str) -> str:
    """A relative path that stays below its folder, in names that every filesystem takes.

    A path that had to be changed gets the hash of what it was, so that two never become one.
    """
    pieces = [piece for piece in path.split("/") if piece not in ("", ".")] or ["unnamed"]
    safe = [_safe_name(piece) for piece in pieces]
    changed = safe != path.split("/")
    made = str(PurePosixPath(*safe))
    return f"{made}~{_hash(path)}" if changed else made


def _hash(path: str) -> str:
    return hashlib.sha256(path.encode("utf-8", "replace")).hexdigest()[:12]


def _safe_name(piece: str) -> str:
    name = re.sub(r'[\x00-\x1f\x7f<>:"|?*\\\ud800-\udfff]', "_", piece).rstrip(". ") or "_"
    if _RESERVED.fullmatch(name):
        name = f"_{name}"
    return name.encode()[:LONGEST_NAME].decode("utf-8", "ignore")


def _as_json(row: Exported) -> dict[str, Any]:
    if row.job is not None:
        return {"path": row.path, **row.job.to_json()}
    return {"path": row.path, "id": None, "state": "skipped", "result": None, "error": _error(row)}


def _error(row: Exported) -> dict[str, Any] | None:
    return row.error.to_json() if row.error else None


def _flat(row: Exported) -> dict[str, Any]:
    """The row as the columns of a table; texts, but for the counts."""
    whole = _as_json(row)
    result, parts = whole.get("result") or {}, whole.get("parts") or {}
    flat = {name: whole.get(name) for name in (*COLUMNS, *MORE_COLUMNS)}
    flat |= {f"parts_{name}": parts.get(name) for name in ("total", "succeeded", "failed")}
    flat |= {"text": result.get("text"), "data": json.dumps(result["data"]) if result.get("data") else None}
    return flat | {
        "error_code": str(row.error.code) if row.error else None,
        "error_message": row.error.message if row.error else None,
    }
