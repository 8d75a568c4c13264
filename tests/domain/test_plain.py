from __future__ import annotations

import pytest

from domain.plain import one_line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("Größe 漢字 scan (1).pdf", "Größe 漢字 scan (1).pdf"),
        ("a\nb", "a\\nb"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("turned \u202e round", "turned \\u202e round"),
        ("half \udcff", "half \\udcff"),
    ],
)
def test_what_a_terminal_would_obey_is_written_out(text: str, line: str) -> None:
    assert one_line(text) == line
