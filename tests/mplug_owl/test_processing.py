"""Prompts and media become the arguments of the model."""

from __future__ import annotations

import copy
import functools
import json
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeAlias

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer

from mplug_owl import modeling
from mplug_owl.image_processing import MplugOwlImageProcessor
from mplug_owl.processing import PLACEHOLDERS, MplugOwlProcessor
from mplug_owl.tokenization import MplugOwlTokenizer
from mplug_owl.video import frame_indices, read_frames

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy.typing as npt

PER_MEDIUM = 17  # a tiny checkpoint has 16 queries
BOS, EOS = 1, 2
IMAGE, VIDEO = [-1] * PER_MEDIUM, [-2] * PER_MEDIUM
VARIANTS = [("image", "llama"), ("video", "llama"), ("image", "bloom"), ("video", "bloom")]

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20).filter(lambda text: "<" not in text)
PIECES = st.lists(st.one_of(st.sampled_from(list(PLACEHOLDERS)), TEXTS), max_size=8)

Load: TypeAlias = "Callable[..., MplugOwlProcessor]"


@pytest.fixture(scope="session")
def load(tiny: Callable[..., Path]) -> Callable[..., MplugOwlProcessor]:
    """The processor of a tiny checkpoint: tests must not change it."""

    @functools.cache
    def make(variant: str = "image", language: str = "llama", **sizes: Any) -> MplugOwlProcessor:
        return MplugOwlProcessor.from_pretrained(tiny(variant, language, **sizes))

    return make


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of 12 frames, each brighter than the one before."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 5.0, (64, 48))
    for frame in range(12):
        writer.write(np.full((48, 64, 3), 20 * frame, np.uint8))
    writer.release()
    return path


