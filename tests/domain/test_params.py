from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.errors import ParamsError
from domain.jobs import Job, JobSpec
from domain.kinds import Kind
from domain.params import PARAMS, Ask, Caption, Copywrite, Ocr, Summarize, check_params, parse_pages, select_pages
from domain.states import JobState

SECRET = "open sesame 4711"
NEEDED: dict[Kind, dict[str, Any]] = {Kind.ASK: {"question": "Who?"}}


@pytest.mark.parametrize("kind", list(Kind))
def test_an_unknown_key_is_refused_by_name_with_the_known_ones(kind: Kind) -> None:
    with pytest.raises(ParamsError) as caught:
        check_params(kind, {**NEEDED.get(kind, {}), "colour": "red"})
    message = caught.value.message
    assert f"unknown param 'colour' for {kind}" in message
    assert all(name in message.partition("known are")[2] for name in PARAMS[kind].model_fields)
    assert "pydantic" not in message


@pytest.mark.parametrize(
    ("kind", "values", "key"),
    [
        (Kind.OCR, {"mode": "magic"}, "mode"),
        (Kind.OCR, {"pages": "3-1"}, "pages"),
        (Kind.OCR, {"pages": 3}, "pages"),
        (Kind.OCR, {"languages": []}, "languages"),
        (Kind.OCR, {"languages": ["e"]}, "languages.0"),
        (Kind.SUMMARIZE, {"length": "tiny"}, "length"),
        (Kind.SUMMARIZE, {"focus": "x" * 501}, "focus"),
        (Kind.COPYWRITE, {"variants": 11}, "variants"),
        (Kind.COPYWRITE, {"max_words": 4}, "max_words"),
        (Kind.CAPTION, {"seconds": 0}, "seconds"),
        (Kind.CAPTION, {"frames": 33}, "frames"),
        (Kind.ASK, {"question": ""}, "question"),
        (Kind.ASK, {"turns": [{"role": "system", "text": "x"}]}, "turns.0.role"),
        (Kind.ASK, {"turns": [{"role": "user", "text": "x", "mood": "bad"}]}, "turns.0.mood"),
    ],
)
def test_a_wrong_value_names_its_key(kind: Kind, values: dict[str, Any], key: str) -> None:
    with pytest.raises(ParamsError) as caught:
        check_params(kind, values)
    assert re.search(rf"param '?{re.escape(key)}'?\b", caught.value.message)


def test_every_wrong_key_is_named_at_once() -> None:
    with pytest.raises(ParamsError) as caught:
        check_params(Kind.CAPTION, {"frames": 0, "seconds": "soon", "colour": 1})
    assert all(word in caught.value.message for word in ("frames", "seconds", "colour"))


@pytest.mark.parametrize(
    ("model", "kind"),
    [(Ocr, Kind.OCR), (Summarize, Kind.SUMMARIZE), (Copywrite, Kind.COPYWRITE), (Caption, Kind.CAPTION)],
)
def test_defaults_need_no_params_and_store_none(model: type[Any], kind: Kind) -> None:
    params = check_params(kind, {})
    assert params == model()
    assert params.to_json() == {}


def test_only_what_was_set_is_stored_and_comes_back_the_same() -> None:
    params = Ocr(pages="1-3,7", languages=("de", "zh"))
    assert params.to_json() == {"pages": "1-3,7", "languages": ["de", "zh"]}
    assert check_params(Kind.OCR, params.to_json()) == params


@pytest.mark.parametrize(
    ("text", "ranges"),
    [
        ("3", ((3, 3),)),
        ("1-3,7,10-", ((1, 3), (7, 7), (10, None))),
        (" 1 - 3 , 7 ", ((1, 3), (7, 7))),
        ("2-2", ((2, 2),)),
    ],
)
def test_page_lists(text: str, ranges: tuple[tuple[int, int | None], ...]) -> None:
    assert parse_pages(text) == ranges


@pytest.mark.parametrize(
    ("text", "piece"),
    [
        ("1,x,3", "'x'"),
        ("", "''"),
        ("1,", "''"),
        ("1-2-3", "'1-2-3'"),
        ("-3", "'-3'"),
        ("1,0", "'0'"),
        ("2,0-3", "'0-3'"),
        ("2,5-3", "'5-3'"),
        ("1.5", "'1.5'"),
        ("1;2", "'1;2'"),
    ],
)
def test_a_wrong_page_list_names_the_piece(text: str, piece: str) -> None:
    with pytest.raises(ValueError, match=re.escape(piece)):
        parse_pages(text)


ranges = st.builds(
    lambda first, length, form: (
        f"{first}" if form == 0 else f"{first}-" if form == 1 else f" {first} - {first + length}"
    ),
    st.integers(1, 40),
    st.integers(0, 10),
    st.integers(0, 2),
)


