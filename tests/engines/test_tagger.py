from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest

from worker.engines.tagger import Tagger, load_names


@lru_cache(maxsize=1)
def tagger() -> Tagger:
    return Tagger()


def test_there_are_a_thousand_names_in_the_order_of_imagenet() -> None:
    names = load_names()
    assert len(names) == 1000
    assert (names[0], names[504], names[760], names[897], names[999]) == (
        "tench",
        "coffee mug",
        "refrigerator",
        "washing machine",
        "toilet paper",
    )
    assert all(name.strip() == name and 0 < len(name) < 70 for name in names)


@pytest.mark.weights
@pytest.mark.parametrize("shape", [(40, 300, 3), (300, 40, 3), (1, 1, 3), (224, 224, 3)])
def test_probabilities_add_up_for_any_shape(shape: tuple[int, int, int]) -> None:
    (found,) = tagger().probabilities([np.full(shape, 90, np.uint8)])
    assert sum(found.values()) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.weights
def test_no_pictures_have_no_names() -> None:
    assert tagger().probabilities([]) == []


@pytest.mark.weights
def test_a_picture_in_company_is_named_as_alone() -> None:
    pictures = [np.random.default_rng(seed).integers(0, 255, (90, 120, 3), np.uint8) for seed in (1, 2, 3)]
    together = tagger().probabilities(pictures)
    for picture, found in zip(pictures, together, strict=True):
        (alone,) = tagger().probabilities([picture])
        assert found == pytest.approx(alone, abs=1e-4)


@pytest.mark.weights
def test_a_drawn_traffic_light_is_named() -> None:
    image = np.full((300, 300, 3), 150, np.uint8)
    image[40:260, 105:195] = 25
    rows, columns = np.mgrid[:300, :300]
    for top, colour in ((75, (255, 30, 20)), (150, (255, 190, 0)), (225, (20, 220, 60))):
        image[(rows - top) ** 2 + (columns - 150) ** 2 < 28**2] = colour
    (found,) = tagger().probabilities([image])
    assert max(found, key=lambda name: found[name]) == "traffic light"
