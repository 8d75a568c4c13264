from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from pydantic import ValidationError

from domain.errors import Code, SourceError
from domain.limits import Limits
from domain.settings import Settings, origins

if TYPE_CHECKING:
    from collections.abc import Callable

SETTING = re.compile(r"NIGHTOWL_\w+")
LIMITS = Limits(max_source_bytes=1000, max_pages=7, max_image_pixels=5000, max_video_seconds=90)

CHECKS: list[tuple[Callable[[], None], Code, list[str]]] = [
    (lambda: LIMITS.check_source_bytes(1001, name="a.pdf"), Code.SOURCE_TOO_LARGE, ["a.pdf", "1001", "1000"]),
    (lambda: LIMITS.check_pages(8, name="b.pdf"), Code.TOO_MANY_PAGES, ["b.pdf", "8", "7", "pages"]),
    (
        lambda: LIMITS.check_image_pixels(100, 51, name="c.png"),
        Code.IMAGE_TOO_LARGE,
        ["c.png", "100 x 51", "5100", "5000"],
    ),
    (lambda: LIMITS.check_video_seconds(91.4, name="d.mp4"), Code.VIDEO_TOO_LONG, ["d.mp4", "91", "90"]),
]


@pytest.mark.parametrize(("check", "code", "facts"), CHECKS, ids=[str(code) for _, code, _ in CHECKS])
def test_a_check_names_what_was_found_the_limit_and_a_setting_that_exists(
    check: Callable[[], None], code: Code, facts: list[str]
) -> None:
    with pytest.raises(SourceError) as caught:
        check()
    assert caught.value.code is code
    assert not caught.value.retryable
    assert all(fact in caught.value.message for fact in facts)
    named = SETTING.findall(caught.value.message)
    assert named
    assert set(named) <= {origin.name for origin in origins(Settings())}


def test_an_empty_file_and_a_picture_without_size_are_refused() -> None:
    with pytest.raises(SourceError, match=r"a\.pdf is an empty file") as empty:
        LIMITS.check_source_bytes(0, name="a.pdf")
    assert empty.value.code is Code.SOURCE_EMPTY
    for width, height in ((0, 10), (10, 0), (-1, 5)):
        with pytest.raises(SourceError, match="zero size") as flat:
            LIMITS.check_image_pixels(width, height, name="c.png")
        assert flat.value.code is Code.IMAGE_INVALID


def test_what_is_at_the_limit_passes() -> None:
    LIMITS.check_source_bytes(1000, name="a")
    LIMITS.check_pages(7, name="a")
    LIMITS.check_image_pixels(100, 50, name="a")
    LIMITS.check_video_seconds(90.0, name="a")


@pytest.mark.parametrize("name", sorted(Limits.model_fields))
def test_a_limit_is_positive(name: str) -> None:
    for value in (0, -1):
        with pytest.raises(ValidationError, match=name):
            Limits.model_validate({name: value})
