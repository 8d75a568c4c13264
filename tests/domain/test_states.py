from __future__ import annotations

import pytest

from domain.states import JobState, PartState, outcome

S, P, F = JobState.SUCCEEDED, JobState.PARTIAL, JobState.FAILED


@pytest.mark.parametrize(
    ("succeeded", "failed", "damaged", "state"),
    [
        (0, 0, 0, S),  # a brief alone has no parts
        (3, 0, 0, S),
        (3, 0, 1, P),
        (3, 0, 3, P),
        (2, 1, 0, P),
        (2, 1, 1, P),
        (1, 999, 0, P),
        (0, 1, 0, F),
        (0, 3, 0, F),
    ],
)
def test_the_outcome_of_a_job_follows_from_its_parts(
    succeeded: int, failed: int, damaged: int, state: JobState
) -> None:
    assert outcome(succeeded=succeeded, failed=failed, damaged=damaged) is state
    assert state.is_final


def test_which_states_are_final() -> None:
    assert {state for state in JobState if not state.is_final} == {JobState.PENDING, JobState.RUNNING}
    assert {state for state in JobState if state.is_final} == {S, P, F, JobState.CANCELLED}
    assert {state for state in PartState if state.is_final} == {PartState.SUCCEEDED, PartState.FAILED}
