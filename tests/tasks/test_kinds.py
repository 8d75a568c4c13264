from __future__ import annotations

import inspect
from typing import Any

import pytest

from domain.errors import ParamsError
from domain.jobs import Job
from domain.kinds import Kind
from domain.params import PARAMS, Ask, Copywrite
from domain.states import JobState
from tasks.kinds import KINDS, params_of


def job(kind: Kind, *, source: str | None = "/a.pdf", params: Any = None) -> Job:
    return Job(id="1", kind=kind, state=JobState.PENDING, source=source, params=params or {})


def test_every_kind_has_a_module_with_its_functions() -> None:
    assert set(KINDS) == set(Kind) == set(PARAMS)
    for kind, module in KINDS.items():
        assert module.kind is kind
        for name in ("plan", "run", "finish"):
            assert list(inspect.signature(getattr(module, name)).parameters) == ["work"]


def test_params_are_checked_again_since_anybody_may_have_written_the_row() -> None:
    with pytest.raises(ParamsError, match="'colour'"):
        params_of(job(Kind.OCR, params={"colour": 1}))
    assert params_of(job(Kind.ASK, params={"question": "Who?"})) == Ask(question="Who?")


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.COPYWRITE])
def test_a_kind_that_needs_a_source_says_so(kind: Kind) -> None:
    params = {"question": "Who?"} if kind is Kind.ASK else {}
    with pytest.raises(ParamsError, match=f"{kind} needs a source"):
        params_of(job(kind, source=None, params=params))


def test_copywriting_needs_a_source_or_a_brief() -> None:
    with pytest.raises(ParamsError, match="a source or the param brief"):
        params_of(job(Kind.COPYWRITE, source=None))
    assert params_of(job(Kind.COPYWRITE, source=None, params={"brief": "a lamp"})) == Copywrite(brief="a lamp")
    assert params_of(job(Kind.COPYWRITE)) == Copywrite()


@pytest.mark.parametrize("params", [[1], "text", '{"mode": "image"}', 5])
def test_params_that_are_no_object_are_wrong_params(params: Any) -> None:
    """A row may have been inserted with its JSON encoded twice."""
    with pytest.raises(ParamsError, match="object"):
        params_of(job(Kind.OCR, params=params))
