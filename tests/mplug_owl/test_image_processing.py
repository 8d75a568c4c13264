"""Pictures become the pixels of each variant, exactly as a plain computation with PIL makes them."""

from __future__ import annotations

import io
import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mplug_owl.checkpoint import CheckpointError
from mplug_owl.image_processing import CLIP_MEAN, CLIP_STD, MplugOwlImageProcessor

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

S = 28
SQUEEZING = MplugOwlImageProcessor(size=S)
CROPPING = MplugOwlImageProcessor(size=S, keep_aspect_ratio=True)
# As small as the published one: all else comes from the class.
MINIMAL = {"crop_size": 56, "do_center_crop": True, "feature_extractor_type": "CLIPFeatureExtractor", "size": 56}


def noise(width: int, height: int, *, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """A picture in which every pixel differs from its neighbours, and its transparency too."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 4), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode) if mode != "RGBA" else Image.fromarray(pixels)


def normalized(picture: Image.Image) -> npt.NDArray[np.float64]:
    """(3, height, width), in float64."""
    rgb = np.asarray(picture.convert("RGB"), dtype=np.float64) / 255
    return ((rgb - CLIP_MEAN) / CLIP_STD).transpose(2, 0, 1)


def pixels(processor: MplugOwlImageProcessor, images: Any) -> npt.NDArray[np.float32]:
    made: npt.NDArray[np.float32] = processor(images, return_tensors="np")["pixel_values"]
    return made


def write(folder: Path, **content: Any) -> Path:
    (folder / "preprocessor_config.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK"])
def test_the_image_variant_squeezes_in_the_picture_s_own_mode(mode: str) -> None:
    picture = noise(97, 61, mode=mode)
    wanted = normalized(picture.resize((S, S), Image.Resampling.BICUBIC))
    np.testing.assert_allclose(SQUEEZING.preprocess_one(picture), wanted, atol=1e-6)


def test_the_mode_makes_a_difference() -> None:
    picture = noise(97, 61, mode="RGBA")
    assert np.abs(SQUEEZING.preprocess_one(picture) - SQUEEZING.preprocess_one(picture.convert("RGB"))).max() > 0.5


@pytest.mark.parametrize(("width", "height"), [(97, 61), (61, 97), (28, 28), (10, 300), (29, 28)])
def test_the_video_variant_takes_the_middle(width: int, height: int) -> None:
    picture = noise(width, height)
    longer = int(S * max(width, height) / min(width, height))
    across, down = (S, longer) if width <= height else (longer, S)
    resized = picture.resize((across, down), Image.Resampling.BICUBIC)
    left, top = (across - S) // 2, (down - S) // 2
    wanted = normalized(resized)[:, top : top + S, left : left + S]
    np.testing.assert_allclose(CROPPING.preprocess_one(picture), wanted, atol=1e-6)


def test_the_video_variant_makes_it_rgb_first() -> None:
    picture = noise(97, 61, mode="P")
    np.testing.assert_array_equal(CROPPING.preprocess_one(picture), CROPPING.preprocess_one(picture.convert("RGB")))


def test_a_square_is_the_same_in_both() -> None:
    picture = noise(50, 50)
    np.testing.assert_array_equal(SQUEEZING.preprocess_one(picture), CROPPING.preprocess_one(picture))


def test_a_crop_smaller_than_the_size_is_taken_from_the_middle() -> None:
    processor = MplugOwlImageProcessor(size=S, crop_size=20)
    np.testing.assert_array_equal(
        processor.preprocess_one(noise(50, 40)), SQUEEZING.preprocess_one(noise(50, 40))[:, 4:24, 4:24]
    )


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
@pytest.mark.parametrize("convert", [np.asarray, lambda picture: torch.from_numpy(np.array(picture))])
def test_arrays_and_tensors_are_as_good_as_pictures(mode: str, convert: Callable[[Image.Image], object]) -> None:
    picture = noise(97, 61, mode=mode)
    np.testing.assert_array_equal(SQUEEZING.preprocess_one(convert(picture)), SQUEEZING.preprocess_one(picture))


def test_an_array_of_one_channel_is_grey() -> None:
    picture = noise(97, 61, mode="L")
    np.testing.assert_array_equal(
        SQUEEZING.preprocess_one(np.asarray(picture)[..., None]), SQUEEZING.preprocess_one(picture)
    )


@given(
    width=st.integers(1, 120),
    height=st.integers(1, 120),
    mode=st.sampled_from(["RGB", "RGBA", "L", "P", "1"]),
    keep=st.booleans(),
)
def test_any_shape_becomes_a_square_of_floats(width: int, height: int, mode: str, keep: bool) -> None:
    made = (CROPPING if keep else SQUEEZING).preprocess_one(noise(width, height, mode=mode))
    assert made.shape == (3, S, S)
    assert made.dtype == np.float32
    assert made.flags.writeable and made.flags.c_contiguous
    low, high = (0 - np.array(CLIP_MEAN)) / CLIP_STD, (1 - np.array(CLIP_MEAN)) / CLIP_STD
    assert (made >= low[:, None, None] - 1e-6).all() and (made <= high[:, None, None] + 1e-6).all()


def test_many_are_as_each_alone_in_their_order() -> None:
    pictures = [noise(40 + number, 60 - number, seed=number) for number in range(4)]
    made = pixels(SQUEEZING, pictures)
    assert made.shape == (4, 3, S, S)
    np.testing.assert_array_equal(made, np.stack([SQUEEZING.preprocess_one(picture) for picture in pictures]))


def test_one_picture_or_an_array_of_several_may_be_given_without_a_list() -> None:
    picture = noise(40, 30)
    stacked = np.stack([np.asarray(picture)] * 2)
    np.testing.assert_array_equal(pixels(SQUEEZING, picture), pixels(SQUEEZING, [picture]))
    np.testing.assert_array_equal(pixels(SQUEEZING, stacked), pixels(SQUEEZING, [picture, picture]))


def test_tensors_are_made_on_demand() -> None:
    made = SQUEEZING(noise(40, 30), return_tensors="pt")["pixel_values"]
    assert made.dtype == torch.float32
    assert made.shape == (1, 3, S, S)


def test_threads_share_one_processor() -> None:
    pictures = [noise(200 + number, 150, seed=number) for number in range(24)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(SQUEEZING.preprocess_one, pictures))
    np.testing.assert_array_equal(np.stack(together), pixels(SQUEEZING, pictures))


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ("page.png", "a str"),
        (None, "a NoneType"),
        (b"...", "a bytes"),
        (np.zeros((3, 40, 30), np.uint8), "an array of uint8, (3, 40, 30)"),
        (np.zeros((40, 30, 3), np.float32), "an array of float32, (40, 30, 3)"),
        (torch.zeros(2, 2, 2, 2, dtype=torch.uint8), "an array of uint8, (2, 2, 2, 2)"),
    ],
)
def test_what_is_no_picture_is_named_with_its_place(image: Any, said: str) -> None:
    with pytest.raises(TypeError) as raised:
        SQUEEZING([noise(40, 30), image])
    assert "images[1]" in str(raised.value)
    assert said in str(raised.value)


def test_a_damaged_file_is_named_with_its_place() -> None:
    file = io.BytesIO()
    noise(60, 60).save(file, "PNG")
    damaged = Image.open(io.BytesIO(file.getvalue()[:2000]))
    with pytest.raises(ValueError, match=r"images\[1\] \(RGB, 60 x 60 pixels\)"):
        SQUEEZING([noise(40, 30), damaged])


def test_no_pictures_are_an_error() -> None:
    with pytest.raises(ValueError, match="images is empty"):
        SQUEEZING([])


def test_a_hair_is_refused_where_it_would_fill_the_memory() -> None:
    hair = Image.new("L", (1, 100_000))
    with pytest.raises(ValueError, match=r"28 x 2800000 pixels .*cut"):
        CROPPING.preprocess_one(hair)
    assert SQUEEZING.preprocess_one(hair).shape == (3, S, S)


@pytest.mark.parametrize("processor", [SQUEEZING, CROPPING])
def test_a_picture_without_pixels_is_refused(processor: MplugOwlImageProcessor) -> None:
    with pytest.raises(ValueError, match=r"image \(RGB, 0 x 5 pixels\): it has no pixels"):
        processor.preprocess_one(Image.new("RGB", (0, 5)))


@pytest.mark.parametrize(
    ("size", "crop"),
    [(56, None), (56, 56), ({"shortest_edge": 56}, {"height": 56, "width": 56}), ([56, 56], None)],
)
def test_a_size_may_be_written_in_old_and_new_style(tmp_path: Path, size: object, crop: object) -> None:
    processor = MplugOwlImageProcessor.from_pretrained(write(tmp_path, size=size, crop_size=crop))
    assert processor.size == {"shortest_edge": 56}
    assert processor.crop_size == {"height": 56, "width": 56}


def test_a_minimal_file_is_filled_with_the_published_settings(tmp_path: Path) -> None:
    processor = MplugOwlImageProcessor.from_pretrained(write(tmp_path, **MINIMAL))
    picture = noise(97, 61)
    np.testing.assert_array_equal(
        processor.preprocess_one(picture), MplugOwlImageProcessor(size=56).preprocess_one(picture)
    )


def test_the_published_size_is_the_default(tmp_path: Path) -> None:
    processor = MplugOwlImageProcessor.from_pretrained(write(tmp_path, do_resize=True))
    assert processor.preprocess_one(noise(40, 30)).shape == (3, 224, 224)


def test_a_size_that_the_file_omits_is_the_encoder_s(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"vision_config": {"image_size": 42}}))
    assert MplugOwlImageProcessor.from_pretrained(tmp_path).size == {"shortest_edge": 42}
    assert MplugOwlImageProcessor.from_pretrained(write(tmp_path)).size == {"shortest_edge": 42}


def test_other_keys_are_kept(tmp_path: Path) -> None:
    processor = MplugOwlImageProcessor.from_pretrained(write(tmp_path, **MINIMAL, note="kept"))
    processor.save_pretrained(tmp_path / "again")
    saved = json.loads((tmp_path / "again" / "preprocessor_config.json").read_text())
    assert saved["note"] == "kept"


@pytest.mark.parametrize("step", ["do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb"])
def test_no_step_can_be_switched_off(tmp_path: Path, step: str) -> None:
    with pytest.raises(ValueError, match=f"{step} = false"):
        MplugOwlImageProcessor.from_pretrained(write(tmp_path, **{step: False}))


@pytest.mark.parametrize("size", [{"height": 56, "width": 28}, 0, -1, [], {"shortest_edge": None}, "224"])
def test_a_size_that_is_no_square_is_refused(size: Any) -> None:
    with pytest.raises(ValueError, match="one positive number is needed"):
        MplugOwlImageProcessor(size=size)


def test_a_crop_beyond_the_size_is_refused() -> None:
    with pytest.raises(ValueError, match="crop_size 30 is larger than size 28"):
        MplugOwlImageProcessor(size=S, crop_size=30)


def test_it_saves_what_the_original_reads_and_loads_it_again(tmp_path: Path) -> None:
    CROPPING.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert saved.pop("keep_aspect_ratio") is True
    assert saved == {
        "crop_size": {"height": S, "width": S},
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": list(CLIP_MEAN),
        "image_processor_type": "MplugOwlImageProcessor",
        "image_std": list(CLIP_STD),
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"shortest_edge": S},
    }
    again = MplugOwlImageProcessor.from_pretrained(tmp_path)
    np.testing.assert_array_equal(again.preprocess_one(noise(97, 61)), CROPPING.preprocess_one(noise(97, 61)))


@pytest.mark.parametrize(("variant", "keep"), [("image", False), ("video", True)])
def test_the_weights_tell_the_variant(tiny: Callable[..., Path], variant: str, keep: bool) -> None:
    folder = tiny(variant)
    assert MplugOwlImageProcessor.from_pretrained(folder).keep_aspect_ratio is keep
    assert MplugOwlImageProcessor.from_pretrained(folder / "preprocessor_config.json").keep_aspect_ratio is keep


def test_without_weights_the_config_tells_the_variant(tmp_path: Path) -> None:
    assert MplugOwlImageProcessor.from_pretrained(write(tmp_path)).keep_aspect_ratio is False
    (tmp_path / "config.json").write_text(json.dumps({"has_temporal": True}))
    assert MplugOwlImageProcessor.from_pretrained(tmp_path).keep_aspect_ratio is True


def test_the_variant_may_be_given(tiny: Callable[..., Path]) -> None:
    assert MplugOwlImageProcessor.from_pretrained(tiny("image"), keep_aspect_ratio=True).keep_aspect_ratio is True


def test_broken_weights_are_not_guessed_about(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        MplugOwlImageProcessor.from_pretrained(write(tmp_path))


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_broken_config_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"config\.json"):
        MplugOwlImageProcessor.from_pretrained(write(tmp_path))


def test_bytes_become_the_numbers_of_the_formula() -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    made = MplugOwlImageProcessor(size=16).preprocess_one(np.stack([ramp] * 3, axis=-1))
    for channel in range(3):
        wanted = [(byte / 255 - CLIP_MEAN[channel]) / CLIP_STD[channel] for byte in range(256)]
        np.testing.assert_allclose(made[channel].reshape(-1), wanted, atol=1e-6)
