from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from domain.limits import Limits
from worker.readers.base import Open
from worker.readers.children import Readers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from worker.readers.base import RGB

SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "dev"


@pytest.fixture(scope="session")
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip(f"the shared test files are not at {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def manifest(shared: Path) -> dict[str, dict[str, Any]]:
    files = json.loads((shared / "MANIFEST.json").read_text(encoding="utf-8"))["files"]
    return {entry["file"]: entry for entry in files}


@pytest.fixture(scope="session")
def readers() -> Iterator[Readers]:
    """Shared by the tests that leave its children whole."""
    with Readers(limits=Limits(), children=1) as readers:
        yield readers


@pytest.fixture
def open_(tmp_path: Path) -> Callable[..., Open]:
    """Writes bytes under a name and says how to open them."""

    def make(content: bytes, name: str = "file", *, password: str | None = None, **limits: Any) -> Open:
        path = tmp_path / name
        path.write_bytes(content)
        return Open(path=path, limits=Limits(**limits), password=password)

    return make


@pytest.fixture
def clip(tmp_path: Path) -> Callable[..., Open]:
    """A small MP4 of the given frames."""

    def make(frames: Sequence[RGB], *, fps: float = 10.0, name: str = "clip.mp4", **limits: Any) -> Open:
        path = tmp_path / name
        height, width = frames[0].shape[:2]
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, (width, height))
        for frame in frames:
            writer.write(np.ascontiguousarray(frame[..., ::-1]))
        writer.release()
        return Open(path=path, limits=Limits(**limits))

    return make
