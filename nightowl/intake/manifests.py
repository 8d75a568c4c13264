"""Lists of sources: CSV, JSON lines, Parquet, or plain lines, each with params of its own where it has them.

A row needs `source`; `name` is its path in the batch. `params` may hold an object, and every other column is a param by
its name; an empty cell says nothing.
"""

from __future__ import annotations

import csv
import io
import json
import posixpath
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from domain import sources
from domain.batches import Skipped
from domain.errors import Code, ParamsError, SetupError, SourceError
from nightowl.intake import names
from nightowl.intake.bounds import DamagedError
from nightowl.intake.references import Reference

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

LONGEST_LINE = 1024**2
ROWS_AT_ONCE = 1000
ENDINGS = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
_OWN = frozenset({"source", "name", "params"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """`folder` or `base` is where relative sources begin: the manifest's own folder or its own URL.

    `format` is csv, jsonl, parquet, or lines.
    """

    name: str
    format: str
    folder: Path | None = None
    base: str | None = None

    def rows(self, file: IO[bytes]) -> Iterator[Reference | Skipped]:
        """A bad row is skipped with its number and why. Raises SetupError where a format needs a package."""
        reader = {"csv": _csv, "jsonl": _json_lines, "parquet": _parquet, "lines": _lines}[self.format]
        number = 0
        try:
            for number, values in enumerate(reader(file), start=1):
                yield self._row(number, values)
        except (DamagedError, UnicodeDecodeError, csv.Error) as error:
            message = f"row {number + 1} cannot be read ({error}); nothing behind it was taken"
            yield Skipped(path=self.name, code=Code.ARCHIVE_DAMAGED, message=message)

    def _row(self, number: int, values: Mapping[str, Any] | ParamsError) -> Reference | Skipped:
        label = f"{self.name} row {number}"
        try:
            if isinstance(values, ParamsError):
                raise values
            return self._reference(values)
        except (ParamsError, SourceError) as error:
            return Skipped(path=label, code=error.code, message=error.message)

    def _reference(self, values: Mapping[str, Any]) -> Reference:
        source = str(values.get("source") or "").strip()
        if not source:
            raise ParamsError("it has no source")
        sources.check_source(source)
        name = str(values.get("name") or "").strip() or _label(source)
        params = _params(values)
        if self.folder is None:
            source = self._below_base(source)
        if self.folder is None or sources.is_remote(source):
            return Reference(path=names.checked(name), url=source, params=params)
        local = sources.at_home(source.removeprefix("file://"))
        return Reference(path=names.checked(name), file=self.folder / local, params=params)

    def _below_base(self, source: str) -> str:
        """The URL of a row of a remote manifest. Raises SourceError for a path of this machine: the manifest may be a
        stranger's."""
        if sources.is_remote(source):
            return source
        if sources.scheme(source) is not None or source.startswith(("/", "~")):
            raise SourceError("a manifest from elsewhere may not name files of this machine", code=Code.SOURCE_REFUSED)
        base = urlsplit(self.base or "")
        path = posixpath.normpath(posixpath.join(posixpath.dirname(base.path), source)).lstrip("/")
        return urlunsplit((base.scheme, base.netloc, f"/{path}", "", ""))


def _label(source: str) -> str:
    """What the row is called: its path or URL, made relative and without what is secret."""
    shown = sources.masked(source).removesuffix("?…").partition("://")
    pieces = [piece for piece in (shown[2] or shown[0]).replace("\\", "/").split("/") if piece not in ("", ".", "..")]
    return "/".join(pieces)


def _params(values: Mapping[str, Any]) -> dict[str, Any] | None:
    own = values.get("params")
    if isinstance(own, str) and own.strip():
        own = _parsed(own, "params")
    if own and not isinstance(own, dict):
        raise ParamsError("params is not a JSON object")
    others = {key: value for key, value in values.items() if key not in _OWN and value not in (None, "")}
    return {**(own or {}), **others} or None


def _parsed(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ParamsError(f"{what} is not valid JSON: {error}") from error


def _text_lines(file: IO[bytes]) -> Iterator[str]:
    """Lines of text, none of them endless. Raises DamagedError."""
    number = 0
    while line := file.readline(LONGEST_LINE + 1):
        number += 1
        if len(line) > LONGEST_LINE:
            raise DamagedError(f"line {number} is longer than {LONGEST_LINE} bytes")
        yield line.decode("utf-8-sig" if number == 1 else "utf-8")


def _csv(file: IO[bytes]) -> Iterator[Mapping[str, Any] | ParamsError]:
    reader = csv.DictReader(_text_lines(file))
    if "source" not in (reader.fieldnames or ()):
        raise ParamsError("the first line of a CSV manifest names its columns, and one of them is source")
    for row in reader:
        extra = row.pop(None, None)
        yield ParamsError("it has more cells than the first line") if extra else row


def _json_lines(file: IO[bytes]) -> Iterator[Mapping[str, Any] | ParamsError]:
    for line in _text_lines(file):
        if line.strip():
            yield _object(line)


def _object(line: str) -> Mapping[str, Any] | ParamsError:
    try:
        found = _parsed(line, "the line")
    except ParamsError as error:
        return error
    return found if isinstance(found, dict) else ParamsError("the line is not a JSON object")


def _lines(file: IO[bytes]) -> Iterator[Mapping[str, Any] | ParamsError]:
    """Paths and URLs, one a line, or objects where a line begins as one."""
    for line in _text_lines(file):
        text = line.strip()
        if text:
            yield _object(text) if text.startswith("{") else {"source": text}


def _parquet(file: IO[bytes]) -> Iterator[Mapping[str, Any] | ParamsError]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise SetupError("a Parquet manifest needs a package: pip install 'nightowl[parquet]'") from error
    try:
        table = ParquetFile(file if file.seekable() else io.BytesIO(file.read()))
        if "source" not in table.schema_arrow.names:
            raise ParamsError("a Parquet manifest has a column source")
        for batch in table.iter_batches(batch_size=ROWS_AT_ONCE):
            yield from batch.to_pylist()
    except ArrowException as error:
        raise DamagedError(str(error).splitlines()[0]) from error
