from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tests.readers.blanks import BLANKS, LITTLE, little, note, printed
from worker.readers.ink import is_blank

if TYPE_CHECKING:
    from worker.readers.base import RGB


def compressed(image: RGB) -> RGB:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "jpeg", quality=50)
    return np.asarray(Image.open(file))


RANDOM = np.random.default_rng(7)


def sheet(paper: int = 255, *, noise: float = 0.0, size: tuple[int, int] = (1100, 850)) -> RGB:
    grain = RANDOM.normal(0, noise, (*size, 1)) if noise else 0.0
    return np.clip(np.full((*size, 3), float(paper)) + grain, 0, 255).astype(np.uint8)


def written(image: RGB, text: str, shade: int, *, size: int = 14) -> RGB:
    picture = Image.fromarray(image)
    ImageDraw.Draw(picture).text((200, 300), text, fill=(shade,) * 3, font_size=size)
    return np.asarray(picture)


def shaded() -> RGB:
    """The light of a lamp on one side, and the shadow of the lid along the edge."""
    image = sheet(240).astype(float) - np.linspace(0, 40, 850)[None, :, None]
    image[:, :5] = 20
    return image.astype(np.uint8)


@pytest.mark.parametrize(
    "image",
    [sheet(), sheet(225), sheet(0), sheet(250, noise=3), sheet(200, noise=6), shaded(), sheet(255, size=(5, 5))],
    ids=["white", "light grey", "black", "faint noise", "grey and noise", "uneven light", "tiny"],
)
def test_nothing_is_written_here(image: RGB) -> None:
    assert is_blank(image)


@pytest.mark.parametrize(
    "image",
    [
        written(sheet(), "7", 0),
        written(sheet(250), "a few words in faint pencil", 225, size=24),
        written(sheet(0), "white on black", 255),
        written(sheet(245, noise=4), "typed on grainy paper", 60),
        written(shaded(), "note", 30),
    ],
    ids=["page number", "faint pencil", "white on black", "grain", "uneven light"],
)
def test_something_is_written_here(image: RGB) -> None:
    assert not is_blank(image)


def test_a_smooth_picture_is_no_empty_sheet() -> None:
    ramp = np.linspace(0, 255, 600).astype(np.uint8)
    assert not is_blank(np.ascontiguousarray(np.broadcast_to(ramp[None, :, None], (400, 600, 3))))


@pytest.mark.parametrize("kind", BLANKS)
def test_an_empty_sheet_is_blank_until_something_is_written_on_it(kind: str) -> None:
    empty = BLANKS[kind]()
    assert is_blank(empty)
    assert not is_blank(note(empty))
    assert not is_blank(note(empty, "a few words", at=(300, 700), size=44, shade=150))


@pytest.mark.parametrize(("seed", "side"), [(0, 500), (1, 850), (2, 1250), (3, 2500)])
@pytest.mark.parametrize("kind", BLANKS)
def test_an_empty_sheet_is_blank_at_any_size_and_compressed(kind: str, side: int, seed: int) -> None:
    empty = BLANKS[kind](side=side, seed=seed)
    assert is_blank(empty)
    assert is_blank(compressed(empty))


@pytest.mark.parametrize(("seed", "side"), [(0, 700), (1, 1250), (2, 2500)])
@pytest.mark.parametrize("paper", ["ruled", "bleed-through", "borders and shadows"])
@pytest.mark.parametrize("kind", LITTLE)
def test_a_sheet_with_little_on_it_is_not_blank_at_any_size(kind: str, paper: str, side: int, seed: int) -> None:
    assert not is_blank(compressed(little(kind, paper=paper, side=side, seed=seed)))


@pytest.mark.parametrize("shade", [20, 225, 235])
def test_faint_print_is_no_print_from_the_other_side(shade: int) -> None:
    assert not is_blank(printed(shade))


def test_a_large_dark_thing_is_no_empty_sheet() -> None:
    image = sheet(250)
    image[400:560, 300:460] = 30
    assert not is_blank(image)