def picture(seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def frames(count: int = 4) -> npt.NDArray[np.uint8]:
    return np.stack([picture(seed) for seed in range(count)])


def test_placeholders_are_those_that_the_model_looks_for() -> None:
    assert PLACEHOLDERS == {"<image>": modeling.IMAGE, "<|video|>": modeling.VIDEO}


@pytest.mark.parametrize(("variant", "language"), VARIANTS)
def test_a_marker_takes_a_position_per_query_and_one_for_the_end(load: Load, variant: str, language: str) -> None:
    processor = load(variant, language)
    ids = processor.encode_prompt("See: <image>\nHuman: what?")
    pieces = processor.tokenizer.piece_ids
    assert ids == [BOS, *pieces("See: "), *IMAGE, *pieces("\nHuman: what?")]


def test_the_number_of_queries_is_the_checkpoint_s(load: Load) -> None:
    assert load(num_query_tokens=24).encode_prompt("<image>").count(-1) == 25


@pytest.mark.parametrize(("variant", "language"), VARIANTS)
@given(data=st.data())
def test_ids_are_those_of_the_pieces_in_a_row(load: Load, variant: str, language: str, data: st.DataObject) -> None:
    processor = load(variant, language)
    pieces = data.draw(PIECES)
    markers = {"<image>": IMAGE, "<|video|>": VIDEO} if variant == "video" else {"<image>": IMAGE}
    # Neighbours that are both text are one piece.
    wanted, text = [BOS], ""
    for piece in [*pieces, None]:
        if piece is not None and piece not in markers:
            text += piece
            continue
        wanted += processor.tokenizer.piece_ids(text) if text else []
        wanted += markers.get(piece or "", [])
        text = ""
    assert processor.encode_prompt("".join(pieces)) == wanted


@given(pieces=PIECES)
def test_placeholders_are_counted_right(load: Load, pieces: list[str]) -> None:
    ids = load("video").encode_prompt("".join(pieces))
    assert ids.count(-1) == PER_MEDIUM * pieces.count("<image>")
    assert ids.count(-2) == PER_MEDIUM * pieces.count("<|video|>")
    assert ids[0] == BOS
    assert min(ids) >= -2


def test_a_video_marker_is_text_in_the_image_variant(load: Load) -> None:
    processor = load("image")
    assert processor.encode_prompt("a <|video|> b") == [BOS, *processor.tokenizer.piece_ids("a <|video|> b")]


def test_half_a_surrogate_pair_is_named(load: Load) -> None:
    with pytest.raises(UnicodeEncodeError, match="position 2"):
        load().encode_prompt("ab\ud800")


def test_prompts_of_different_length_are_padded_on_the_left(load: Load) -> None:
    processor = load()
    prompts = ["short", "<image> a longer prompt than that", "a third one"]
    made = processor(text=prompts, images=[picture()], return_tensors="pt", padding=True)
    rows = [processor.encode_prompt(prompt) for prompt in prompts]
    for ids, mask, row in zip(made["input_ids"], made["attention_mask"], rows, strict=True):
        gap = len(ids) - len(row)
        assert ids.tolist() == [processor.pad_id] * gap + row
        assert mask.tolist() == [0] * gap + [1] * len(row)
    assert made["attention_mask"].dtype == torch.int64


@pytest.mark.parametrize(("language", "pad"), [("llama", 0), ("bloom", 3)])
def test_padding_is_the_tokenizer_s_own(load: Load, language: str, pad: int) -> None:
    assert load("image", language).pad_id == pad


def test_without_padding_prompts_are_lists(load: Load) -> None:
    processor = load()
    made = processor(text=["one", "one and more"], padding=False)
    assert made["input_ids"] == [processor.encode_prompt("one"), processor.encode_prompt("one and more")]
    assert [len(mask) for mask in made["attention_mask"]] == [len(ids) for ids in made["input_ids"]]


def test_without_padding_prompts_of_different_length_make_no_tensor(load: Load) -> None:
    with pytest.raises(ValueError, match="padding=True"):
        load()(text=["one", "one and more"], padding=False, return_tensors="pt")


def test_another_kind_of_padding_is_refused(load: Load) -> None:
    with pytest.raises(ValueError, match="max_length"):
        load()(text=["one"], padding="max_length")


@pytest.mark.parametrize(
    ("text", "said"),
    [("a prompt", r"text is a str.*\[prompt\]"), (["a", 3], r"text\[1\] is a int"), ({"a": "b"}, "text is a dict")],
)
def test_prompts_come_in_a_list(load: Load, text: Any, said: str) -> None:
    with pytest.raises(TypeError, match=said):
        load()(text=text)


def test_nothing_is_an_error(load: Load) -> None:
    with pytest.raises(ValueError, match="give text, images or videos"):
        load()()
    with pytest.raises(ValueError, match="text is empty"):
        load()(text=[])


@pytest.mark.parametrize(("markers", "given_"), [(2, 1), (1, 2), (1, 0), (0, 1)])
def test_markers_and_images_must_be_as_many(load: Load, markers: int, given_: int) -> None:
    with pytest.raises(ValueError, match=f"{markers} <image> in the prompts, {given_} images given"):
        load()(text=["<image> x" * markers + "y"], images=[picture()] * given_)


@pytest.mark.parametrize(("markers", "given_"), [(2, 1), (1, 2), (1, 0), (0, 1)])
def test_markers_and_videos_must_be_as_many(load: Load, markers: int, given_: int) -> None:
    with pytest.raises(ValueError, match=rf"{markers} <\|video\|> in the prompts, {given_} videos given"):
        load("video")(text=["<|video|> x" * markers + "y"], videos=[frames()] * given_)


def test_images_of_several_prompts_are_one_list(load: Load) -> None:
    processor = load()
    images = [picture(seed) for seed in range(3)]
    made = processor(text=["<image>a<image>", "b", "<image>"], images=images, return_tensors="np")
    wanted = [processor.image_processor.preprocess_one(image) for image in images]
    np.testing.assert_array_equal(made["pixel_values"], np.stack(wanted))
    assert (made["input_ids"] == -1).sum(axis=1).tolist() == [2 * PER_MEDIUM, 0, PER_MEDIUM]


def test_only_what_is_given_comes_back(load: Load) -> None:
    assert set(load()(text=["x"])) == {"input_ids", "attention_mask"}
    assert set(load()(images=[picture()])) == {"pixel_values"}
    assert set(load("video")(videos=[frames()])) == {"video_pixel_values"}
    assert set(load()(text=["x"], images=[], videos=[])) == {"input_ids", "attention_mask"}


def test_positions_per_marker_can_be_given(load: Load) -> None:
    media = {"<image>": 3, "<|video|>": 5}
    ids = load("video").encode_prompt("<image><|video|>", media_info=media)
    assert ids == [BOS, -1, -1, -1, -2, -2, -2, -2, -2]
    made = load("video")(text=["<image>"], images=[picture()], media_info={"<image>": 3})
    assert made["input_ids"] == [[BOS, -1, -1, -1]]


@pytest.mark.parametrize("media", [{"<audio>": 3}, {"<image>": 0}])
def test_positions_of_an_unknown_marker_are_refused(load: Load, media: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="media_info"):
        load().encode_prompt("x", media_info=media)


def test_a_video_alone(load: Load, clip: Path) -> None:
    made = load("video")(text=["<|video|> what?"], videos=[str(clip)], num_frames=3, return_tensors="pt")
    assert made["video_pixel_values"].shape == (1, 3, 3, 56, 56)
    brightness = made["video_pixel_values"][0].mean(dim=(0, 2, 3))
    assert (brightness.diff() > 0.2).all()  # in the order of time, and channels before it
    assert made["input_ids"][0, 1:18].tolist() == VIDEO


def test_a_video_beside_an_image(load: Load, clip: Path) -> None:
    made = load("video")(
        text=["<image> or <|video|>"], images=[picture()], videos=[clip], num_frames=2, return_tensors="pt"
    )
    assert made["pixel_values"].shape == (1, 3, 56, 56)
    assert made["video_pixel_values"].shape == (1, 3, 2, 56, 56)


def test_four_frames_are_taken_unless_said_otherwise(load: Load, clip: Path) -> None:
    assert load("video")(videos=[clip])["video_pixel_values"].shape == (1, 3, 4, 56, 56)


def test_one_frame_is_allowed(load: Load, clip: Path) -> None:
    assert load("video")(videos=[clip], num_frames=1)["video_pixel_values"].shape == (1, 3, 1, 56, 56)


@pytest.mark.parametrize(
    "convert",
    [
        lambda made: [made],
        lambda made: [list(made)],
        lambda made: [torch.from_numpy(made)],
        lambda made: made,
        lambda made: made[None],
    ],
)
def test_decoded_frames_are_as_good_as_a_path(load: Load, clip: Path, convert: Callable[[Any], object]) -> None:
    processor = load("video")
    wanted = processor(videos=[clip], num_frames=4)["video_pixel_values"]
    made = processor(videos=convert(read_frames(clip, 4)))["video_pixel_values"]
    np.testing.assert_array_equal(made, wanted)


def test_frames_are_prepared_as_images_of_the_variant_are(load: Load) -> None:
    processor = load("video")
    made = processor(videos=[frames(3)], images=[*frames(3)])
    np.testing.assert_array_equal(made["video_pixel_values"][0].swapaxes(0, 1), made["pixel_values"])


def test_clips_of_one_call_have_the_same_number_of_frames(load: Load) -> None:
    with pytest.raises(ValueError, match=r"\[4, 8\] frames"):
        load("video")(text=["<|video|><|video|>"], videos=[frames(4), frames(8)])


@pytest.mark.parametrize(
    ("video", "said"),
    [
        (picture(), r"videos\[1\] is an array of uint8, \(40, 60, 3\)"),
        (7, r"videos\[1\] is a int"),
        ([picture(), "no"], r"videos\[1\], frame 1 is a str"),
    ],
)
def test_what_is_no_clip_is_named_with_its_place(load: Load, video: object, said: str) -> None:
    with pytest.raises(TypeError, match=said):
        load("video")(videos=[frames(), video])


def test_a_clip_without_frames_is_refused(load: Load) -> None:
    with pytest.raises(ValueError, match=r"videos\[0\] has no frames"):
        load("video")(videos=[[]])


def test_the_image_variant_takes_no_videos(load: Load) -> None:
    for text in (["<|video|>"], None):
        with pytest.raises(ValueError, match="this is the image variant"):
            load("image")(text=text, videos=[frames()])


def test_a_file_that_is_no_video_is_named(load: Load, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("nothing to see")
    with pytest.raises(ValueError, match=r"text\.mp4: cannot be decoded"):
        load("video")(videos=[tmp_path / "text.mp4"])
    with pytest.raises(FileNotFoundError, match=r"none\.mp4"):
        load("video")(videos=[tmp_path / "none.mp4"])


def test_no_frames_of_a_file_are_refused(load: Load, clip: Path) -> None:
    with pytest.raises(ValueError, match="0 of 12 frames"):
        load("video")(videos=[clip], num_frames=0)


def test_without_decord_only_files_cannot_be_read(load: Load, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "decord", None)
    with pytest.raises(ImportError, match="pip install decord"):
        load("video")(videos=[clip])
    assert load("video")(videos=[frames()])["video_pixel_values"].shape == (1, 3, 4, 56, 56)


@pytest.mark.parametrize(
    ("total", "count", "chosen"),
    [
        (21, 4, [2, 7, 12, 17]),
        (21, 8, [1, 3, 6, 9, 11, 13, 16, 19]),
        (4, 4, [0, 1, 2, 2]),
        (2, 4, [0, 0, 0, 1]),  # halves go to the even number
        (1, 3, [0, 0, 0]),
        (3, 1, [1]),
    ],
)
def test_frames_are_the_middles_of_equal_stretches(total: int, count: int, chosen: list[int]) -> None:
    assert frame_indices(total, count) == chosen


@given(total=st.integers(1, 10_000), count=st.integers(1, 64))
def test_frames_are_chosen_in_order_and_within_the_file(total: int, count: int) -> None:
    chosen = frame_indices(total, count)
    assert len(chosen) == count
    assert chosen == sorted(chosen)
    assert chosen[0] >= 0 and chosen[-1] < total
    if count <= total:
        assert max(np.diff([-1, *chosen, total])) <= 2 * total / count + 2  # no stretch is left out


@pytest.mark.parametrize(("total", "count"), [(0, 4), (4, 0), (-1, 4)])
def test_frames_of_nothing_cannot_be_chosen(total: int, count: int) -> None:
    with pytest.raises(ValueError, match=f"{count} of {total} frames"):
        frame_indices(total, count)


@pytest.mark.parametrize(("variant", "language"), VARIANTS)
def test_answers_have_no_special_tokens_unless_asked(load: Load, variant: str, language: str) -> None:
    processor = load(variant, language)
    ids = [*processor.tokenizer.piece_ids("The red coat"), EOS, processor.pad_id]
    assert processor.decode(ids) == "The red coat"
    assert processor.batch_decode([ids, torch.tensor(ids)]) == ["The red coat"] * 2
    assert "</s>" in processor.decode(ids, skip_special_tokens=False)


@pytest.mark.parametrize(("variant", "language"), VARIANTS)
def test_a_saved_processor_loads_again(load: Load, tmp_path: Path, variant: str, language: str) -> None:
    processor = load(variant, language)
    written = processor.save_pretrained(tmp_path)
    again = MplugOwlProcessor.from_pretrained(tmp_path)
    assert {*written} == {str(file) for file in tmp_path.iterdir()}
    assert again.to_dict() == processor.to_dict()
    prompt = "See <image>\nHuman:  two  spaces </s> 描述 <|video|>\nAI: "
    assert again.encode_prompt(prompt) == processor.encode_prompt(prompt)
    assert again.tokenize_for_training(prompt, 200) == processor.tokenize_for_training(prompt, 200)
    np.testing.assert_array_equal(
        again.image_processor.preprocess_one(picture()), processor.image_processor.preprocess_one(picture())
    )


def test_a_processor_is_saved_beside_its_model(load: Load, tiny: Callable[..., Path], tmp_path: Path) -> None:
    for file in tiny("video").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    load("video").save_pretrained(tmp_path)
    assert MplugOwlProcessor.from_pretrained(tmp_path).has_video


@pytest.mark.parametrize("convert", [copy.deepcopy, lambda processor: pickle.loads(pickle.dumps(processor))])
@pytest.mark.parametrize("language", ["llama", "bloom"])
def test_a_processor_goes_to_other_processes(
    load: Load, language: str, convert: Callable[[MplugOwlProcessor], MplugOwlProcessor]
) -> None:
    processor = load("image", language)
    prompt = "<image> a b"
    assert convert(processor).encode_prompt(prompt) == processor.encode_prompt(prompt)
    assert convert(processor).tokenize_for_training(prompt, 30) == processor.tokenize_for_training(prompt, 30)


def test_a_processor_can_be_made_of_its_parts(load: Load, tiny: Callable[..., Path]) -> None:
    folder = tiny("video")
    parts = MplugOwlImageProcessor.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    processor = MplugOwlProcessor(*parts, num_query_tokens=16)
    prompt = "<image> a  b<|video|> c"
    assert processor.encode_prompt(prompt) == load("video").encode_prompt(prompt)


@pytest.mark.parametrize("variant", ["image", "video"])
def test_auto_classes_find_it(tiny: Callable[..., Path], tmp_path: Path, variant: str) -> None:
    auto: Any = AutoProcessor
    processor = auto.from_pretrained(tiny(variant))
    assert isinstance(processor, MplugOwlProcessor)
    assert processor.has_video is (variant == "video")
    processor.save_pretrained(tmp_path)
    assert isinstance(auto.from_pretrained(tmp_path), MplugOwlProcessor)
    auto = AutoImageProcessor
    images = auto.from_pretrained(tiny(variant))
    assert isinstance(images, MplugOwlImageProcessor)
    assert images.keep_aspect_ratio is (variant == "video")


def test_the_number_of_queries_must_be_known(load: Load, tmp_path: Path) -> None:
    load().save_pretrained(tmp_path)
    (tmp_path / "processor_config.json").unlink()
    with pytest.raises(ValueError, match="number of queries is not known"):
        MplugOwlProcessor.from_pretrained(tmp_path)


def test_64_queries_are_the_config_s_default(load: Load, tmp_path: Path) -> None:
    load().save_pretrained(tmp_path)
    (tmp_path / "processor_config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mplug-owl"}))
    assert MplugOwlProcessor.from_pretrained(tmp_path).positions_per_medium == 65


