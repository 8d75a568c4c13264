"""Hostile files end as they may, say which limit they met, and leave the next read unharmed.

The heavy ones take minutes together: `python -m tests.readers.peaks` runs all of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from domain.limits import Limits
from tests.readers.hostile import Case, cases
from tests.readers.peaks import MAPPED_MIB, cost
from worker.readers.children import Readers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECONDS = 6.0
LIMITS = Limits(read_seconds=SECONDS)


@pytest.fixture(scope="module")
def bounded() -> Iterator[Readers]:
    with Readers(limits=LIMITS, children=1) as readers:
        yield readers


@pytest.mark.parametrize("case", [case for case in cases() if not case.heavy], ids=lambda case: case.name)
def test_a_hostile_file_ends_as_it_may(bounded: Readers, tmp_path: Path, case: Case) -> None:
    path = tmp_path / case.name
    path.write_bytes(case.make())
    spent = cost(bounded, path, limits=LIMITS)
    # On a busy machine any of them may meet the short time of this test.
    allowed = case.ends | {"read_timeout"}
    assert spent.wrong(allowed, cap_mib=LIMITS.read_memory_mb + MAPPED_MIB) == "", spent.message
    assert spent.seconds < 2.5 * SECONDS + 5
