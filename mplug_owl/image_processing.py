"""Pictures for the vision encoder: a square of S x S pixels, normalized as CLIP's are. PIL and numpy only.

The two variants of the model saw differently shaped pictures in training, so the same file gives different pixels:

* the image variant squeezes a picture to S x S whatever its shape, in the picture's own mode, and makes it RGB only
  then. Palettes are therefore resized by nearest neighbour, and transparent pixels weigh by their alpha, which is
  dropped afterwards without a background;
* the video variant makes it RGB, brings the shorter edge to S, and takes the square in the middle.

PIL resizes: a tensor's bicubic rounds differently, and the checkpoints were trained with PIL's.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from transformers import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor
from transformers.processing_utils import ImagesKwargs

from mplug_owl import checkpoint, weights

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

Pixels: TypeAlias = npt.NDArray[np.float32]
"""A picture as the model takes it: (3, S, S)."""

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
PUBLISHED_SIZE = 224

_FILE, _CONFIG = "preprocessor_config.json", "config.json"
# Steps that a preprocessor_config.json could switch off. The model was never trained without them.
_STEPS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb")
# A line of one pixel by a million would be resized to 224 x 224 million before the middle is taken.
_MAX_PIXELS = 64_000_000


class MplugOwlImagesKwargs(ImagesKwargs, total=False):
    """What `from_pretrained` may override."""

    keep_aspect_ratio: bool


class MplugOwlImageProcessor(BaseImageProcessor):
    """Makes `pixel_values` (n, 3, S, S), float32, of n pictures.

    A picture is a PIL image, or a uint8 array or tensor (height, width, 3); (height, width) and (height, width, 1) are
    taken for grey, (height, width, 4) for RGBA.

    Args:
        size: S, as `224` or `{"shortest_edge": 224}`, the two ways in which preprocessor_config.json has it.
        crop_size: what is kept in the middle, as `224` or `{"height": 224, "width": 224}`; S unless said otherwise.
        keep_aspect_ratio: the geometry of the video variant. `from_pretrained` finds it in the checkpoint.
        resample: how the video variant resizes; the image variant is always bicubic.
        others: any other key of preprocessor_config.json, kept and saved again.

    Raises:
        ValueError: a size that is no square, a crop larger than it, or a step switched off.
    """

    valid_kwargs = MplugOwlImagesKwargs
    model_input_names = ["pixel_values"]  # noqa: RUF012  # as the base class declares it

    def __init__(
        self,
        *,
        size: int | Mapping[str, int] | Sequence[int] | None = None,
        crop_size: int | Mapping[str, int] | Sequence[int] | None = None,
        keep_aspect_ratio: bool = False,
        resample: int | None = None,
        rescale_factor: float | None = None,
        image_mean: Sequence[float] | None = None,
        image_std: Sequence[float] | None = None,
        **others: Any,
    ) -> None:
        off = [step for step in _STEPS if others.pop(step, None) is False]
        if off:
            raise ValueError(f"{', '.join(off)} = false: mPLUG-Owl needs every one of {', '.join(_STEPS)}")
        others.pop("image_processor_type", None)
        others.update(dict.fromkeys(_STEPS, True))
        super().__init__(**others)
        side = _side(PUBLISHED_SIZE if size is None else size, "size")
        kept = _side(side if crop_size is None else crop_size, "crop_size")
        if kept > side:
            raise ValueError(f"crop_size {kept} is larger than size {side}: nothing is there to fill it")
        self.size = {"shortest_edge": side}
        self.crop_size = {"height": kept, "width": kept}
        self.keep_aspect_ratio = keep_aspect_ratio
        self.resample = int(Image.Resampling(Image.Resampling.BICUBIC if resample is None else resample))
        self.rescale_factor = 1 / 255 if rescale_factor is None else rescale_factor
        self.image_mean = list(CLIP_MEAN if image_mean is None else image_mean)
        self.image_std = list(CLIP_STD if image_std is None else image_std)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> Self:  # type: ignore[override]
        """From a folder, a repository of the hub, or a preprocessor_config.json.

        What the file does not say is taken from its checkpoint: `keep_aspect_ratio` from the weights, `size` from
        config.json. Where there are no weights either, it is the image variant.

        Raises:
            CheckpointError: neither a folder nor to be had from the hub, or its weights are broken.
        """
        path = Path(pretrained_model_name_or_path)
        if not path.is_file():
            path = checkpoint.fetch(pretrained_model_name_or_path, kwargs)
        made: Self = super().from_pretrained(str(path), **kwargs)
        return made

    @classmethod
    def get_image_processor_dict(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        path = Path(pretrained_model_name_or_path)
        folder = path.parent if path.is_file() else path
        found: dict[str, Any] = {}
        if path.is_file() or (folder / _FILE).is_file() or not (folder / _CONFIG).is_file():
            found, kwargs = super().get_image_processor_dict(str(path), **kwargs)
        if found.get("keep_aspect_ratio") is None and kwargs.get("keep_aspect_ratio") is None:
            found["keep_aspect_ratio"] = is_video_variant(folder)
        if found.get("size") is None:
            found["size"] = read_json(folder / _CONFIG).get("vision_config", {}).get("image_size")
        return found, kwargs

    def preprocess(self, images: object, *, return_tensors: str | None = None) -> BatchFeature:
        """One picture, or a list or 4-D array of n of them -> `pixel_values` (n, 3, S, S), in the same order.

        Raises:
            TypeError: one of them is not a picture; it says which, and what it is.
            ValueError: there is none, or one cannot be read or resized.
        """
        pictures = as_list(images)
        if not pictures:
            raise ValueError("images is empty: give None where a call has no images")
        pixels = [self.preprocess_one(image, name=f"images[{number}]") for number, image in enumerate(pictures)]
        return BatchFeature({"pixel_values": np.stack(pixels)}, tensor_type=return_tensors)

    def preprocess_one(self, image: object, *, name: str = "image") -> Pixels:
        """One picture -> (3, S, S). Changes nothing, so threads may share it; PIL lets them run side by side.

        Raises:
            TypeError: this is not a picture. `name` is what the message calls it.
            ValueError: it cannot be read or resized.
        """
        picture = as_picture(image, name=name)
        try:
            square = self._square(picture)
        except (OSError, ValueError) as error:  # a file read lazily is damaged; a mode that PIL cannot resize
            width, height = picture.size
            raise ValueError(f"{name} ({picture.mode}, {width} x {height} pixels): {error}") from error
        table = _table(self.rescale_factor, tuple(self.image_mean), tuple(self.image_std))
        rgb = np.asarray(square)
        return np.stack([table[channel].take(rgb[..., channel]) for channel in range(3)])

    def _square(self, picture: Image.Image) -> Image.Image:
        if 0 in picture.size:
            raise ValueError("it has no pixels")
        side = self.size["shortest_edge"]
        if self.keep_aspect_ratio:
            fitted = fit(picture.convert("RGB"), side, resample=Image.Resampling(self.resample))
        else:
            fitted = squeeze(picture, side)
        return middle(fitted, self.crop_size["height"])


def squeeze(picture: Image.Image, side: int) -> Image.Image:
    """The whole picture in a square, in its own mode until then; RGB after."""
    return picture.resize((side, side), Image.Resampling.BICUBIC).convert("RGB")


def fit(picture: Image.Image, side: int, *, resample: Image.Resampling = Image.Resampling.BICUBIC) -> Image.Image:
    """The picture with its shorter edge at `side`, the other rounded down.

    Raises:
        ValueError: so long and thin that the result would be beyond 64 million pixels.
    """
    width, height = picture.size
    longer = int(side * max(width, height) / min(width, height))
    if side * longer > _MAX_PIXELS:
        raise ValueError(
            f"resized to {side} x {longer} pixels it is beyond {_MAX_PIXELS}: cut so long and thin a picture up first"
        )
    return picture.resize((side, longer) if width <= height else (longer, side), resample)


def middle(picture: Image.Image, side: int) -> Image.Image:
    """The square in the middle; half a pixel too many goes to the right and the bottom."""
    width, height = picture.size
    left, top = (width - side) // 2, (height - side) // 2
    return picture.crop((left, top, left + side, top + side))


def as_list(images: object) -> list[Any]:
    """One picture or many, as a list; None is no picture."""
    if images is None or isinstance(images, (list, tuple)):
        return list(images or ())
    if isinstance(images, (np.ndarray, torch.Tensor)) and images.ndim == 4:
        return list(images)
    return [images]


def as_picture(image: object, *, name: str) -> Image.Image:
    """A PIL image of whatever may stand for a picture.

    Raises:
        TypeError: nothing of the kind.
    """
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, torch.Tensor):
        image = image.numpy(force=True)
    if isinstance(image, np.ndarray) and image.dtype == np.uint8:
        if image.ndim == 3 and image.shape[2] == 1:
            image = image[:, :, 0]
        if image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (3, 4)):
            return Image.fromarray(image)
    raise TypeError(f"{name} is {describe(image)}: a PIL image or a uint8 array (height, width, 3) is needed")


def is_video_variant(folder: Path) -> bool:
    """Whether a checkpoint is the video variant.

    Its weights tell; where there are none, our key in config.json. Failing both, it is not.
    """
    if any((folder / name).is_file() for name in (weights.SAFE, weights.SAFE_INDEX, weights.BIN, weights.BIN_INDEX)):
        return checkpoint.inspect(folder).has_temporal
    return bool(read_json(folder / _CONFIG).get("has_temporal", False))


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is no such file.

    Raises:
        ValueError: the file holds something else.
    """
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: not JSON ({error})") from error
    if not isinstance(found, dict):
        raise ValueError(f"{file}: an object is needed, not {type(found).__name__}")
    return found


