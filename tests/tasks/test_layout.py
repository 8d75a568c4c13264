from __future__ import annotations

import math
import random
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.layout import TextLine, from_engine, from_layer, rows, to_markdown, to_text
from worker.engines.base import Line
from worker.engines.reading_order import Box, reading_order
from worker.readers.base import LayerLine, LayerTable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HEIGHT, LEADING = 20.0, 26.0


def line(text: str, left: float, top: float, *, width: float | None = None, height: float = HEIGHT) -> TextLine:
    return TextLine(text=text, box=Box(left, top, left + (width or 10.0 * len(text)), top + height))


def column(name: str, *, left: float, top: float, count: int, width: float = 300) -> list[TextLine]:
    return [line(f"{name}{n} lorem ipsum dolor sit", left, top + n * LEADING, width=width) for n in range(count)]


def shuffled(lines: Sequence[TextLine]) -> list[TextLine]:
    return random.Random(7).sample(list(lines), len(lines))


def first_words(lines: Sequence[TextLine]) -> list[str]:
    return [row.text.split()[0] for row in rows(shuffled(lines))]


@pytest.mark.parametrize("columns", [1, 2, 3])
def test_columns_are_read_one_after_the_other(columns: int) -> None:
    page = [column("abc"[n], left=340 * n, top=100, count=6) for n in range(columns)]
    title = line("Title over all of the columns", 0, 20, width=340 * columns - 40)
    foot = line("Foot under all of the columns", 0, 320, width=340 * columns - 40)
    expected = ["Title", *(f"{'abc'[n]}{k}" for n in range(columns) for k in range(6)), "Foot"]
    assert first_words([title, foot, *(piece for part in page for piece in part)]) == expected


def test_columns_with_lines_of_their_own_height_are_kept_apart() -> None:
    left = column("a", left=0, top=100, count=8)
    right = [line(f"b{n} lorem ipsum dolor", 340, 91 + n * 31, width=300) for n in range(6)]
    assert first_words([*left, *right]) == [f"a{n}" for n in range(8)] + [f"b{n}" for n in range(6)]


def test_columns_under_a_heading_each_are_two_bands() -> None:
    bands: list[TextLine] = []
    for n, top in enumerate((0, 300)):
        bands.append(line(f"H{n} heading over both the columns", 0, top, width=640))
        bands += column(f"a{n}", left=0, top=top + 50, count=4) + column(f"b{n}", left=340, top=top + 50, count=4)
    order = first_words(bands)
    assert order == [
        w for n in (0, 1) for w in (f"H{n}", *(f"a{n}{k}" for k in range(4)), *(f"b{n}{k}" for k in range(4)))
    ]


def test_a_table_is_read_row_by_row() -> None:
    cells = [line(text, x, 30 * n) for n in range(6) for x, text in ((0, f"Item {n}"), (300, f"{n}.00"), (420, "1"))]
    assert [row.text for row in rows(shuffled(cells))] == [f"Item {n} {n}.00 1" for n in range(6)]


def test_words_found_apart_are_one_line_and_chinese_ones_have_no_space() -> None:
    words = [line("The", 0, 0), line("owl", 40, 2), line("reads", 80, 0)]
    assert to_text(shuffled(words)) == "The owl reads"
    assert to_text([line("我是", 0, 0, width=40), line("中国人", 41, 0, width=60)]) == "我是中国人"


def test_sideways_text_in_the_margin_comes_last() -> None:
    stamp = TextLine(text="stamp", box=Box(-40, 0, -20, 200))
    assert first_words([stamp, *column("a", left=0, top=0, count=7)])[-1] == "stamp"


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (("a long func-", "tion of it"), "a long function\nof it"),
        (("state-of-the-", "art design"), "state-of-the-\nart design"),
        (("the Anglo-", "Saxon kings"), "the Anglo-\nSaxon kings"),
        (("pages 12-", "and 14"), "pages 12-\nand 14"),
        (("ends in mem-", "bership"), "ends in membership"),
        (("a self-", "made man"), "a self-made\nman"),
        (("a long-tailed owl, long-", "tailed again"), "a long-tailed owl, long-tailed\nagain"),
        (("soft hy\u00ad", "phens too"), "soft hyphens\ntoo"),
    ],
)
def test_a_word_broken_at_the_end_of_a_line_is_put_together(texts: tuple[str, str], expected: str) -> None:
    page = [line(text, 0, n * LEADING, width=200) for n, text in enumerate(texts)]
    assert to_text(page) == expected
    assert to_text(page, join_hyphens=False) == "\n".join(texts)