def test_an_argument_that_means_nothing_is_refused(tiny: Callable[..., Path]) -> None:
    assert MplugOwlProcessor.from_pretrained(tiny(), use_fast=True, revision="main").num_query_tokens == 16
    with pytest.raises(TypeError, match="num_frames"):
        MplugOwlProcessor.from_pretrained(tiny(), num_frames=4)
    with pytest.raises(ValueError, match="at least 1"):
        MplugOwlProcessor(MplugOwlImageProcessor(), MplugOwlTokenizer.from_pretrained(tiny()), num_query_tokens=0)


@pytest.mark.parametrize("language", ["llama", "bloom"])
def test_threads_encode_while_others_use_the_tokenizer(tiny: Callable[..., Path], language: str) -> None:
    processor = MplugOwlProcessor.from_pretrained(tiny("image", language))
    prompts = [f"<image> {'word ' * number}" for number in range(40)]
    alone = [processor.encode_prompt(prompt) for prompt in prompts]

    def disturb(number: int) -> None:
        # Sets padding and truncation of the tokenizer that the base class calls.
        processor.tokenizer(["a b c", "d"], padding=True, truncation=True, max_length=2 + number % 3)

    with ThreadPoolExecutor(1) as other, ThreadPoolExecutor(4) as pool:
        disturbed = [other.submit(disturb, number) for number in range(200)]
        together = list(pool.map(processor.encode_prompt, prompts * 5))
        for future in disturbed:
            future.result()
    assert together == alone * 5
