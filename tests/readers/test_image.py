from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from domain.errors import Code, SourceError
from tests.readers.test_scenes import textured
from worker.readers.image import Images

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.readers.base import Open, Page

    Opener = Callable[..., Open]


def saved(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def corner(mode: str = "RGB", size: tuple[int, int] = (40, 20)) -> Image.Image:
    """White, with a black block at the top left."""
    image = Image.new("RGB", size, "white")
    ImageDraw.Draw(image).rectangle((0, 0, 9, 4), fill="black")
    return image.convert(mode)


def read(source: Open, number: int = 1, *, format: str, target_pixels: int = 1000) -> Page:
    return Images().page(source, number, target_pixels=target_pixels, format=format)


@pytest.mark.parametrize("format", ["png", "jpeg", "tiff", "webp", "bmp", "gif"])
def test_each_format_is_read(open_: Opener, format: str) -> None:
    source = open_(saved(corner(), format))
    probe = Images().probe(source, format=format)
    assert (probe.pages, probe.width, probe.height, probe.warnings) == (1, 40, 20, ())
    page = read(source, format=format)
    assert (page.image.shape, page.scale, page.rotation, page.layer) == ((20, 40, 3), 1.0, 0, None)
    assert page.image[2, 4].max() < 40
    assert page.image[15, 30].min() > 215
    assert page.image.flags.c_contiguous
    assert not page.blank


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["jpeg", "png"])
def test_exif_says_which_way_is_up(open_: Opener, orientation: int, format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    page = read(open_(saved(corner(), format, exif=exif)), format=format)
    turned = orientation >= 5
    assert page.image.shape == ((40, 20, 3) if turned else (20, 40, 3))
    row = 2 if orientation in {1, 2, 5, 6} else -3
    column = 2 if orientation in {1, 4, 5, 8} else -3
    if orientation in {6, 8}:  # turned by a quarter: rows and columns change places
        row, column = (2, -3) if orientation == 6 else (-3, 2)
    assert page.image[row, column].max() < 60
    assert (page.image < 60).all(axis=2).sum() == pytest.approx(50, abs=15)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "LA", "CMYK"])
def test_modes_keep_black_black_and_white_white(open_: Opener, mode: str) -> None:
    format = "tiff" if mode == "CMYK" else "png"
    page = read(open_(saved(corner(mode), format)), format=format)
    assert page.image[2, 4].max() < 60
    assert page.image[15, 30].min() > 215


def test_cmyk_jpegs_are_not_inverted(open_: Opener) -> None:
    page = read(open_(saved(corner("CMYK"), "jpeg", quality=95)), format="jpeg")
    assert page.image[2, 4].max() < 60 < 200 < page.image[15, 30].min()


def test_transparency_lies_on_white(open_: Opener) -> None:
    clear = Image.new("RGBA", (40, 20), (0, 0, 0, 0))
    ImageDraw.Draw(clear).rectangle((0, 0, 9, 4), fill=(0, 0, 0, 255))
    page = read(open_(saved(clear, "png")), format="png")
    assert page.image[15, 30].min() == 255
    assert page.image[2, 4].max() == 0


@pytest.mark.parametrize(("top", "grey"), [(65535, 128), (4095, 128)])
def test_sixteen_bits_are_scaled_not_clipped(open_: Opener, top: int, grey: int) -> None:
    values = np.full((20, 40), top, np.uint16)
    values[:10] = top // 2
    page = read(open_(saved(Image.fromarray(values), "png")), format="png")
    assert page.image[15, 5].min() == 255
    assert page.image[5, 5].min() == pytest.approx(grey, abs=1)


def test_large_pictures_shrink_and_small_ones_stay(open_: Opener) -> None:
    big = Image.fromarray(textured(1)).resize((1280, 720))
    for format in ("png", "jpeg"):
        page = read(open_(saved(big, format)), format=format, target_pixels=300)
        assert page.image.shape == (168, 300, 3)
        assert (page.width_points, page.height_points) == (1280, 720)
        assert page.scale == pytest.approx(300 / 1280)
        small = np.asarray(big.resize((300, 168)), dtype=float)
        assert np.abs(page.image - small).mean() < 6
    assert read(open_(saved(big, "png"), max_page_pixels=10_000), format="png").image.size <= 30_000


def test_every_page_of_a_tiff_and_the_first_frame_of_an_animation(open_: Opener) -> None:
    frames = [Image.fromarray(textured(seed)) for seed in (1, 2, 3)]
    tiff = open_(saved(frames[0], "tiff", save_all=True, append_images=frames[1:]), "x.tiff")
    assert Images().probe(tiff, format="tiff").pages == 3
    assert np.array_equal(read(tiff, 3, format="tiff").image, textured(3))
    with pytest.raises(SourceError, match="has no page 4"):
        read(tiff, 4, format="tiff")
    for format in ("gif", "webp"):
        moving = open_(saved(frames[0], format, save_all=True, append_images=frames[1:]), f"x.{format}")
        probe = Images().probe(moving, format=format)
        assert probe.pages == 1
        assert probe.warnings == (f"the {format} is animated (3 frames); only the first is read",)
        assert np.abs(read(moving, format=format).image.astype(int) - textured(1)).mean() < 25


def test_a_picture_over_the_limit_is_refused_by_its_header(open_: Opener) -> None:
    source = open_(saved(Image.new("1", (2000, 2000)), "png"), max_image_pixels=3_999_999)
    with pytest.raises(SourceError, match=r"2000 x 2000 = 4000000 pixels") as caught:
        Images().probe(source, format="png")
    assert caught.value.code == Code.IMAGE_TOO_LARGE


def test_damage_is_named(open_: Opener) -> None:
    picture = Image.fromarray(textured(1))
    jpeg, png = saved(picture, "jpeg"), bytearray(saved(picture, "png"))
    png[len(png) // 2] ^= 0xFF
    for content, format in ((jpeg[: len(jpeg) // 2], "jpeg"), (bytes(png), "png"), (bytes(png[:60]), "png")):
        with pytest.raises(SourceError, match=f"damaged or truncated {format.upper()}") as caught:
            read(open_(content), format=format)
        assert caught.value.code == Code.SOURCE_DAMAGED
    with pytest.raises(SourceError, match="damaged or truncated JPEG"):
        Images().probe(open_(b"\xff\xd8\xff\xe0 and no more"), format="jpeg")


def test_zero_size_and_one_pixel(open_: Opener) -> None:
    png = bytearray(saved(Image.new("L", (1, 1)), "png"))
    page = read(open_(bytes(png)), format="png")
    assert page.image.shape == (1, 1, 3)
    assert page.blank
    png[16:24] = bytes(8)
    with pytest.raises(SourceError, match="zero size") as caught:
        Images().probe(open_(bytes(png)), format="png")
    assert caught.value.code == Code.IMAGE_INVALID
