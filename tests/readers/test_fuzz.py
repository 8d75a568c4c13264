"""A few mutants of every format; `make fuzz` reads thousands."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from domain.limits import Limits
from tests.readers.fuzz import good_files, mutant, run
from tests.readers.peaks import cost
from tests.readers.seeds import SEEDS
from worker.readers.children import Readers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LIMITS = Limits(read_seconds=10)
MUTANTS = 20


@pytest.fixture(scope="module")
def bounded() -> Iterator[Readers]:
    with Readers(limits=LIMITS, children=1) as readers:
        yield readers


@pytest.mark.parametrize("format", SEEDS)
def test_the_good_files_are_good(bounded: Readers, tmp_path: Path, format: str) -> None:
    for number, content in enumerate(good_files(format)):
        path = tmp_path / f"{number}.{format}"
        path.write_bytes(content)
        assert cost(bounded, path, limits=LIMITS).ends == ("ok",)


@pytest.mark.parametrize("format", SEEDS)
def test_a_mutant_harms_nobody(bounded: Readers, tmp_path: Path, format: str) -> None:
    tally = run(bounded, format, range(MUTANTS), seed=7, limits=LIMITS, folder=tmp_path)
    assert tally.wrong == []
    assert tally.ends.total() == MUTANTS


def test_a_mutant_can_be_made_again() -> None:
    assert mutant(1, "pdf", 17) == mutant(1, "pdf", 17)
    assert len({mutant(1, "svg", number) for number in range(50)}) > 40
    assert mutant(1, "svg", 3) != mutant(2, "svg", 3)
