"""Whether failed work is tried again, and when. A decision only: the use case writes it down, the sweep rings."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from domain.errors import Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryDecision:
    """`delay` is None where the work is given up."""

    delay: timedelta | None

    @property
    def gives_up(self) -> bool:
        return self.delay is None


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Exponential backoff with a cap on attempts. `attempts` counts runs already begun, the failed one included."""

    max_attempts: int = 3
    base_seconds: float = 2.0
    max_seconds: float = 300.0

    def decide(self, failure: Failure, *, attempts: int) -> RetryDecision:
        if not failure.retryable or attempts >= self.max_attempts:
            return RetryDecision(delay=None)
        seconds = min(self.base_seconds * 2.0 ** (attempts - 1), self.max_seconds)
        return RetryDecision(delay=timedelta(seconds=seconds))
