"""Conversations become ids to learn from, and masks that say what is learned."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mplug_owl.processing import IGNORED, MplugOwlProcessor

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BOS, EOS, PAD = 1, 2, 0
PER_MEDIUM = 17
TURN = "System.\nHuman: <image>\nHuman: What?\nAI: A dog.\nHuman: Sure?\nAI: Yes."


@pytest.fixture(scope="module")
def processor(tiny: Callable[..., Path]) -> MplugOwlProcessor:
    return MplugOwlProcessor.from_pretrained(tiny())


def learned(processor: MplugOwlProcessor, conversation: str, max_length: int) -> str:
    """What the labels spell; an end token is written out."""
    labels = processor.tokenize_for_training(conversation, max_length).labels[1:]
    return str(processor.decode([label for label in labels if label != IGNORED], skip_special_tokens=False))


def test_pieces_are_tokenized_one_by_one(processor: MplugOwlProcessor) -> None:
    pieces = ["System.", "\nHuman: ", None, "\nHuman: ", "What?\n", "AI: ", "A dog.", EOS]
    pieces += ["\nHuman: ", "Sure?\n", "AI: ", "Yes.", EOS]
    wanted = [BOS]
    for piece in pieces:
        if piece is None:
            wanted += [-1] * PER_MEDIUM
        else:
            wanted += [EOS] if piece == EOS else processor.tokenizer.training_piece_ids(str(piece))
    made = processor.tokenize_for_training(TURN, 200)
    assert made.ids == wanted + [PAD] * (201 - len(wanted))
    assert made.images == 1


def test_answers_and_their_ends_are_learned(processor: MplugOwlProcessor) -> None:
    assert learned(processor, TURN, 200) == "A dog.</s> Yes.</s>"


def test_masks_speak_of_the_next_position(processor: MplugOwlProcessor) -> None:
    made = processor.tokenize_for_training(TURN, 200)
    real = len([id for id in made.ids if id != PAD])
    assert [len(mask) for mask in (made.prompt_mask, made.non_media_mask, made.non_padding_mask)] == [200] * 3
    assert made.non_padding_mask == [1] * (real - 1) + [0] * (201 - real)
    assert [made.ids[at + 1] for at, other in enumerate(made.non_media_mask) if not other] == [-1] * PER_MEDIUM
    assert made.ids[made.prompt_mask.index(1) + 1] == processor.tokenizer.training_piece_ids("A dog.")[0]


@given(max_length=st.integers(1, 120), turns=st.integers(0, 3), images=st.integers(0, 3))
def test_any_length_is_kept_to(processor: MplugOwlProcessor, max_length: int, turns: int, images: int) -> None:
    text = "Start." + "\nHuman: <image>" * images + "\nHuman: What is this?\nAI: A long answer of words." * turns
    made = processor.tokenize_for_training(text, max_length)
    whole = processor.tokenize_for_training(text, 500)
    assert len(made.ids) == len(made.labels) == max_length + 1
    # It is the beginning of the whole; only an end token may stand where an answer was cut.
    cut = [at for at, (ours, full) in enumerate(zip(made.ids, whole.ids, strict=False)) if ours != full]
    assert all(made.ids[at] in (EOS, PAD) for at in cut)
    assert made.ids.count(-1) == PER_MEDIUM * made.images <= PER_MEDIUM * images
    assert sum(made.prompt_mask) <= sum(whole.prompt_mask)


def test_an_answer_that_is_cut_still_ends(processor: MplugOwlProcessor) -> None:
    whole = processor.tokenize_for_training(TURN, 200)
    begin = whole.prompt_mask.index(1)
    made = processor.tokenize_for_training(TURN, begin + 3)
    assert made.ids[-3:] == [*whole.ids[begin + 1 : begin + 3], EOS]
    assert made.prompt_mask[-3:] == [1, 1, 1]


def test_an_image_that_does_not_fit_ends_the_conversation(processor: MplugOwlProcessor) -> None:
    before = len(processor.tokenizer.training_piece_ids("System.")) + 1
    before += len(processor.tokenizer.training_piece_ids("\nHuman: "))
    fits = processor.tokenize_for_training(TURN, before + PER_MEDIUM - 1)
    assert (fits.images, fits.ids.count(-1)) == (1, PER_MEDIUM)
    short = processor.tokenize_for_training(TURN, before + PER_MEDIUM - 2)
    assert (short.images, short.ids.count(-1)) == (0, 0)
    assert short.ids[before:] == [PAD] * (PER_MEDIUM - 1)


def test_a_conversation_may_begin_with_an_image(processor: MplugOwlProcessor) -> None:
    made = processor.tokenize_for_training("<image>\nHuman: What?\nAI: This.", 100)
    assert made.ids[: 1 + PER_MEDIUM] == [BOS] + [-1] * PER_MEDIUM
    assert made.images == 1


def test_an_empty_answer_is_an_end(processor: MplugOwlProcessor) -> None:
    assert learned(processor, "\nHuman: Say nothing.\nAI: \nHuman: Now?\nAI: Yes.", 100) == "</s> Yes.</s>"


def test_nothing_but_answers_is_learned(processor: MplugOwlProcessor) -> None:
    assert learned(processor, "System.\nHuman: <image>\nHuman: What?", 100) == ""


def test_a_text_about_images_stays_text(processor: MplugOwlProcessor) -> None:
    text = "\nHuman: What is <image> in SVG?\nAI: An element."
    made = processor.tokenize_for_training(text, 100, images=0)
    assert made.images == 0
    assert min(made.ids) >= 0
    assert "What is <image> in SVG?" in processor.decode(made.ids)


def test_markers_and_images_must_be_as_many(processor: MplugOwlProcessor) -> None:
    with pytest.raises(ValueError, match="1 <image> in the prompts, 2 images given"):
        processor.tokenize_for_training(TURN, 100, images=2)
    assert processor.tokenize_for_training(TURN, 100, images=1).images == 1


def test_a_length_must_be_positive(processor: MplugOwlProcessor) -> None:
    with pytest.raises(ValueError, match="max_length 0"):
        processor.tokenize_for_training(TURN, 0)


def test_videos_count_too(tiny: Callable[..., Path]) -> None:
    processor = MplugOwlProcessor.from_pretrained(tiny("video"))
    made = processor.tokenize_for_training("\nHuman: <|video|>\nHuman: What?\nAI: Rain.", 100)
    assert (made.videos, made.images) == (1, 0)
    assert made == processor.tokenize_for_training("\nHuman: <|video|>\nHuman: What?\nAI: Rain.", 100, images=0)
    assert sum(not other for other in made.non_media_mask) == PER_MEDIUM


def test_bloom_pads_with_its_own_token(tiny: Callable[..., Path]) -> None:
    processor = MplugOwlProcessor.from_pretrained(tiny("image", "bloom"))
    made = processor.tokenize_for_training(TURN, 200)
    assert made.ids[-1] == 3
    assert learned(processor, TURN, 200) == "A dog.</s>Yes.</s>"
