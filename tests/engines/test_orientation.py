"""Boxes of one line that reach into each other are parted; all others stay."""

from __future__ import annotations

import numpy as np

from worker.engines.orientation import parted


def quad(left: float, top: float, right: float, bottom: float) -> list[list[float]]:
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


def spans(*boxes: tuple[float, float, float, float]) -> list[tuple[float, float]]:
    found = parted(np.array([quad(*box) for box in boxes], np.float32))
    return [(float(one[:, 0].min()), float(one[:, 0].max())) for one in found]


def test_two_boxes_of_one_line_meet_in_the_middle_of_their_seam() -> None:
    assert spans((29, 152, 114, 172), (104, 153, 237, 172)) == [(29, 109), (109, 237)]
    assert spans((104, 153, 237, 172), (29, 152, 114, 172)) == [(109, 237), (29, 109)]


def test_boxes_of_other_lines_or_inside_each_other_stay() -> None:
    for pair in (
        ((0, 0, 100, 20), (90, 21, 200, 41)),  # the next line
        ((0, 0, 100, 20), (101, 0, 200, 20)),  # side by side
        ((0, 0, 100, 20), (20, 0, 90, 20)),  # one in the other
        ((0, 0, 100, 20), (10, 0, 110, 20)),  # the same line found twice
    ):
        assert spans(*pair) == [(box[0], box[2]) for box in pair]
    assert parted(np.zeros((0, 4, 2), np.float32)).shape == (0, 4, 2)
