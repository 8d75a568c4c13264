"""Printed text in a picture: where it is and what it says. RapidOCR (PP-OCRv6 small) with the weights of its own wheel.

Turned pages are left to orientation.py. RapidOCR's own line-turning classifier turns no lines here: it flips good ones
(5.3 % of the characters of ten clean pages come out wrong, 0.0 % without it), because it squeezes a long line to 4 : 1.
Shown a line in windows of that shape, and asked about the whole page only, it is sure and right (`upside_down`).
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import cv2
import numpy as np
import numpy.typing as npt
from onnxruntime import InferenceSession, SessionOptions
from rapidocr import RapidOCR
from rapidocr.main import RapidOCRError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from worker.engines.base import RGB

Quads: TypeAlias = npt.NDArray[np.float32]
"""Corner boxes: (line, 4, 2), clockwise from the text's own top left."""

# Mean character error of the thirteen upright documents of benchmarks/ocr_quality.py by the longer side that the
# detector sees: 1400: 11.2 %, 1700: 11.4 %, 2000: 10.8 %, 2300: 10.8 %, 2600: 11.5 %; 2600 takes 1.4 times as long.
MAX_SIDE = 2000
# A crop is squeezed to 48 pixels; from far above that, plain bilinear scaling skips strokes.
MAX_CROP_HEIGHT = 96
MIN_CONFIDENCE = 0.5
MIN_SIGN_CONFIDENCE = 0.8
BATCH = 6
MIN_HEIGHT = 64
MAX_ASPECT = 8
CLASSIFIER_ASPECT = 4
MAX_WINDOWS = 8


@dataclass(frozen=True, slots=True)
class Reading:
    """What one box says. An empty text is none."""

    text: str
    confidence: float


class Recognizer:
    """Finds lines of text and reads them. One object serves all threads: ONNX sessions may be run concurrently."""

    def __init__(self, *, threads: int = 0) -> None:
        """`threads` bounds the threads of one run; 0 leaves the choice to onnxruntime."""
        made: Any = RapidOCR
        self._ocr: Any = made(params=_params(threads=threads))
        for stage in (self._ocr._load_det_model(), self._ocr._load_rec_model()):
            stage.session.session = _without_spinning(stage.session.session, threads=threads)

    def warm(self) -> None:
        """Load the weights now instead of with the first picture."""
        self.find(np.zeros((64, 64, 3), np.uint8))
        self.read(np.zeros((48, 96, 3), np.uint8), np.array([[[0, 0], [95, 0], [95, 47], [0, 47]]], np.float32))

    def find(self, image: RGB) -> Quads:
        """The boxes of lines in pixels of `image`, top to bottom. Boxes taller than wide count as read downwards."""
        scale = min(1.0, MAX_SIDE / max(image.shape[:2]))
        padded, pad = _padded(_scaled(image, scale=scale))
        try:
            _, found = self._ocr.detect_and_crop(_bgr(padded), {})
        except RapidOCRError:  # this is how it says that there is no text
            return np.zeros((0, 4, 2), np.float32)
        quads = (found.boxes.astype(np.float32) - np.array(pad, np.float32)) / np.float32(scale)
        return np.stack([_from_own_top_left(quad) for quad in quads])

    def read(self, image: RGB, quads: Quads, *, check: Callable[[], None] = lambda: None) -> list[Reading]:
        """What the boxes say, in their order. `check` is called between batches, and may raise to give up."""
        crops = [_crop(image, quad) for quad in quads]
        # Lines of one batch are padded to the longest, so lines of like shape go together.
        order = sorted(range(len(crops)), key=lambda i: crops[i].shape[1] / crops[i].shape[0])
        readings: dict[int, Reading] = {}
        for batch in (order[n : n + BATCH] for n in range(0, len(order), BATCH)):
            check()
            found = self._ocr.recognize_txt([_bgr(crops[i]) for i in batch])
            for i, text, score in zip(batch, found.txts, found.scores, strict=True):
                readings[i] = Reading(text.strip(), float(score))
        return [readings[i] for i in range(len(crops))]

    def upside_down(self, image: RGB, quads: Quads) -> float:
        """The probability, 0 to 1, that these lines stand on their heads: a mean over all they show."""
        windows = [_bgr(window) for quad in quads for window in _windows(_crop(image, quad))]
        _, found = self._ocr.cls_and_rotate(windows)
        return fmean(score if label == "180" else 1 - score for label, score in found.cls_res)


