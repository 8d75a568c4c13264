"""Reading a data set. docs/evaluation.md describes the formats.

* JSON Lines or CSV: `source`, and `reference` or `references`, `name`, `group`, `params`.
* a JSON object with `files`, each with `file`, and `ground_truth`, `text_layer`, `ground_truth_md` or `description`.
* Youku-mPLUG: CSV with a column `video_id:FILE` or `clip_name:FILE`, or JSON Lines with `video_id` or `clip_name`.
* OwlEval: a folder with questions.jsonl, or that file (owleval.py).
"""

from __future__ import annotations

import ast
import csv
import json
from typing import TYPE_CHECKING, Any

from domain.errors import ParamsError
from domain.kinds import Kind
from domain.params import check_params
from domain.sources import scheme
from nightowl.evaluation import owleval, texts
from nightowl.evaluation.items import Item, Task

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

Row = dict[str, Any]
KEYS = {"source", "reference", "references", "name", "group", "params", "caseless"}
KIND = {Task.OCR: Kind.OCR, Task.SUMMARIZE: Kind.SUMMARIZE, Task.CAPTION: Kind.CAPTION}
MEDIA = {
    Task.OCR: ("pdf_born_digital", "pdf_scanned", "image"),
    Task.SUMMARIZE: ("pdf_born_digital", "pdf_scanned"),
    Task.CAPTION: ("video",),
}
"""Which files of a manifest of files a task is about."""
VIDEO_KEYS = ("video_id:FILE", "clip_name:FILE", "video_id", "clip_name")
CATEGORY_QUESTION = (
    "A video is called “{title}”. Which of these categories fits it best? Answer with the category alone.\n{names}"
)


def read(task: Task, path: Path, *, params: Mapping[str, Any], media: Path | None = None) -> list[Item]:
    """The items of a data set. `media` is the folder that its files are in; that of the manifest by default.

    Raises:
        ParamsError: the manifest cannot be read, or does not fit the task; the message names the line.
    """
    if task is Task.OWLEVAL:
        return owleval.read(path, params=params, media=media)
    if path.is_dir():
        path = path / "MANIFEST.json"
    rows, files = _rows(path)
    folder = media or path.parent
    if files:
        return _of_files(task, rows, folder, params)
    if rows and any(key in rows[0] for key in VIDEO_KEYS):
        return _of_videos(task, rows, folder, params, where=path)
    return [_of_row(task, row, number, folder, params, where=path) for number, row in enumerate(rows, start=1)]


def _rows(path: Path) -> tuple[list[Row], bool]:
    """The rows, and whether they are the files of a manifest of files."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path} cannot be read: {getattr(error, 'strerror', None) or 'not UTF-8'}") from error
    if path.suffix.lower() == ".csv":
        return [dict(row) for row in csv.DictReader(text.splitlines())], False
    if path.suffix.lower() == ".json":
        whole = _json(text, path)
        if not isinstance(whole, dict) or not isinstance(whole.get("files"), list):
            raise ParamsError(f"{path}: not an object with a list `files`")
        return whole["files"], True
    lines = [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    return [_object(_json(line, path, number), path, number) for number, line in lines], False


def _json(text: str, path: Path, number: int | None = None) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ParamsError(f"{path}{_line(number)}: not JSON: {error}") from error


def _object(value: Any, path: Path, number: int) -> Row:
    if not isinstance(value, dict):
        raise ParamsError(f"{path}{_line(number)}: not a JSON object")
    return value


def _line(number: int | None) -> str:
    return "" if number is None else f", line {number}"


def _of_row(task: Task, row: Row, number: int, folder: Path, params: Mapping[str, Any], *, where: Path) -> Item:
    """An item of the documented JSON Lines and CSV."""
    if unknown := sorted(set(row) - KEYS):
        raise ParamsError(f"{where}, row {number}: unknown key {unknown[0]!r}; known are {', '.join(sorted(KEYS))}")
    if not row.get("source"):
        raise ParamsError(f"{where}, row {number}: no source")
    own = row.get("params") or {}
    own = _json(own, where, number) if isinstance(own, str) else own
    found = row.get("references") or row.get("reference") or ()
    labels = {name: row[name] for name in ("group", "caseless") if row.get(name)}
    return Item(
        number=number,
        name=row.get("name") or str(row["source"]),
        source=_place(str(row["source"]), folder),
        params=_params(task, {**own, **params}),
        references=tuple(_text(one, folder, task) for one in _list(found)),
        labels=labels,
    )


def _list(value: Any) -> Sequence[str]:
    """A text, a list of texts, or a list written as Python or JSON writes it (in a CSV)."""
    if isinstance(value, str) and value.startswith("[") and value.endswith("]"):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            return (value,)
    return [str(one) for one in value] if isinstance(value, (list, tuple)) else (str(value),)


def _text(reference: str, folder: Path, task: Task) -> str:
    """The text itself, or that of the file `@name`."""
    if not reference.startswith("@"):
        return reference
    return reference_file(folder / reference[1:], plain=task is Task.OCR)


def reference_file(path: Path, *, plain: bool) -> str:
    """The text of a reference. With `plain`, Markdown (.md) becomes its words, and marks between pages go."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ParamsError(f"the reference {path} cannot be read") from error
    if not plain:
        return text
    return texts.without_markdown(text) if path.suffix == ".md" else texts.without_page_marks(text)