def test_a_gap_parts_paragraphs() -> None:
    page = [line("one", 0, 0), line("two", 0, LEADING), line("three", 0, 4 * LEADING)]
    assert to_text(page) == "one\ntwo\n\nthree"


def test_paragraphs_of_a_layer_are_known_by_a_wider_step() -> None:
    """Boxes of a layer are as high as its lines are apart, so that half a line between paragraphs is a small gap."""
    tops = [0, 20, 40, 70, 90, 110, 140, 160]
    layer = [LayerLine(text=f"line {n}", box=(0, top, 200, top + 20), size=11) for n, top in enumerate(tops)]
    assert [text.split("\n")[0] for text in to_text(from_layer(layer)).split("\n\n")] == ["line 0", "line 3", "line 6"]


@pytest.mark.parametrize(("following", "parts"), [("goes on there", 1), ("Another begins", 2)])
def test_a_sentence_goes_on_in_the_next_column(following: str, parts: int) -> None:
    left = [line(f"Left line {n} of the text", 0, 100 + n * LEADING, width=300) for n in range(6)]
    right = [line(following if n == 0 else f"and line {n}", 340, 100 + n * LEADING, width=300) for n in range(6)]
    assert len(to_text([*left, *right]).split("\n\n")) == parts


def test_double_spacing_is_no_gap() -> None:
    tops = [0, 50, 100, 150, 200, 250, 350, 400]
    assert to_text([line("word", 0, top) for top in tops]).count("\n\n") == 1


def test_markdown_has_headings_lists_and_paragraphs() -> None:
    layer = [
        LayerLine(text="The Owl", box=(0, 0, 200, 40), size=24),
        LayerLine(text="It reads documents all night and", box=(0, 60, 320, 80), size=11),
        LayerLine(text="sleeps through the day.", box=(0, 84, 230, 104), size=11),
        LayerLine(text="Habits", box=(0, 130, 80, 156), size=14),
        LayerLine(text="• reads", box=(0, 170, 80, 190), size=11),
        LayerLine(text="• sleeps", box=(0, 194, 80, 214), size=11),
        LayerLine(text="# not a heading", box=(0, 250, 200, 270), size=11),
    ]
    assert to_markdown(from_layer(layer)) == (
        "# The Owl\n\nIt reads documents all night and sleeps through the day.\n\n## Habits\n\n- reads\n- sleeps\n\n"
        "\\# not a heading"
    )


SIDES = (("a", 0), ("b", 340))


def laid(text: str, left: float, top: float, *, width: float = 300) -> LayerLine:
    return LayerLine(text=text, box=(left, top, left + width, top + 20), size=11)


def read(lines: Sequence[LayerLine], tables: Sequence[LayerTable] = ()) -> list[str]:
    return [row.text for row in rows(from_layer(lines, tables))]


def test_a_lead_in_larger_type_is_neither_a_heading_nor_part_of_the_one_above() -> None:
    lead = ("In 2025 we ringed 6,950 birds on 202 days, more than in any other year", "since the hut opened in 1987.")
    texts = (
        (20.0, "Summary"),
        (13.5, lead[0]),
        (13.5, lead[1]),
        *((11.5, f"The season began late, {n}.") for n in range(6)),
    )
    layer = [
        LayerLine(text=text, box=(0, 24 * n, 10 * len(text), 24 * n + 20), size=size)
        for n, (size, text) in enumerate(texts)
    ]
    assert to_markdown(from_layer(layer)).split("\n\n")[:2] == ["# Summary", " ".join(lead)]


def test_a_layer_is_read_in_the_order_of_its_file() -> None:
    """A box of facts beside the text, and numbers before the lines: only the file knows what belongs together."""
    text = [laid(f"line {n} of the text", 0, 26 * n) for n in range(10)]
    box = [laid(f"fact {n}", 320, 26 * n + 9, width=80) for n in range(9)]
    assert read([*box, *text]) == [line.text for line in (*box, *text)]


def test_a_layer_that_is_written_across_its_columns_is_read_down_them() -> None:
    left, right = (
        [laid(f"{name}{n} lorem ipsum dolor", x, 26 * n) for n in range(8)] for name, x in (("a", 0), ("b", 340))
    )
    across = [line for pair in zip(left, right, strict=True) for line in pair]
    assert read(across) == [line.text for line in (*left, *right)]
    assert read(random.Random(3).sample(across, len(across))) == [line.text for line in (*left, *right)]


