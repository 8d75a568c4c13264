from __future__ import annotations

import pickle
import re
from pathlib import Path

import pytest

import tasks.work  # its StoppedError belongs to the tree
from domain.errors import Code, EngineError, Failure, LostError, NightowlError, ReaderError, SourceError, failure_from

PAGE = Path(__file__).parents[2] / "docs" / "errors.md"
CODE = re.compile(r"`([a-z_]+)`")


def tree(cls: type[NightowlError] = NightowlError) -> list[type[NightowlError]]:
    return [cls, *(each for child in cls.__subclasses__() for each in tree(child))]


def rows() -> list[tuple[list[str], str]]:
    """(codes, retryable) of each row of the table."""
    cells = [line.strip("|").split("|") for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    return [(CODE.findall(row[0]), row[-1].strip()) for row in cells]


def test_the_tree_is_whole() -> None:
    assert tasks.work.StoppedError in tree()
    assert len(tree()) >= 10


@pytest.mark.parametrize("cls", tree(), ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("retryable", [True, False])
def test_every_error_survives_pickling(cls: type[NightowlError], retryable: bool) -> None:
    error = cls("page 3 of a.pdf: too dark", code=Code.PAGE_DAMAGED, retryable=retryable)
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is cls
    assert (back.message, back.code, back.retryable) == ("page 3 of a.pdf: too dark", Code.PAGE_DAMAGED, retryable)
    assert str(back) == str(error) == error.message
    assert back.failure == error.failure


@pytest.mark.parametrize("cls", tree(), ids=lambda cls: cls.__name__)
def test_defaults_of_a_class_survive_pickling(cls: type[NightowlError]) -> None:
    back = pickle.loads(pickle.dumps(cls("x")))
    assert (back.code, back.retryable) == (cls.default_code, cls.default_retryable)


def test_a_known_error_keeps_its_facts() -> None:
    failure = failure_from(SourceError("a.pdf is empty", code=Code.SOURCE_EMPTY))
    assert failure == Failure(code="source_empty", message="a.pdf is empty", retryable=False)
    assert failure.to_json() == {"code": "source_empty", "message": "a.pdf is empty", "retryable": False}


def test_a_retryable_error_stays_retryable() -> None:
    assert failure_from(EngineError("busy")).retryable
    assert failure_from(ReaderError("died", retryable=True)) == Failure(
        code=Code.READER_CRASHED, message="died", retryable=True
    )


def test_memory_is_a_failure_of_the_engine_that_may_pass() -> None:
    failure = failure_from(MemoryError())
    assert (failure.code, failure.retryable) == (Code.ENGINE_MEMORY, True)
    assert failure.message


@pytest.mark.parametrize("error", [ZeroDivisionError("by zero"), KeyError("media"), LookupError("x" * 9000)])
def test_an_unexpected_error_is_named_by_its_type(error: Exception) -> None:
    failure = failure_from(error)
    assert failure.code == Code.INTERNAL
    assert failure.retryable
    assert failure.message.startswith(f"unexpected {type(error).__name__}: ")
    assert len(failure.message) <= 500


def test_to_be_told_to_stop_is_no_failure_of_the_work() -> None:
    assert issubclass(tasks.work.StoppedError, LostError)


def test_the_page_lists_every_code_and_nothing_else() -> None:
    listed = [code for codes, _ in rows() for code in codes]
    assert sorted(listed) == sorted(code.value for code in Code)


def test_the_page_says_what_the_error_classes_do() -> None:
    said = {code: retryable for codes, retryable in rows() for code in codes}
    assert set(said.values()) <= {"yes", "no", "–"}
    for cls in (SourceError, EngineError):
        assert said[cls.default_code] == ("yes" if cls.default_retryable else "no")
    assert said[Code.INTERNAL] == said[Code.ENGINE_MEMORY] == "yes"
