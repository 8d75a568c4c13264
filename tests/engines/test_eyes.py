"""The visual side's batches, over an encoder that records what it is given."""

from __future__ import annotations

import pytest
import torch

from domain.errors import Code, EngineError
from worker.engines.eyes import Eyes, Look

SIDE = 2
Outcome = list[torch.Tensor] | EngineError | None


class Encoder:
    """Features of a medium are its mean, twice. Raises `error` for more images than `most`."""

    def __init__(self, *, most: int = 100, error: Exception | None = None) -> None:
        self.most = most
        self.error = error or torch.OutOfMemoryError("no memory")
        self.batches: list[tuple[int, ...]] = []

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        if len(pixels) * (pixels.shape[2] if pixels.dim() == 5 else 1) > self.most:
            raise self.error
        self.batches.append(tuple(pixels.shape))
        means = pixels.flatten(1).mean(dim=1)
        return means[:, None, None].expand(-1, 1, 2)


def nothing() -> dict[str, Outcome]:
    return {}


def picture(value: float) -> torch.Tensor:
    return torch.full((3, SIDE, SIDE), float(value))


def clip(value: float, frames: int) -> torch.Tensor:
    return torch.full((3, frames, SIDE, SIDE), float(value))


def look(outcomes: dict[str, Outcome], name: str, *media: torch.Tensor, dropped: bool = False) -> Look:
    return Look(media=media, done=lambda outcome: outcomes.update({name: outcome}), is_dropped=lambda: dropped)


def run(eyes: Eyes) -> int:
    feeds = 0
    while eyes.waiting:
        eyes.feed()
        feeds += 1
        assert feeds < 100
    return feeds


def values(outcome: Outcome) -> list[float]:
    assert isinstance(outcome, list)
    return [round(float(one[0, 0]), 3) for one in outcome]


def test_pictures_of_several_requests_share_a_batch_and_come_back_in_their_own_order() -> None:
    encoder, outcomes = Encoder(), nothing()
    eyes = Eyes(encoder, batch_images=4)
    eyes.add(look(outcomes, "a", picture(1), picture(2), picture(3)))
    eyes.add(look(outcomes, "b", picture(4)))
    eyes.add(look(outcomes, "c", picture(5)))
    run(eyes)
    assert encoder.batches == [(4, 3, SIDE, SIDE), (1, 3, SIDE, SIDE)]
    assert [values(outcomes[name]) for name in "abc"] == [[1, 2, 3], [4], [5]]
    assert (eyes.statistics.images, eyes.statistics.batches) == (5, 2)


def test_a_batch_holds_one_shape_and_passes_others_over_without_losing_their_places() -> None:
    encoder, outcomes = Encoder(), nothing()
    eyes = Eyes(encoder, batch_images=4)
    eyes.add(look(outcomes, "a", picture(1)))
    eyes.add(look(outcomes, "b", clip(2, 3), picture(3)))
    eyes.add(look(outcomes, "c", clip(4, 2)))
    eyes.add(look(outcomes, "d", picture(5)))
    run(eyes)
    assert encoder.batches == [(3, 3, SIDE, SIDE), (1, 3, 3, SIDE, SIDE), (1, 3, 2, SIDE, SIDE)]
    assert [values(outcomes[name]) for name in "abcd"] == [[1], [2, 3], [4], [5]]


def test_the_frames_of_clips_count_and_a_long_clip_goes_alone() -> None:
    encoder, outcomes = Encoder(), nothing()
    eyes = Eyes(encoder, batch_images=8)
    for name, frames in (("a", 4), ("b", 4), ("c", 4), ("d", 20)):
        eyes.add(look(outcomes, name, clip(1, frames)))
    run(eyes)
    assert [shape[:1] + shape[2:3] for shape in encoder.batches] == [(2, 4), (1, 4), (1, 20)]
    assert eyes.statistics.images == 32


def test_what_nobody_waits_for_is_not_encoded() -> None:
    encoder, outcomes = Encoder(), nothing()
    eyes = Eyes(encoder, batch_images=4)
    eyes.add(look(outcomes, "dropped", picture(1), picture(2), dropped=True))
    eyes.add(look(outcomes, "wanted", picture(3)))
    run(eyes)
    assert encoder.batches == [(1, 3, SIDE, SIDE)]
    assert outcomes["dropped"] is None
    assert values(outcomes["wanted"]) == [3]


def test_where_memory_runs_out_the_batch_is_halved_and_nothing_is_lost() -> None:
    encoder, outcomes = Encoder(most=3), nothing()
    eyes = Eyes(encoder, batch_images=8)
    for number in range(8):
        eyes.add(look(outcomes, str(number), picture(number)))
    run(eyes)
    assert eyes.batch_images == 2
    assert [values(outcomes[str(number)]) for number in range(8)] == [[number] for number in range(8)]


def test_a_medium_that_does_not_fit_alone_fails_its_request_with_the_sizes() -> None:
    encoder, outcomes = Encoder(most=4), nothing()
    eyes = Eyes(encoder, batch_images=4)
    eyes.add(look(outcomes, "long", clip(1, 9)))
    eyes.add(look(outcomes, "short", clip(2, 2)))
    run(eyes)
    failure = outcomes["long"]
    assert isinstance(failure, EngineError)
    assert failure.code == Code.ENGINE_MEMORY
    assert "9 images" in failure.message
    assert values(outcomes["short"]) == [2]


def test_an_encoder_that_fails_fails_its_batch_once_each() -> None:
    encoder, outcomes = Encoder(most=1, error=RuntimeError("boom")), nothing()
    eyes = Eyes(encoder, batch_images=2)
    eyes.add(look(outcomes, "both", picture(1), picture(2)))
    eyes.add(look(outcomes, "next", picture(3)))
    run(eyes)
    failure = outcomes["both"]
    assert isinstance(failure, EngineError)
    assert "boom" in failure.message
    assert values(outcomes["next"]) == [3]


@pytest.mark.parametrize("fed", [0, 1])
def test_closing_hands_back_what_waits(fed: int) -> None:
    outcomes: dict[str, Outcome] = {}
    eyes = Eyes(Encoder(), batch_images=1)
    eyes.add(look(outcomes, "a", picture(1), picture(2)))
    for _ in range(fed):
        eyes.feed()
    eyes.close()
    assert outcomes == {"a": None}
