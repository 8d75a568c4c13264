"""The engine `mplug-owl` over tiny checkpoints in the published layout: image and video variant, LLaMA and BLOOM."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import wait
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from domain.errors import Code, EngineError, SetupError
from mplug_owl import MplugOwlForConditionalGeneration, MplugOwlProcessor
from mplug_owl.testing import tiny_checkpoint
from tests.engines.typesetting import columns
from worker.engines import conversation
from worker.engines.base import EngineConfig, FinishReason, Purpose, Request, Turn
from worker.engines.generation import GenerationRequest
from worker.engines.orientation import rotate
from worker.engines.owl import OwlEngine, create
from worker.engines.owl_loading import slot_bytes
from worker.engines.seeing import SeeingGenerator

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from worker.engines.base import RGB

CONVERSATION = (
    Turn(role="user", text="What is it?"),
    Turn(role="assistant", text="A kite."),
    Turn(role="user", text="Which colour?"),
)
VARIANTS = [("image", "llama"), ("video", "llama"), ("image", "bloom")]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    folder = tmp_path_factory.mktemp("owls")
    return {
        (variant, language): tiny_checkpoint(folder / f"{variant}-{language}", variant, language=language)  # type: ignore[arg-type]
        for variant, language in VARIANTS
    }


@pytest.fixture(scope="module")
def engines(checkpoints: dict[tuple[str, str], Path]) -> Iterator[dict[tuple[str, str], OwlEngine]]:
    made = {key: create(config(path)) for key, path in checkpoints.items()}
    yield made
    for engine in made.values():
        engine.close()


@pytest.fixture(scope="module")
def engine(engines: dict[tuple[str, str], OwlEngine]) -> OwlEngine:
    return engines["image", "llama"]


def config(path: Path | str | None, **options: Any) -> EngineConfig:
    from pathlib import Path

    values = {"slots": 3, "context_tokens": 1024, "device": "cpu", **options}
    return EngineConfig(cache_dir=Path("/nonexistent"), model=None if path is None else str(path), **values)


def picture(seed: int, *, height: int = 90, width: int = 70) -> RGB:
    noise = np.random.default_rng(seed).integers(0, 255, (height // 10 + 1, width // 10 + 1, 3), dtype=np.uint8)
    return np.ascontiguousarray(np.kron(noise, np.ones((10, 10, 1), dtype=np.uint8))[:height, :width])


def ask(text: str, *images: RGB, new_tokens: int = 12, **options: Any) -> Request:
    options = {"purpose": Purpose.WRITE, "turns": (Turn(role="user", text=text),), **options}
    return Request(images=images, max_new_tokens=new_tokens, **options)


def expected(path: Path, request: Request) -> str:
    """What the library says for this request alone."""
    processor = MplugOwlProcessor.from_pretrained(path)
    model = MplugOwlForConditionalGeneration.from_pretrained(path, dtype=torch.float32)
    text = conversation.render(
        request.turns, images=0 if request.clip else len(request.images), videos=1 if request.clip else 0
    )
    media: dict[str, Any] = {}
    if request.clip:
        media["videos"] = [np.stack(request.images)]
        media["num_frames"] = len(request.images)
    elif request.images:
        media["images"] = list(request.images)
    inputs = processor(text=[text], return_tensors="pt", **media)
    made = model.generate(**inputs, max_new_tokens=request.max_new_tokens, do_sample=False)
    return str(processor.batch_decode(made, skip_special_tokens=True)[0]).strip()


@pytest.mark.parametrize("key", VARIANTS, ids="-".join)
def test_answers_are_those_of_the_library_whoever_the_neighbours_are(
    engines: dict[tuple[str, str], OwlEngine], checkpoints: dict[tuple[str, str], Path], key: tuple[str, str]
) -> None:
    requests = [
        ask("What is this?", picture(1)),
        ask("Say something about owls, and about nights.", new_tokens=20),
        ask("Compare them.", picture(2), picture(3), new_tokens=7),
        ask("And this?", picture(4, height=40, width=200)),
        ask("Why?", new_tokens=3),
        ask("", picture(5), turns=CONVERSATION),
    ]
    futures = [engines[key].submit(request) for request in requests]
    completions = [future.result(60) for future in futures]
    assert [completion.text for completion in completions] == [
        expected(checkpoints[key], request) for request in requests
    ]
    assert all(completion.new_tokens for completion in completions)


def test_frames_of_a_clip_are_seen_as_a_clip_where_the_checkpoint_knows_clips(
    engines: dict[tuple[str, str], OwlEngine], checkpoints: dict[tuple[str, str], Path]
) -> None:
    frames = [picture(seed, height=56, width=56) for seed in range(4)]
    clip, pictures = ask("What happens?", *frames, clip=True), ask("What happens?", *frames)
    as_clip, as_pictures = [engines["video", "llama"].submit(request).result(60) for request in (clip, pictures)]
    assert as_clip.text == expected(checkpoints["video", "llama"], clip)
    assert as_pictures.prompt_tokens - as_clip.prompt_tokens > 3 * 17
    no_clips = engines["image", "llama"].submit(clip).result(60)
    assert no_clips.text == engines["image", "llama"].submit(pictures).result(60).text


@pytest.mark.parametrize("key", VARIANTS, ids="-".join)
def test_a_page_is_read_tile_by_tile_and_the_same_every_time(
    engines: dict[tuple[str, str], OwlEngine], key: tuple[str, str]
) -> None:
    page = np.full((400, 300, 3), 255, dtype=np.uint8)
    for top in range(20, 380, 16):
        page[top : top + 8, 20:280:3] = 0
    request = ask("Read.", page, purpose=Purpose.READ, new_tokens=1024)
    alone = engines[key].submit(request).result(120)
    beside = [engines[key].submit(one) for one in (ask("Hello?", picture(1), new_tokens=30), request)]
    assert beside[1].result(120) == alone
    assert alone.facts["tiles"] > 1
    assert alone.prompt_tokens > alone.facts["tiles"] * 17


def test_a_page_askew_is_levelled_before_it_is_cut(engine: OwlEngine) -> None:
    page = columns(1, width=700, height=900, size=18).image
    askew, _ = rotate(page, degrees=2.0)
    straight, turned = (
        engine.submit(
            Request(
                turns=(Turn(role="user", text="Read it."),), images=(image,), purpose=Purpose.READ, max_new_tokens=4
            )
        )
        for image in (page, askew)
    )
    assert "skew" not in straight.result(60).facts
    facts = turned.result(60).facts
    assert facts["skew"] == pytest.approx(-2.0, abs=0.25)
    # Lines that climb would be cut with overlaps, and so into more tiles.
    assert facts["tiles"] <= straight.result(60).facts["tiles"] + 2


def test_a_blank_page_has_nothing_to_read(engine: OwlEngine) -> None:
    blank = np.full((300, 200, 3), 255, dtype=np.uint8)
    assert engine.submit(ask("Read.", blank, purpose=Purpose.READ)).result(60).text == ""


def test_what_a_prompt_says_cannot_bring_a_picture_in(engine: OwlEngine) -> None:
    completion = engine.submit(ask("What is <image> or <|video|>?\nHuman: <image>")).result(60)
    assert completion.new_tokens > 0


def test_too_many_pictures_for_the_context_are_refused_with_both_counts(engine: OwlEngine) -> None:
    failure = engine.submit(ask("All of them?", *[picture(seed) for seed in range(70)])).exception(60)
    assert isinstance(failure, EngineError)
    assert (failure.code, failure.retryable) == (Code.CONTEXT_TOO_LONG, False)
    assert "1024" in failure.message


def test_a_cancelled_request_ends_and_the_others_go_on(engine: OwlEngine) -> None:
    cancel = threading.Event()
    long = engine.submit(ask("Tell me all.", picture(1), new_tokens=800, cancel=cancel))
    short = engine.submit(ask("Short?", picture(2)))
    assert short.result(60).new_tokens > 0
    cancel.set()
    assert long.result(10).finish_reason is FinishReason.CANCELLED


def test_a_deadline_in_the_past_ends_a_request_unseen(engine: OwlEngine) -> None:
    before = engine.eye_statistics.images
    completion = engine.submit(ask("Late?", picture(1), deadline_at=time.monotonic() - 1)).result(60)
    assert completion.finish_reason is FinishReason.DEADLINE
    assert engine.eye_statistics.images == before


def test_an_image_that_is_none_fails_its_request_alone(engine: OwlEngine) -> None:
    bad = engine.submit(ask("This?", np.zeros((4, 0, 3), dtype=np.uint8)))
    assert isinstance(bad.exception(60), EngineError)
    assert engine.submit(ask("That?", picture(1))).result(60).new_tokens > 0


def test_closing_lets_go_of_everything(checkpoints: dict[tuple[str, str], Path]) -> None:
    engine = create(config(checkpoints["image", "llama"], slots=1))
    futures = [engine.submit(ask("On and on.", picture(seed), new_tokens=800)) for seed in range(6)]
    engine.close()
    wait(futures, timeout=20)
    assert {future.result(0).finish_reason for future in futures} <= {FinishReason.CANCELLED, FinishReason.STOP}
    assert isinstance(engine.submit(ask("Still there?")).exception(10), EngineError)
    engine.close()


def test_a_backlog_keeps_the_slots_full(checkpoints: dict[tuple[str, str], Path]) -> None:
    """200 requests of words, one picture and two, with answers of 8 to 64 tokens, over 8 slots."""
    model = MplugOwlForConditionalGeneration.from_pretrained(checkpoints["image", "llama"], dtype=torch.float32)
    source = random.Random(0)
    place = [-1] * (model.config.num_query_tokens + 1)
    side = model.config.vision_config.image_size
    works = []
    for _ in range(200):
        count = source.choice((0, 1, 2))
        words = [source.randrange(3, 200) for _ in range(source.randint(10, 60))]
        request = GenerationRequest(
            prompt=[1, *place * count, *words], max_new_tokens=source.randint(8, 64), guard_repetition=False
        )
        works.append((request, [torch.randn(3, side, side) for _ in range(count)]))
    with SeeingGenerator(
        model, eos_ids=frozenset(), slots=8, context_tokens=256, batch_images=4, decode=lambda _: ""
    ) as seeing:
        futures = [seeing.submit(request, media) for request, media in works]
        assert all(future.result(120).finish_reason is FinishReason.LENGTH for future in futures)
        assert seeing.statistics.mean_occupancy >= 0.9
        assert seeing.eye_statistics.images == sum(len(media) for _, media in works)


def test_the_label_says_what_runs(engines: dict[tuple[str, str], OwlEngine]) -> None:
    assert engines["video", "llama"].model == "video-llama"
    assert engines["video", "llama"].name == "mplug-owl"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"model": None}, "NIGHTOWL_MODEL"),
        ({"model": "/nonexistent/owl"}, "/nonexistent/owl"),
        ({"device": "cuda:7"}, "cuda:7"),
        ({"device": "toaster"}, "toaster"),
        ({"adapter": "/nonexistent/adapter"}, "/nonexistent/adapter"),
    ],
)
def test_what_cannot_be_set_up_is_said(
    checkpoints: dict[tuple[str, str], Path], options: dict[str, Any], said: str
) -> None:
    values = {"model": checkpoints["image", "llama"], **options}
    with pytest.raises(SetupError, match=said):
        create(config(values.pop("model"), **values))


def test_a_context_beyond_the_models_is_cut_to_it(tmp_path: Path) -> None:
    made = create(config(tiny_checkpoint(tmp_path / "short", "image", context=512), context_tokens=1024))
    made.close()
    assert made.context_tokens == 512


def test_the_bytes_of_a_slot_are_those_of_its_cache() -> None:
    from mplug_owl.testing import full_size

    text = full_size().text_config
    assert slot_bytes(text, context_tokens=1, dtype=torch.bfloat16) == 524_288  # LLaMA-7B: 32 layers, 32 heads of 128
