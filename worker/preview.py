"""`python -m worker.preview FOLDER`: small pictures of sources, for reports. Run as a process of its own, so that what
asks for them needs no decoder.

Reads JSON lines {"number", "source", "password"} and answers each with {"number", "files": […], "error"}: JPEGs in
FOLDER of the first pages of a document, or of frames spread over a video. Limits are those of the settings.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from domain.errors import NightowlError
from domain.settings import Settings
from worker.readers.base import Media, Open, Segment
from worker.readers.children import Readers

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from worker.readers.base import RGB

PICTURES = 4
SIDE = 900
"""Longer side of a page's picture, in pixels; pictures of frames are half of it."""
QUALITY = 70


def main() -> int:
    folder = Path(sys.argv[1])
    settings = Settings()
    with Readers(limits=settings.limits, children=1) as readers:
        for line in sys.stdin:
            sys.stdout.write(json.dumps(_answer(json.loads(line), readers, settings, folder)) + "\n")
            sys.stdout.flush()
    return 0


def _answer(wanted: Mapping[str, Any], readers: Readers, settings: Settings, folder: Path) -> dict[str, Any]:
    number = int(wanted["number"])
    source = Open(path=Path(wanted["source"]), limits=settings.limits, password=wanted.get("password"))
    files: list[str] = []
    try:
        for picture in pictures(readers, source):
            name = f"{number:05}-{len(files) + 1}.jpg"
            Image.fromarray(picture).save(folder / name, quality=QUALITY, optimize=True)
            files.append(name)
    except NightowlError as error:
        return {"number": number, "files": files, "error": error.message}
    return {"number": number, "files": files, "error": None}


def pictures(readers: Readers, source: Open) -> Iterator[RGB]:
    """Raises NightowlError."""
    probe = readers.probe(source)
    if probe.media is Media.VIDEO:
        whole = Segment(number=1, start=0.0, end=probe.duration_seconds)
        yield from readers.frames(source, whole, count=PICTURES, max_side=SIDE // 2).images
        return
    for page in range(1, min(probe.pages, PICTURES) + 1):
        yield readers.page(source, page, target_pixels=SIDE).image


if __name__ == "__main__":
    sys.exit(main())
