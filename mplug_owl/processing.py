"""Prompts, pictures and videos as the model takes them.

A prompt holds a marker where a medium goes: `<image>`, and in the video variant `<|video|>`. Each becomes Q + 1 times
the same negative id, one per vector that the abstractor makes of the medium, and the text between markers is tokenized
piece by piece. How a conversation becomes a prompt is not said here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
import torch
from transformers import BatchFeature, ProcessorMixin

from mplug_owl import checkpoint
from mplug_owl.image_processing import MplugOwlImageProcessor, as_list, describe, read_json
from mplug_owl.tokenization import MplugOwlTokenizer
from mplug_owl.video import read_frames

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from transformers import PreTrainedTokenizerBase

IMAGE_MARKER, VIDEO_MARKER = "<image>", "<|video|>"
PLACEHOLDERS = {IMAGE_MARKER: -1, VIDEO_MARKER: -2}
"""The id that holds the place of each kind of medium."""

ANSWER, HUMAN = "AI: ", "\nHuman: "
"""Where training splits a conversation. What follows the first is an answer, which is learned."""

IGNORED = -100
"""The label of a position that is not learned."""

_FILE = "processor_config.json"
# What AutoProcessor passes on, and callers of old; none changes anything here.
_MEANINGLESS = ("_from_auto", "trust_remote_code", "use_fast", "backend")
# What concerns the hub, where the name is a folder's.
_HUB = ("revision", "cache_dir", "token", "local_files_only", "force_download")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingIds:
    """A conversation to learn from, cut or padded to M + 1 positions. Masks are of M: t stands for predicting t + 1."""

    ids: list[int]
    """M + 1, with placeholders; padding on the right."""
    prompt_mask: list[int]
    """1 where t + 1 belongs to an answer or is the end token behind it."""
    non_media_mask: list[int]
    non_padding_mask: list[int]
    images: int
    """Images whose placeholders fit. Those after them were cut off, and their pixels must be left out."""
    videos: int

    @property
    def labels(self) -> list[int]:
        """M + 1: the ids where all three masks are 1, else -100. The first is kept; no model predicts it."""
        masks = zip(self.prompt_mask, self.non_media_mask, self.non_padding_mask, strict=True)
        learned = [all(mask) for mask in masks]
        return self.ids[:1] + [id if use else IGNORED for id, use in zip(self.ids[1:], learned, strict=True)]


class MplugOwlProcessor(ProcessorMixin):
    """Makes the arguments of the model: `model(**processor(text=[...], images=[...], return_tensors="pt"))`.

    Q comes from config.json and the variant from the weights when the processor is loaded by `from_pretrained`. Made
    of its parts, `MplugOwlProcessor(image_processor, tokenizer)`, it has to be told Q if that is not 64.

    Args:
        tokenizer: a MplugOwlTokenizer; another is taken over by `MplugOwlTokenizer.adopt`.
        num_query_tokens: Q. A medium takes Q + 1 positions.
        has_video: whether `<|video|>` is a marker, or ordinary text as in the image variant; if None, what the image
            processor's geometry tells.
    """

    def __init__(
        self,
        image_processor: MplugOwlImageProcessor,
        tokenizer: PreTrainedTokenizerBase,
        num_query_tokens: int = 64,
        has_video: bool | None = None,
    ) -> None:
        super().__init__(image_processor, MplugOwlTokenizer.adopt(tokenizer))  # type: ignore[no-untyped-call]
        if num_query_tokens < 1:
            raise ValueError(f"num_query_tokens {num_query_tokens}: at least 1 is needed")
        self.num_query_tokens = num_query_tokens
        self.has_video = image_processor.keep_aspect_ratio if has_video is None else has_video

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | Path, **kwargs: Any
    ) -> Self:
        """From the folder of a checkpoint, one that `save_pretrained` wrote, or a repository of the hub.

        Raises:
            CheckpointError: neither a folder nor to be had from the hub, or its weights are broken.
            ValueError: there is no tokenizer, or neither config.json nor our processor_config.json says what Q is.
        """
        folder = checkpoint.fetch(pretrained_model_name_or_path, kwargs)
        unknown = kwargs.keys() - {*_MEANINGLESS, *_HUB}
        if unknown:
            raise TypeError(f"from_pretrained knows no {', '.join(sorted(unknown))}")
        config, ours = read_json(folder / "config.json"), read_json(folder / _FILE)
        queries = config.get("num_query_tokens", ours.get("num_query_tokens", 64 if config else None))
        if queries is None:
            raise ValueError(f"{folder}: neither config.json nor {_FILE} is there: the number of queries is not known")
        return cls(
            MplugOwlImageProcessor.from_pretrained(folder),
            MplugOwlTokenizer.from_pretrained(folder),
            num_query_tokens=queries,
            has_video=ours.get("has_video"),
        )

    def save_pretrained(  # type: ignore[override]
        self, save_directory: str | Path, **_: Any
    ) -> list[str]:
        """Write the files that `from_pretrained` and the original's classes read. Returns their paths.

        processor_config.json is ours, and the original takes no notice of it.
        """
        folder = Path(save_directory)
        written = [*self.tokenizer.save_pretrained(folder), *self.image_processor.save_pretrained(folder)]
        self.to_json_file(folder / _FILE)
        return [*written, str(folder / _FILE)]

    def to_dict(self) -> dict[str, Any]:
        """What processor_config.json holds; the parts have files of their own."""
        return {
            "processor_class": type(self).__name__,
            "num_query_tokens": self.num_query_tokens,
            "has_video": self.has_video,
        }

    @property
    def positions_per_medium(self) -> int:
        return self.num_query_tokens + 1

    @property
    def pad_id(self) -> int:
        """What prompts are padded with: the tokenizer's padding token (LLaMA 0, BLOOM 3). The mask hides it."""
        return int(self.tokenizer.pad_token_id)

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", "pixel_values", "video_pixel_values"]

    def __call__(
        self,
        text: Sequence[str] | None = None,
        images: object = None,
        videos: object = None,
        *,
        num_frames: int = 4,
        media_info: Mapping[str, int] | None = None,
        padding: bool | str = True,
        return_tensors: str | None = None,
    ) -> BatchFeature:
        """Encode b prompts, n images and m videos. Without `text`, only the pixels.

        Args:
            text: a list of b prompts. Their markers take the images, and the videos, in order: those of the first
                prompt, then those of the second.
            images: a list of n pictures; see MplugOwlImageProcessor.
            videos: a list of m clips: paths, or frames already decoded, as uint8 (T, height, width, 3) or a list of
                pictures, which are all taken. A path is read by decord, which a hostile file can hang: give frames
                then, decoded in a process of their own.
            num_frames: frames taken of each path. With one, the model encodes a clip as it does an image.
            media_info: positions per marker where they are not Q + 1, as `{"<image>": 65}`.
            padding: `False` for lists of different length.
            return_tensors: "pt", "np", or None for lists of ids and numpy pixels.

        Returns:
            `input_ids` (b, s), -1 at each of the Q + 1 positions of an image and -2 at those of a video, padded on the
            left with `pad_id`; `attention_mask` (b, s), integers, 0 on the padding; `pixel_values` (n, 3, S, S) if
            there are images; `video_pixel_values` (m, 3, T, S, S) if there are videos.

        Raises:
            TypeError: `text` is a plain string, or something is neither a picture nor a clip.
            ValueError: the markers in the prompts are not as many as the media, or clips differ in their frames.
        """
        if text is None and images is None and videos is None:
            raise ValueError("nothing to encode: give text, images or videos")
        pictures, clips = as_list(images), _as_clips(videos)
        if clips and not self.has_video:
            raise ValueError(f"{len(clips)} videos given: this is the image variant, which knows no {VIDEO_MARKER}")
        data: dict[str, Any] = {}
        if text is not None:
            places, prompts = self._places(media_info), _as_prompts(text)
            self._check_markers(prompts, places, images=len(pictures), videos=len(clips))
            rows = [self._encode(prompt, places) for prompt in prompts]
            data |= _padded(rows, self.pad_id, padding=padding, tensors=return_tensors is not None)
        if pictures:
            data |= self.image_processor.preprocess(pictures)
        if clips:
            data["video_pixel_values"] = self._clips(clips, num_frames)
        return BatchFeature(data, tensor_type=return_tensors)

    def encode_prompt(self, text: str, *, media_info: Mapping[str, int] | None = None) -> list[int]:
        """One prompt -> its ids, placeholders included. Changes nothing, so threads may share it.

        Raises:
            ValueError: the text holds half a surrogate pair.
        """
        return self._encode(text, self._places(media_info))

    def tokenize_for_training(self, conversation: str, max_length: int, *, images: int | None = None) -> TrainingIds:
        """A conversation with its answers -> ids and masks for `max_length` predictions (M).

        It is split at markers, at "AI: " and at "\\nHuman: ", and each piece is tokenized by itself, with the tokenizer
        of training. What follows "AI: " is an answer: it is learned, and so is the end token put behind it. The
        original reads `<image>` as text where a conversation begins with it; here it is a marker there too.

        Args:
            images: how many images the sample has. With 0 `<image>` is text, so that a web page about it stays one. If
                None, as many as there are markers.

        Raises:
            ValueError: not as many markers as images, or `max_length` is not positive.
        """
        if max_length < 1:
            raise ValueError(f"max_length {max_length}: at least 1 is needed")
        places = self._places(None)
        if images == 0:
            del places[IMAGE_MARKER]
        found = conversation.count(IMAGE_MARKER)
        if images and found != images:
            raise ValueError(_mismatch(IMAGE_MARKER, found, "images", images))
        ids, answers = self._learnable(_split(conversation, [*places, ANSWER, HUMAN]), places, limit=max_length + 1)
        length, rest = len(ids), max_length + 1 - len(ids)
        ids += [self.pad_id] * rest
        return TrainingIds(
            ids=ids,
            prompt_mask=(answers + [0] * rest)[1:],
            non_media_mask=[int(id >= 0) for id in ids[1:]],
            non_padding_mask=[int(position < length - 1) for position in range(max_length)],
            images=ids.count(PLACEHOLDERS[IMAGE_MARKER]) // self.positions_per_medium,
            videos=ids.count(PLACEHOLDERS[VIDEO_MARKER]) // self.positions_per_medium,
        )

    def decode(self, token_ids: Any, skip_special_tokens: bool = True, **kwargs: Any) -> Any:
        """Ids of one answer -> its text."""
        return self.tokenizer.decode(token_ids, skip_special_tokens=skip_special_tokens, **kwargs)

    def batch_decode(self, sequences: Any, skip_special_tokens: bool = True, **kwargs: Any) -> list[str]:
        """Ids of answers, (b, s) -> b texts."""
        texts = self.tokenizer.batch_decode(sequences, skip_special_tokens=skip_special_tokens, **kwargs)
        return list(texts)

    def _places(self, media_info: Mapping[str, int] | None) -> dict[str, int]:
        """How many positions each marker takes."""
        markers = PLACEHOLDERS if self.has_video else (IMAGE_MARKER,)
        given = media_info or {}
        wrong = [marker for marker, count in given.items() if marker not in PLACEHOLDERS or count < 1]
        if wrong:
            raise ValueError(f"media_info {dict(given)}: {', '.join(PLACEHOLDERS)} can be set, to 1 or more positions")
        return {**dict.fromkeys(markers, self.positions_per_medium), **given}

    @staticmethod
    def _check_markers(prompts: Sequence[str], places: Mapping[str, int], *, images: int, videos: int) -> None:
        for marker, name, given in ((IMAGE_MARKER, "images", images), (VIDEO_MARKER, "videos", videos)):
            found = sum(prompt.count(marker) for prompt in prompts) if marker in places else 0
            if found != given:
                raise ValueError(_mismatch(marker, found, name, given))

    def _encode(self, prompt: str, places: Mapping[str, int]) -> list[int]:
        ids = [int(self.tokenizer.bos_token_id)]
        for piece in _split(prompt, list(places)):
            if piece in places:
                ids += [PLACEHOLDERS[piece]] * places[piece]
            elif piece:
                ids += self.tokenizer.piece_ids(piece)
        return ids

    def _learnable(self, pieces: list[str], places: Mapping[str, int], *, limit: int) -> tuple[list[int], list[int]]:
        """At most `limit` ids, and for each whether it is of an answer (1) or not (0)."""
        ids, answers = [int(self.tokenizer.bos_token_id)], [0]
        for before, piece in zip(["", *pieces], pieces, strict=False):
            room = limit - len(ids)
            if room == 0 or places.get(piece, 0) > room:
                break
            if piece in places:
                made = [PLACEHOLDERS[piece]] * places[piece]
            elif before == ANSWER:
                made = [*self.tokenizer.training_piece_ids(piece)[: room - 1], int(self.tokenizer.eos_token_id)]
            else:
                made = self.tokenizer.training_piece_ids(piece)[:room]
            ids += made
            answers += [int(before == ANSWER)] * len(made)
        return ids, answers

    def _clips(self, clips: list[Any], num_frames: int) -> npt.NDArray[np.float32]:
        """m clips -> (m, 3, T, S, S)."""
        made = [self._clip(clip, num_frames, name=f"videos[{number}]") for number, clip in enumerate(clips)]
        frames = [clip.shape[1] for clip in made]
        if len(set(frames)) > 1:
            raise ValueError(f"the videos have {frames} frames: those of one call must all have the same number")
        return np.stack(made)

    def _clip(self, clip: object, num_frames: int, *, name: str) -> npt.NDArray[np.float32]:
        """One clip -> (3, T, S, S)."""
        frames = _frames(clip, num_frames, name=name)
        if not frames:
            raise ValueError(f"{name} has no frames")
        make = self.image_processor.preprocess_one
        return np.stack([make(frame, name=f"{name}, frame {at}") for at, frame in enumerate(frames)], axis=1)