def test_a_layer_is_left_as_its_file_has_it_where_that_is_asked_for() -> None:
    rows_of_columns = [laid(f"{n}{name} lorem ipsum dolor", x, 26 * n) for n in range(8) for name, x in SIDES]
    given = random.Random(3).sample(rows_of_columns, len(rows_of_columns))
    assert [line.text for line in from_layer(given, as_filed=True)] == [line.text for line in given]
    assert [line.text for line in from_layer(given)] != [line.text for line in given]


def test_pieces_of_a_layers_line_are_one_row_in_the_files_order() -> None:
    """Arabic runs from right to left: the piece that is read first stands on the right."""
    assert read([laid("first", 100, 0, width=90), laid("second", 0, 2, width=90), laid("next", 0, 26)]) == [
        "first second",
        "next",
    ]


def test_a_table_of_the_layer_stands_where_its_first_line_stood() -> None:
    lines = [laid("Before.", 0, 0), laid("Bird", 0, 40, width=90), laid("Count", 100, 40, width=90)]
    lines += [laid("owl | hawk", 0, 70, width=90), laid("3", 100, 70, width=90), laid("After.", 0, 120)]
    table = LayerTable(box=(0, 35, 200, 95), rows=(("Bird", "Count"), ("owl | hawk", "3"), ("all", None)))
    page = from_layer(lines, [table])
    assert to_text(page) == "Before.\n\nBird\tCount\nowl | hawk\t3\nall\n\nAfter."
    assert to_markdown(page) == ("Before.\n\n| Bird | Count |\n|---|---|\n| owl \\| hawk | 3 |\n| all |  |\n\nAfter.")


def test_without_font_sizes_only_clearly_larger_boxes_are_headings() -> None:
    page = [line("Title", 0, 0, height=50), *column("a", left=0, top=90, count=5)]
    assert to_markdown(page).startswith("# Title\n\na0 ")
    assert "#" not in to_markdown([line("Title", 0, 0, height=24), *column("a", left=0, top=90, count=5)])


def test_an_empty_page_is_an_empty_text() -> None:
    assert to_text(()) == ""
    assert to_markdown(()) == ""
    assert from_engine(()) == ()


@pytest.mark.parametrize("degrees", [0, 90, 180, 270, 4, 94, -7])
def test_a_turned_page_is_read_as_the_upright_one(degrees: int) -> None:
    page = [*column("a", left=0, top=0, count=5), *column("b", left=340, top=0, count=5)]
    turned = [Line(text=piece.text, box=tuple(_turned(piece.box, degrees=degrees)), confidence=1.0) for piece in page]
    assert [row.text for row in rows(from_engine(turned))] == [piece.text for piece in page]


def _turned(box: Box, *, degrees: int) -> Iterator[tuple[float, float]]:
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    for x, y in ((box.left, box.top), (box.right, box.top), (box.right, box.bottom), (box.left, box.bottom)):
        yield 1000 + x * cos - y * sin, 1000 + x * sin + y * cos


sizes = st.floats(1, 400, allow_nan=False)
places = st.floats(-50, 900, allow_nan=False)
boxes = st.builds(lambda x, y, w, h: Box(x, y, x + w, y + h), places, places, sizes, st.floats(1, 60))
pieces = st.builds(
    lambda text, box: TextLine(text=text, box=box),
    st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "Zs")), min_size=1).filter(str.strip),
    boxes,
)


@given(st.lists(boxes, max_size=40))
def test_order_is_a_permutation_and_always_the_same(page: list[Box]) -> None:
    order = reading_order(page)
    assert sorted(order) == list(range(len(page)))
    assert reading_order(page) == order


def letters(text: str) -> Counter[str]:
    return Counter(char for char in text if char.isalnum())


@given(st.lists(pieces, max_size=25))
def test_no_letter_is_lost_or_added(page: list[TextLine]) -> None:
    expected = letters("".join(piece.text for piece in page))
    assert letters(to_text(page)) == expected
    assert letters(to_markdown(page)) == expected
    whole = "".join(to_text(page, join_hyphens=False).split())
    assert Counter(whole) == Counter("".join("".join(piece.text.split()) for piece in page))
