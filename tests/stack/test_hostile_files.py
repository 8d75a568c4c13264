"""The most dangerous kinds of hostile files (tests/readers/hostile) through a real worker, which stays up and small."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from domain.states import JobState
from nightowl import Caption, Ocr
from tests.readers.hostile import OK, cases
from tests.readers.peaks import high_water

if TYPE_CHECKING:
    from pathlib import Path

    from tests.stack.conftest import Site

pytestmark = pytest.mark.stack

NAMES = (
    *("png_claims_100000x100000.png", "png_pixels_of_a_gigabyte_in_ten.png", "tiff_second_page_is_a_bomb.tif"),
    *("epub_chapter_of_a_gigabyte.epub", "cbz_of_one_bomb_under_1000_names.cbz", "svg_a_billion_laughs.svg"),
    *("pdf_picture_100000x100000.pdf", "pdf_tree_is_a_circle.pdf", "pdf_content_bomb_of_saves.pdf"),
    *("pdf_page_14400_points.pdf", "pdf_object_stream_bomb.pdf", "mp4_says_ten_years.mp4", "avi_says_65535x65535.avi"),
    "html_named_pdf.pdf",
)
WORKER_MIB = 300
"""The worker's own peak, with the fake engine: it opens no file."""


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_hostile_files_end_and_the_worker_stays_up_and_small(site: Site, tmp_path: Path) -> None:
    worker = site.start_worker(limits__read_seconds="10", readers="2", lease_seconds="30")
    files = {case.name: case for case in cases() if case.name in NAMES}
    assert sorted(files) == sorted(NAMES)
    with site.client() as client:
        jobs = {}
        for name, case in files.items():
            (tmp_path / name).write_bytes(case.make())
            kind = Caption() if name.endswith((".mp4", ".avi")) else Ocr(pages="1-3")
            jobs[name] = client.submit(kind, tmp_path / name, name=name)
        ended = {name: client.wait(job.id, timeout_seconds=240) for name, job in jobs.items()}
        good = client.wait(client.submit(Ocr(), b"An owl.", name="good.txt").id, timeout_seconds=60)
        worst = {name: {part.error.code for part in client.parts(job.id) if part.error} for name, job in ended.items()}
    assert worker.poll() is None
    assert good.state is JobState.SUCCEEDED
    for name, job in ended.items():
        codes = worst[name] | ({job.error.code} if job.error else set()) or {OK}
        assert codes <= files[name].ends | {"read_timeout"}, (name, job.state, job.error, codes)
    peak = high_water(worker.pid)
    print(f"peak of the worker: {peak:.0f} MiB")
    assert 0 < peak < WORKER_MIB