def _split(text: str, markers: Sequence[str]) -> list[str]:
    """Text and markers by turns, text first and last, even if it is empty."""
    return re.split(f"({'|'.join(map(re.escape, markers))})", text)


def _padded(rows: list[list[int]], pad_id: int, *, padding: bool | str, tensors: bool) -> dict[str, list[list[int]]]:
    """`input_ids` and `attention_mask`, each (b, s) unless `padding` is off."""
    if padding not in (True, False, "longest"):
        raise ValueError(f"padding {padding!r}: True (to the longest prompt, on the left) and False are known")
    lengths = sorted({len(row) for row in rows})
    if tensors and not padding and len(lengths) > 1:
        raise ValueError(f"prompts of {lengths[0]} to {lengths[-1]} positions make no tensor without padding=True")
    gaps = [lengths[-1] - len(row) if padding else 0 for row in rows]
    return {
        "input_ids": [[pad_id] * gap + row for gap, row in zip(gaps, rows, strict=True)],
        "attention_mask": [[0] * gap + [1] * len(row) for gap, row in zip(gaps, rows, strict=True)],
    }


def _as_prompts(text: object) -> list[str]:
    if isinstance(text, str) or not isinstance(text, (list, tuple)):
        raise TypeError(f"text is a {type(text).__name__}: a list of prompts is needed, [prompt] for one")
    for number, prompt in enumerate(text):
        if not isinstance(prompt, str):
            raise TypeError(f"text[{number}] is a {type(prompt).__name__}: a prompt is a str")
    if not text:
        raise ValueError("text is empty: give None where a call has no prompts")
    return list(text)


def _as_clips(videos: object) -> list[Any]:
    """One clip or many, as a list."""
    if videos is None or isinstance(videos, (list, tuple)):
        return list(videos or ())
    if isinstance(videos, (np.ndarray, torch.Tensor)) and videos.ndim == 5:
        return list(videos)
    return [videos]


def _frames(clip: object, num_frames: int, *, name: str) -> list[Any]:
    if isinstance(clip, (str, Path)):
        return list(read_frames(clip, num_frames))
    if isinstance(clip, (list, tuple)) or (isinstance(clip, (np.ndarray, torch.Tensor)) and clip.ndim == 4):
        return list(clip)
    raise TypeError(f"{name} is {describe(clip)}: a path or frames (T, height, width, 3) are needed")


def _mismatch(marker: str, found: int, name: str, given: int) -> str:
    return f"{found} {marker} in the prompts, {given} {name} given: there must be as many of the one as of the other"
