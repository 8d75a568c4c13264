from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.errors import Failure
from domain.retry import RetryPolicy

PASSING = Failure(code="engine_failed", message="busy", retryable=True)
LASTING = Failure(code="source_damaged", message="broken")


@pytest.mark.parametrize(
    ("failure", "attempts", "max_attempts", "seconds"),
    [
        (PASSING, 1, 3, 2),
        (PASSING, 2, 3, 4),
        (PASSING, 3, 3, None),
        (PASSING, 4, 3, None),
        (PASSING, 1, 1, None),
        (PASSING, 5, 20, 32),
        (PASSING, 8, 20, 256),
        (PASSING, 9, 20, 300),
        (PASSING, 19, 20, 300),
        (LASTING, 1, 3, None),
        (LASTING, 1, 20, None),
    ],
)
def test_decisions(failure: Failure, attempts: int, max_attempts: int, seconds: float | None) -> None:
    decision = RetryPolicy(max_attempts=max_attempts).decide(failure, attempts=attempts)
    assert decision.gives_up is (seconds is None)
    assert (decision.delay.total_seconds() if decision.delay else None) == seconds


@given(
    max_attempts=st.integers(1, 20),
    base=st.floats(0.1, 100, allow_nan=False),
    cap=st.floats(0.1, 1000, allow_nan=False),
)
def test_the_wait_never_shrinks_nor_passes_the_cap_and_ends(max_attempts: int, base: float, cap: float) -> None:
    policy = RetryPolicy(max_attempts=max_attempts, base_seconds=base, max_seconds=cap)
    delays = [policy.decide(PASSING, attempts=n).delay for n in range(1, max_attempts + 1)]
    assert delays[-1] is None
    waits = [delay.total_seconds() for delay in delays[:-1] if delay is not None]
    assert len(waits) == max_attempts - 1
    assert waits == sorted(waits)
    assert all(wait <= cap + 1e-6 for wait in waits)
