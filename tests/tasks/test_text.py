from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.text import Passage, best_passages, limit_words, passages, sentences, split_to_budget, words

if TYPE_CHECKING:
    from collections.abc import Callable

letters = st.text(st.sampled_from("abcÄ1 \n\t.,!?\"')]。！"), max_size=12)
phrases = st.sampled_from(["Owl.", "It is (night).", '"Go!"', "(So it is.)", "x" * 40])
prose = st.lists(letters | phrases, max_size=12).map(" ".join)


def in_words(text: str) -> int:
    return len(text.split())


def ink(text: str) -> str:
    """What is left of a text without its spaces."""
    return "".join(text.split())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("  \n ", []),
        ("One. Two!  Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ("A line\nbreak inside. Next.", ["A line break inside.", "Next."]),
        ("Version 1.5 is out. Good.", ["Version 1.5 is out.", "Good."]),
        ("猫头鹰。夜里工作！好吗？", ["猫头鹰。", "夜里工作！", "好吗？"]),
        ('He said "Go." Then he left.', ['He said "Go."', "Then he left."]),
        ("(He slept.) She wrote.", ["(He slept.)", "She wrote."]),
    ],
)
def test_sentences(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


@given(prose)
def test_sentences_lose_nothing_but_spaces(text: str) -> None:
    assert ink("".join(sentences(text))) == ink(text)


def test_words_are_in_lower_case_without_signs() -> None:
    assert words("The Owl's 2 eyes!") == ["the", "owl", "s", "2", "eyes"]


@pytest.mark.parametrize(
    ("text", "most", "expected"),
    [
        (" One two. ", 5, "One two."),
        ("One two three. Four five six.", 4, "One two three."),
        ("One. Two three four five six.", 4, "One. Two three four …"),
        ("one two, three four", 2, "one two …"),
        ('She said "Buy it now." And then she left the house.', 6, 'She said "Buy it now."'),
    ],
)
def test_a_text_is_cut_to_a_number_of_words(text: str, most: int, expected: str) -> None:
    assert limit_words(text, most) == expected


@given(text=prose, most=st.integers(1, 30))
def test_a_cut_text_is_never_over_its_words_and_begins_as_the_whole(text: str, most: int) -> None:
    cut = limit_words(text, most).removesuffix(" …")
    assert in_words(cut) <= most
    assert ink(text).startswith(ink(cut))


def test_a_text_without_spaces_between_words_is_cut_too() -> None:
    text = "夜里的猫头鹰看书。" * 50
    assert len(limit_words(text, 20)) < 100


@given(text=prose, budget=st.integers(1, 12), count=st.sampled_from([in_words, len]))
def test_no_piece_is_over_the_budget_and_no_text_is_lost(text: str, budget: int, count: Callable[[str], int]) -> None:
    pieces = split_to_budget(text, budget, count)
    assert ink("".join(pieces)) == ink(text)
    assert all(count(piece) <= budget for piece in pieces)


def test_pieces_are_cut_between_sentences_where_they_can_be() -> None:
    assert split_to_budget("One two. Three four. Five.", 4, in_words) == ["One two. Three four.", "Five."]


def test_a_text_within_the_budget_stays_as_it_is() -> None:
    assert split_to_budget("One\n  two.", 2, in_words) == ["One\n  two."]


def test_a_single_letter_over_the_budget_ends_the_cutting() -> None:
    assert split_to_budget("ab c", 1, lambda text: 5 * len(text)) == ["a", "b", "c"]


def test_passages_know_their_part_and_are_bounded() -> None:
    found = passages(7, " ".join(f"Sentence number {n} is here." for n in range(100)))
    assert {passage.number for passage in found} == {7}
    assert len(found) > 3
    assert all(in_words(passage.text) <= 120 for passage in found)


def test_a_blank_page_has_no_passages() -> None:
    assert passages(2, "") == []
    assert passages(2, " \n ") == []


def test_passages_of_a_text_without_spaces_are_bounded_too() -> None:
    found = passages(1, "夜里的猫头鹰在图书馆里看书。" * 100)
    assert len(found) > 3


def some(*texts: str) -> list[Passage]:
    return [Passage(number=number, text=text) for number, text in enumerate(texts, start=1)]


def test_the_passage_that_shares_rare_words_is_chosen() -> None:
    candidates = some(
        "the report is about the year and the house",
        "the year was good and the people were glad",
        "the invoice number of the house is zebra",
        "the house is large and the year is long",
    )
    chosen = best_passages("What is the invoice number of the year?", candidates, budget=17, count=in_words)
    assert [passage.number for passage in chosen] == [3]


def test_passages_stand_in_their_own_order_whichever_fits_best() -> None:
    candidates = some("an owl flies", "nothing here", "the owl invoice zebra")
    chosen = best_passages("owl invoice zebra", candidates, budget=25, count=in_words)
    assert [passage.number for passage in chosen] == [1, 3]


@given(
    texts=st.lists(st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=9).map(" ".join), max_size=9),
    question=st.lists(st.sampled_from("abcdefgh"), max_size=5).map(" ".join),
    budget=st.integers(-5, 80),
)
def test_the_budget_is_kept_and_the_order_too(texts: list[str], question: str, budget: int) -> None:
    chosen = best_passages(question, some(*texts), budget=budget, count=in_words)
    assert sum(in_words(passage.text) for passage in chosen) <= max(budget, 0)
    assert [passage.number for passage in chosen] == sorted({passage.number for passage in chosen})


def test_a_question_finds_its_page_in_a_text_without_spaces() -> None:
    candidates = some("今天天气很好。我们去公园。", "发票号码是斑马。", "他们在家里吃饭。")
    chosen = best_passages("发票号码是多少？", candidates, budget=25, count=len)
    assert [passage.number for passage in chosen] == [2]