def _of_files(task: Task, rows: Sequence[Row], folder: Path, params: Mapping[str, Any]) -> list[Item]:
    """The files of a manifest that the task is about and that have something to be held against."""
    items: list[Item] = []
    for row in rows:
        if row.get("kind") not in MEDIA[task]:
            continue
        references, kind_of_reference = _truth(task, row, folder)
        if task is not Task.SUMMARIZE and not references:
            continue
        labels = {"group": row["kind"], "reference": kind_of_reference, "on_screen": row.get("text_on_screen")}
        caseless = "case-insensitive" in str((row.get("ground_truth") or {}).get("origin"))
        items.append(
            Item(
                number=len(items) + 1,
                name=row["file"],
                source=_place(row["file"], folder),
                params=_params(task, params),
                references=references,
                labels={name: value for name, value in {**labels, "caseless": caseless}.items() if value},
            )
        )
    return items


def _truth(task: Task, row: Row, folder: Path) -> tuple[tuple[str, ...], str | None]:
    """What a file should give, and where that is from. A text layer with known faults is the last choice."""
    if task is Task.CAPTION:
        return ((row["description"],), "description") if row.get("description") else ((), None)
    if task is Task.SUMMARIZE:
        return (), None
    layer_last = ("ground_truth", "ground_truth_md", "text_layer")
    names = layer_last if row.get("textlayer_note") else ("ground_truth", "text_layer", "ground_truth_md")
    for name in names:
        if found := row.get(name):
            return (reference_file(folder / found["file"], plain=True),), name
    return (), None


def _of_videos(task: Task, rows: Sequence[Row], folder: Path, params: Mapping[str, Any], *, where: Path) -> list[Item]:
    """Youku-mPLUG: captioning, category prediction or retrieval, by the columns that there are."""
    if task is not Task.CAPTION:
        raise ParamsError(f"{where} is a list of videos (Youku-mPLUG); evaluate it with `nightowl eval caption`")
    names = sorted({str(row["label"]) for row in rows if row.get("label")})
    return [_of_video(row, number, folder, params, names) for number, row in enumerate(rows, start=1)]


def _of_video(row: Row, number: int, folder: Path, params: Mapping[str, Any], names: Sequence[str]) -> Item:
    name = str(next(row[key] for key in VIDEO_KEYS if row.get(key)))
    source = _place(name, folder)
    if names:
        question = CATEGORY_QUESTION.format(title=row.get("title") or "", names=", ".join(names))
        asked = check_params(Kind.ASK, {"question": question})
        labels = {"youku": "category", "category": row.get("label"), "categories": list(names)}
        return Item(number=number, name=name, source=source, params=asked, labels=labels)
    youku = "retrieval" if any(key.startswith("clip_name") and row.get(key) for key in VIDEO_KEYS) else "caption"
    found = row.get("golden_caption") or row.get("caption") or ()
    return Item(
        number=number,
        name=name,
        source=source,
        params=_params(Task.CAPTION, {"language": "zh", **params}),
        references=tuple(one for one in _list(found) if one),
        labels={"youku": youku},
    )


def _place(source: str, folder: Path) -> str:
    """A URL as it is, a path from the manifest's folder. Youku-mPLUG also lists videos without their suffix."""
    if scheme(source):
        return source
    path = folder / source
    if not path.suffix and not path.exists():
        path = next(
            (path.with_suffix(suffix) for suffix in (".mp4", ".avi", ".flv") if path.with_suffix(suffix).exists()), path
        )
    return str(path.absolute())


def _params(task: Task, values: Mapping[str, Any]) -> Any:
    kind = KIND[task]
    defaults = {"output": "text"} if kind is Kind.OCR else {}
    return check_params(kind, {**defaults, **values})


def narrow(items: Iterable[Item], *, only: str | None, limit: int | None) -> list[Item]:
    """The items whose name has `only` in it, at most `limit`; with them what their conversations begin with."""
    found = list(items)
    chosen = [item for item in found if not only or only in item.name][:limit]
    wanted = {item.number for item in chosen}
    for item in sorted(chosen, key=lambda item: -item.number):
        while item.after is not None and item.after not in wanted:
            wanted.add(item.after)
            item = next(one for one in found if one.number == item.after)
    return [item for item in found if item.number in wanted]
