from __future__ import annotations

import html
import re
import string

import pysubs2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.subtitles import Cue, to_srt, to_vtt

TIME = r"(\d{2,}:\d{2}:\d{2}[,.]\d{3})"
WHITE = string.whitespace + "\x1c\x1d\x1e\x1f\x85\u2028\u2029"
LINE = re.compile(rf"{TIME} --> {TIME}")


def parse(text: str) -> list[tuple[str, str, str]]:
    """(start, end, payload) of each cue, read as players do: a cue runs from its time line to an empty line."""
    cues: list[tuple[str, str, list[str]]] = []
    open_cue = False
    for line in text.split("\n"):
        if "-->" in line:
            match = LINE.fullmatch(line)
            assert match, line
            cues.append((match[1], match[2], []))
            open_cue = True
        elif not line.strip():
            open_cue = False
        elif open_cue:
            cues[-1][2].append(line)
    return [(start, end, "\n".join(lines)) for start, end, lines in cues]


def test_srt_numbers_its_cues_and_has_commas() -> None:
    text = to_srt([Cue(start=0, end=1.5, text="An owl."), Cue(start=1.5, end=3, text="It flies.")])
    assert text == "1\n00:00:00,000 --> 00:00:01,500\nAn owl.\n\n2\n00:00:01,500 --> 00:00:03,000\nIt flies.\n"


def test_vtt_has_a_head_and_points() -> None:
    text = to_vtt([Cue(start=0, end=1.5, text="An owl."), Cue(start=1.5, end=3, text="It flies.")])
    assert text == ("WEBVTT\n\n00:00:00.000 --> 00:00:01.500\nAn owl.\n\n00:00:01.500 --> 00:00:03.000\nIt flies.\n")


def test_without_cues_a_file_is_still_whole() -> None:
    assert to_srt([]) == ""
    assert to_vtt([]) == "WEBVTT\n"


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (0.0, "00:00:00,000"),
        (0.0004, "00:00:00,000"),
        (1.9995, "00:00:02,000"),
        (59.9996, "00:01:00,000"),
        (59.9994, "00:00:59,999"),
        (3599.9999, "01:00:00,000"),
        (3661.25, "01:01:01,250"),
        (36_000.0, "10:00:00,000"),
        (360_000.0, "100:00:00,000"),
    ],
)
def test_times_are_rounded_and_carried(seconds: float, written: str) -> None:
    ((start, end, _),) = parse(to_srt([Cue(start=seconds, end=seconds, text="x")]))
    assert start == end == written


@pytest.mark.parametrize("text", ["a\n\nb", "a\r\n\r\nb", "a\n \t\nb", "\n\na\nb\n\n", "a\u2028\u2028b", "a\x0b\x0cb"])
def test_empty_lines_cannot_end_a_cue(text: str) -> None:
    cues = [Cue(start=0, end=1, text=text), Cue(start=1, end=2, text="next")]
    for made in (to_srt(cues), to_vtt(cues)):
        assert [payload for _, _, payload in parse(made)] == ["a\nb", "next"]


@pytest.mark.parametrize("text", ["a --> b", "00:00:01.000 --> 00:00:02.000", "--->", "-->-->"])
def test_an_arrow_in_a_text_begins_no_cue(text: str) -> None:
    cues = [Cue(start=0, end=1, text=text), Cue(start=1, end=2, text="next")]
    for made in (to_srt(cues), to_vtt(cues)):
        assert len(parse(made)) == 2


def test_vtt_escapes_markup_once_and_srt_leaves_it() -> None:
    cue = Cue(start=0, end=1, text="Q&A <b>5 > 3</b> &amp;")
    assert parse(to_vtt([cue]))[0][2] == "Q&amp;A &lt;b&gt;5 &gt; 3&lt;/b&gt; &amp;amp;"
    assert parse(to_srt([cue]))[0][2] == cue.text


@given(st.lists(st.text(min_size=1, max_size=30).filter(lambda text: text.strip(WHITE)), min_size=1, max_size=6))
def test_a_library_reads_back_what_was_written(texts: list[str]) -> None:
    cues = [Cue(start=1.5 * number, end=1.5 * number + 1.25, text=text) for number, text in enumerate(texts)]
    for made, form in ((to_srt(cues), "srt"), (to_vtt(cues), "vtt")):
        events = pysubs2.SSAFile.from_string(made, format_=form).events
        assert [(event.start, event.end) for event in events] == [
            (1500 * number, 1500 * number + 1250) for number in range(len(texts))
        ]


def test_a_library_reads_the_same_words() -> None:
    cues = [Cue(start=0, end=1, text="Two owls,\none nest."), Cue(start=1, end=3661.25, text="猫头鹰 & co.")]
    srt = pysubs2.SSAFile.from_string(to_srt(cues), format_="srt").events
    assert [event.plaintext for event in srt] == ["Two owls,\none nest.", "猫头鹰 & co."]
    vtt = pysubs2.SSAFile.from_string(to_vtt(cues), format_="vtt").events
    assert [html.unescape(event.plaintext) for event in vtt] == ["Two owls,\none nest.", "猫头鹰 & co."]
    assert srt[1].end == vtt[1].end == 3_661_250


@given(st.lists(st.text(max_size=30), max_size=6))
def test_no_text_breaks_the_cues(texts: list[str]) -> None:
    cues = [Cue(start=number, end=number + 1, text=text) for number, text in enumerate(texts)]
    for made in (to_srt(cues), to_vtt(cues)):
        assert [(start[6:8], end[6:8]) for start, end, _ in parse(made)] == [
            (f"{number:02}", f"{number + 1:02}") for number in range(len(texts))
        ]
