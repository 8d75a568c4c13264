"""Folders and patterns of this machine, walked without ever holding a listing."""

from __future__ import annotations

import glob
import os
from pathlib import Path
from typing import TYPE_CHECKING

from domain.batches import Skipped
from domain.errors import Code
from nightowl.intake import names
from nightowl.intake.names import RefusedNameError
from nightowl.intake.references import Reference

if TYPE_CHECKING:
    from collections.abc import Iterator


def walk(folder: Path, *, prefix: str) -> Iterator[Reference | Skipped]:
    """Every file below the folder, in the order of the file system. Links are not followed."""
    open_folders = [(prefix, os.scandir(folder))]
    while open_folders:
        where, entries = open_folders[-1]
        entry = next(entries, None)
        if entry is None:
            entries.close()
            open_folders.pop()
        elif entry.is_dir(follow_symlinks=False):
            try:
                open_folders.append((f"{where}{entry.name}/", os.scandir(entry.path)))
            except OSError as error:
                yield _unreadable(f"{where}{entry.name}", error)
        else:
            yield _file(where + entry.name, entry)


def _file(path: str, entry: os.DirEntry[str]) -> Reference | Skipped:
    if entry.is_symlink():
        return Skipped(path=names.shown(path), code=Code.LINK_REFUSED, message="it is a link")
    if not entry.is_file(follow_symlinks=False):
        return Skipped(path=names.shown(path), code=Code.LINK_REFUSED, message="it is a device or a pipe")
    return _named(path, Path(entry.path))


def _named(path: str, file: Path) -> Reference | Skipped:
    try:
        return Reference(path=names.checked(path), file=file)
    except RefusedNameError as error:
        return Skipped(path=names.shown(path), code=error.code, message=error.message)


def match(pattern: str, *, prefix: str) -> Iterator[Reference | Skipped]:
    """The files that a pattern names; `**` goes through folders. Paths begin behind the part without wildcards."""
    fixed = Path(pattern)
    while glob.has_magic(str(fixed)):
        fixed = fixed.parent
    for file in fixed.glob(str(Path(pattern).relative_to(fixed))):
        path = prefix + str(file.relative_to(fixed))
        if file.is_symlink():
            yield Skipped(path=names.shown(path), code=Code.LINK_REFUSED, message="it is a link")
        elif file.is_file():
            yield _named(path, file)


def _unreadable(path: str, error: OSError) -> Skipped:
    message = f"it cannot be read: {error.strerror or error}"
    return Skipped(path=names.shown(path), code=Code.SOURCE_MISSING, message=message)