@lru_cache
def _table(rescale_factor: float, mean: tuple[float, ...], std: tuple[float, ...]) -> npt.NDArray[np.float32]:
    """What each byte of each channel becomes: (3, 256).

    The product is rounded to float32 once and the rest is float32, as in CLIP's processor of transformers 4.28.
    """
    values = (np.arange(256) * rescale_factor).astype(np.float32)
    channels = (np.asarray(numbers, dtype=np.float32)[:, None] for numbers in (mean, std))
    table: npt.NDArray[np.float32] = (values - next(channels)) / next(channels)
    table.flags.writeable = False
    return table


def _side(size: int | Mapping[str, int] | Sequence[int], name: str) -> int:
    """The side of the square that a size of either style means."""
    given = {size} if isinstance(size, int) else set(size.values() if hasattr(size, "values") else size)
    if len(given) != 1 or not all(isinstance(side, int) and side > 0 for side in given):
        raise ValueError(f"{name} {size!r}: one positive number is needed, such as 224 or {{'shortest_edge': 224}}")
    return given.pop()


def describe(given: object) -> str:
    """What somebody gave instead, for a message."""
    if isinstance(given, (np.ndarray, torch.Tensor)):
        return f"an array of {given.dtype}, {tuple(given.shape)}"
    return f"a {type(given).__name__}"
