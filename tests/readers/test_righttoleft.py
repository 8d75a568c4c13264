"""Lines from right to left: ligatures and spaces, as MuPDF gives them for the two kinds of files there are."""

from __future__ import annotations

import pytest

from worker.readers.righttoleft import Glyph, are_backwards, in_order, is_right_to_left

ALEFS = "اأإآ"


def drawn(word: str, *, backwards: bool) -> list[Glyph]:
    """The glyphs of a word from right to left, each a unit wide; lam-alef is one, in the order that MuPDF gives."""
    found: list[Glyph] = []
    x = 0.0
    for before, letter in zip(f" {word}", word, strict=False):
        if before == "ل" and letter in ALEFS:
            right = found[-1].right
            alef = Glyph(letter, right, right) if backwards else Glyph(letter, found[-1].left, found[-1].left)
            found.insert(len(found) - 1 if backwards else len(found), alef)
            continue
        found.append(Glyph(letter, x - 1, x))
        x -= 1
    return found


@pytest.mark.parametrize("backwards", [True, False], ids=["drawn as seen", "drawn as read"])
@pytest.mark.parametrize("text", ["حل المشكلات من خلال", "الإنتاجية علاوة للاستفادة", "التعلم الآلي الأداء"])
def test_lam_alef_comes_out_as_it_is_read_whatever_the_file_does(text: str, backwards: bool) -> None:
    spans = [drawn(word, backwards=backwards) for word in text.split()]
    found = are_backwards(spans)

    assert found is backwards
    assert " ".join(in_order(span, backwards=found) for span in spans) == text


def test_the_helper_gives_what_mupdf_gives() -> None:
    assert "".join(glyph.text for glyph in drawn("خلال", backwards=True)) == "خالل"


def test_a_page_without_a_telling_ligature_is_left_alone() -> None:
    span = drawn("للا", backwards=True)

    assert not are_backwards([span])
    assert in_order(span, backwards=False) == "لال"


def test_a_space_comes_to_where_it_stands() -> None:
    inside_a_word = [Glyph("م", 9, 10), Glyph(" ", 4, 5), Glyph("ن", 8, 9), Glyph(" ", 7, 8), Glyph("ا", 6, 7)]
    swapped = [Glyph(" ", 3, 4), Glyph("ذ", 5, 6), Glyph(" ", 0, 1), Glyph("ع", 2, 3)]

    assert in_order(inside_a_word, backwards=False) == "من ا "
    assert in_order(swapped, backwards=False) == "ذ ع "


def test_words_from_left_to_right_inside_the_line_stay() -> None:
    line = [Glyph("و", 9, 10), Glyph("R", 6, 7), Glyph(" ", 7, 8), Glyph("1", 8, 9), Glyph(" ", 5, 6), Glyph("ب", 4, 5)]

    assert in_order(line, backwards=True) == "وR 1 ب"


def test_vowel_signs_stay_with_their_letters() -> None:
    line = [Glyph("ض", 3, 4), Glyph("\u064b", 3, 3), Glyph("ا", 2, 3)]

    assert in_order(line, backwards=True) == "ضًا"


def test_scripts_are_told_apart() -> None:
    assert is_right_to_left("abc של")
    assert is_right_to_left("م")
    assert not is_right_to_left("Grüße, 漢字 12")