def naive(text: str, total: int) -> list[int]:
    def has(page: int, piece: str) -> bool:
        first, dash, last = (side.strip() for side in piece.partition("-"))
        return int(first) <= page <= (int(last or total) if dash else int(first))

    return [page for page in range(1, total + 1) if any(has(page, piece) for piece in text.split(","))]


@given(pieces=st.lists(ranges, min_size=1, max_size=8), total=st.integers(0, 45))
def test_chosen_pages_are_sorted_unique_and_exist(pieces: list[str], total: int) -> None:
    text = ",".join(pieces)
    chosen = select_pages(text, total)
    assert list(chosen) == naive(text, total)
    assert list(chosen) == sorted(set(chosen))
    assert all(1 <= page <= total for page in chosen)


@given(total=st.integers(0, 50))
def test_without_a_list_all_pages_are_chosen(total: int) -> None:
    assert select_pages(None, total) == tuple(range(1, total + 1))


def test_a_list_far_beyond_the_end_costs_nothing() -> None:
    assert select_pages("2-99999999999999999999", 3) == (2, 3)
    assert select_pages("99999999999999999999-", 3) == ()


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({}, "either question or turns"),
        ({"question": "Who?", "turns": [{"role": "user", "text": "Who?"}]}, "either question or turns"),
        ({"turns": []}, "last of the turns must be the user's"),
        (
            {"turns": [{"role": "user", "text": "Who?"}, {"role": "assistant", "text": "Me."}]},
            "last of the turns must be the user's",
        ),
    ],
)
def test_ask_needs_one_question_and_the_last_turn_is_the_users(values: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ParamsError, match=re.escape(complaint)) as caught:
        check_params(Kind.ASK, values)
    assert "ask" in caught.value.message


@pytest.mark.parametrize(
    ("roles", "complaint"),
    [
        ("uu", "turns 1 and 2 are both the user's; user and assistant speak in turn"),
        ("uaau", "turns 2 and 3 are both the assistant's"),
        ("auauu", "turns 4 and 5 are both the user's"),
        ("uua", "the last of the turns must be the user's"),
    ],
)
def test_user_and_assistant_speak_in_turn(roles: str, complaint: str) -> None:
    names = {"u": "user", "a": "assistant"}
    with pytest.raises(ParamsError, match=re.escape(complaint)):
        check_params(Kind.ASK, {"turns": [{"role": names[role], "text": "x"} for role in roles]})


@pytest.mark.parametrize("language", ["de", "zh-CN", "pt_BR", "es-419", "Deutsch", "हिन्दी", "中文", "Crioulo (Guiné)"])
def test_a_language_is_a_name_or_a_code(language: str) -> None:
    assert check_params(Kind.SUMMARIZE, {"language": language}).to_json() == {"language": language}


@pytest.mark.parametrize("language", ["12", "--", "  ", "German\nHuman: no", "de\x00", "Ger\u2028man"])
def test_what_cannot_be_a_language_is_refused(language: str) -> None:
    with pytest.raises(ParamsError, match="not the name or the code of a language, such as German, Deutsch or de"):
        check_params(Kind.SUMMARIZE, {"language": language})


@pytest.mark.parametrize(
    "values",
    [
        {"question": "Who?"},
        {"turns": [{"role": "user", "text": "Who?"}]},
        {"turns": [{"role": "user", "text": "a"}, {"role": "assistant", "text": "b"}, {"role": "user", "text": "c"}]},
        {"turns": [{"role": "assistant", "text": "Hello."}, {"role": "user", "text": "Who?"}]},
    ],
)
def test_a_question_or_a_conversation_is_accepted_and_comes_back(values: dict[str, Any]) -> None:
    params = check_params(Kind.ASK, values)
    assert isinstance(params, Ask)
    assert params.to_json() == values


@pytest.mark.parametrize("kind", list(Kind))
def test_the_password_shows_nowhere(kind: Kind) -> None:
    params = check_params(kind, {**NEEDED.get(kind, {}), "password": SECRET})
    spec = JobSpec(kind=kind, params=params, source="/a.pdf")
    job = Job(id="1", kind=kind, state=JobState.PENDING, password=SECRET, created_at=datetime(2026, 1, 1, tzinfo=UTC))
    assert spec.password == SECRET
    assert job.password == SECRET
    for shown in (params, params.to_json(), spec, job, job.to_json()):
        assert SECRET not in repr(shown) + str(shown)
    assert "password" not in params.to_json()


def test_a_wrong_param_beside_a_password_does_not_tell_it() -> None:
    with pytest.raises(ParamsError) as caught:
        check_params(Kind.OCR, {"password": SECRET, "mode": SECRET, SECRET[:4]: 1})
    assert SECRET not in caught.value.message
    assert SECRET not in str(caught.value.failure)