def _windows(crop: RGB) -> list[RGB]:
    """A line in pieces of the shape that the classifier was made for."""
    height, width = crop.shape[:2]
    step = CLASSIFIER_ASPECT * height
    if width <= step:
        return [crop]
    return [crop[:, x : x + step] for x in range(0, width - step + 1, step)][:MAX_WINDOWS]


def _params(*, threads: int) -> dict[str, Any]:
    return {
        "Global.use_cls": False,
        "Global.use_preprocess_img": False,
        "Global.use_vertical_padding": False,
        "Global.log_level": "critical",
        "EngineConfig.onnxruntime.intra_op_num_threads": threads or -1,
    }


def _without_spinning(session: InferenceSession, *, threads: int) -> InferenceSession:
    """The same model, whose threads sleep while they wait. RapidOCR has no setting for it.

    Beside a language model on the same two cores, reading takes 0.9 times as long without spinning, and the language
    model makes at least 1.3 times as many tokens (docs/performance.md); alone, neither loses.
    """
    options = SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return InferenceSession(session._model_path, sess_options=options, providers=session.get_providers())


def _bgr(image: RGB) -> RGB:
    return np.ascontiguousarray(image[:, :, ::-1])


def _scaled(image: RGB, *, scale: float) -> RGB:
    if scale == 1:
        return image
    return cast("RGB", cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA))


def _padded(image: RGB) -> tuple[RGB, tuple[int, int]]:
    """A strip of text (one line, or a sliver) with a border, without which the detector misses it; and the offset."""
    height, width = image.shape[:2]
    low = max(0, max(MIN_HEIGHT, width // MAX_ASPECT) - height + 1) // 2
    thin = max(0, max(MIN_HEIGHT, height // MAX_ASPECT) - width + 1) // 2
    if not low and not thin:
        return image, (0, 0)
    return cast("RGB", cv2.copyMakeBorder(image, low, low, thin, thin, cv2.BORDER_REPLICATE)), (thin, low)


def _from_own_top_left(quad: Quads) -> Quads:
    """A box that is taller than wide holds text that runs downwards: its own top left is the corner at the right."""
    across = float(np.linalg.norm(quad[1] - quad[0]))
    down = float(np.linalg.norm(quad[3] - quad[0]))
    return np.roll(quad, -1, axis=0) if down >= 1.5 * across else quad


def _crop(image: RGB, quad: Quads) -> RGB:
    width = max(1, round(float(max(np.linalg.norm(quad[0] - quad[1]), np.linalg.norm(quad[2] - quad[3])))))
    height = max(1, round(float(max(np.linalg.norm(quad[0] - quad[3]), np.linalg.norm(quad[1] - quad[2])))))
    flat = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    matrix = cv2.getPerspectiveTransform(np.ascontiguousarray(quad), flat)
    crop = cv2.warpPerspective(image, matrix, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    if height <= MAX_CROP_HEIGHT:
        return cast("RGB", crop)
    shrunk = (max(1, round(width * MAX_CROP_HEIGHT / height)), MAX_CROP_HEIGHT)
    return cast("RGB", cv2.resize(crop, shrunk, interpolation=cv2.INTER_AREA))


def confident(readings: Sequence[Reading]) -> list[bool]:
    """Which readings are worth keeping. Specks and corners are read as dashes and squares, with less confidence than
    those that are meant."""
    return [bool(r.text) and r.confidence >= _least(r.text) for r in readings]


def _least(text: str) -> float:
    return MIN_CONFIDENCE if any(character.isalnum() for character in text) else MIN_SIGN_CONFIDENCE
