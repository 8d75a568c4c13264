"""A text layer held against the picture of its page, by a few of its lines: cheap, and enough to tell a layer that says
something else than the page shows. Only for engines that recognize line by line, and scripts that they know."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.guards import agreement
from worker.engines.base import Purpose, Request, Turn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tasks.work import PartWork
    from worker.engines.base import RGB, Completion
    from worker.readers.base import LayerLine, Page

LINES = 4
LEAST_LETTERS = 12
LEAST_HEIGHT, MOST_HEIGHT = 10.0, 100.0
"""Pixels of a line that can be read at all, and of one that is no display type."""
MARGIN = 0.35
"""Of a line's height, around it."""
FLATTEST = 2
"""Width to height of the sheet that they are put on; a text detector enlarges what is flatter, at a price."""
DISAGREES = 0.4
"""Born-digital pages agree to 0.9 and more (docs/quality.md); a layer of other letters comes to less than 0.1."""
SURE = 0.8
"""Mean confidence of the lines from which the engine is believed rather than the layer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """`agreement` is 0 to 1; `is_wrong` says that the picture should be read instead of the layer."""

    agreement: float
    is_wrong: bool = False


def check_layer(work: PartWork[Any], page: Page) -> Check | None:
    """Recognize a few lines of the layer; None where no line is fit for it, or the engine is not."""
    scripts = frozenset(getattr(work.engine, "reads_scripts", ()))
    lines = _sample(page, scripts) if scripts else ()
    if not lines:
        return None
    request = Request(
        purpose=Purpose.READ,
        turns=(Turn(role="user", text=work.prompts.read_page),),
        images=(_strip(page.image, lines),),
    )
    completion = work.complete(request)
    agreed = agreement(" ".join(line.text for line in lines), _text(completion))
    return Check(agreement=round(agreed, 4), is_wrong=agreed < DISAGREES and _confidence(completion) >= SURE)


def _sample(page: Page, scripts: frozenset[str]) -> tuple[LayerLine, ...]:
    """Lines from all over the page: of its fit ones, the longest in each stretch."""
    assert page.layer is not None
    fit = [line for line in page.layer.lines if _is_fit(line, scripts)]
    count = min(LINES, len(fit))
    stretches = [fit[len(fit) * n // count : len(fit) * (n + 1) // count] for n in range(count)]
    return tuple(max(stretch, key=lambda line: len(line.text)) for stretch in stretches)


def _is_fit(line: LayerLine, scripts: frozenset[str]) -> bool:
    left, top, right, bottom = line.box
    letters = [letter for letter in line.text if letter.isalpha()]
    known = sum(unicodedata.name(letter, "").partition(" ")[0] in scripts for letter in letters)
    return (
        len(letters) >= LEAST_LETTERS
        and known == len(letters)
        and LEAST_HEIGHT <= bottom - top <= MOST_HEIGHT
        and right - left > 2 * (bottom - top)
    )


def _strip(image: RGB, lines: Sequence[LayerLine]) -> RGB:
    """The lines cut out of the page's picture, one below the other, on paper of the page's own shade."""
    pieces = [_cut(image, line) for line in lines]
    gap = max(piece.shape[0] for piece in pieces) // 2
    width = max(piece.shape[1] for piece in pieces) + 2 * gap
    height = max(sum(piece.shape[0] + gap for piece in pieces) + gap, width // FLATTEST)
    paper = np.median(np.concatenate([piece[0] for piece in pieces]), axis=0).astype(np.uint8)
    strip = np.tile(paper, (height, width, 1))
    top = gap
    for piece in pieces:
        strip[top : top + piece.shape[0], gap : gap + piece.shape[1]] = piece
        top += piece.shape[0] + gap
    return strip


def _cut(image: RGB, line: LayerLine) -> RGB:
    left, top, right, bottom = line.box
    margin = MARGIN * (bottom - top) / 2
    piece = image[
        max(0, int(top - margin)) : int(bottom + margin) + 1, max(0, int(left - margin)) : int(right + margin) + 1
    ]
    return piece if piece.size else image[:1, :1]


def _text(completion: Completion) -> str:
    return " ".join(line.text for lines in completion.lines for line in lines) or completion.text


def _confidence(completion: Completion) -> float:
    known = [line.confidence for lines in completion.lines for line in lines]
    return sum(known) / len(known) if known else 0.0
