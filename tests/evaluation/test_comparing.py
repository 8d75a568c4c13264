"""Scores of runs, their comparison, their report, and the rating of answers."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest

from domain.errors import ParamsError
from nightowl.evaluation import rating, report, scoring
from nightowl.evaluation.compare import compare
from nightowl.evaluation.items import Outcome, Task
from storage.evaluations import EvalItem, EvalRun

if TYPE_CHECKING:
    from pathlib import Path

PICTURE = "data:image/jpeg;base64,AAAA"
EVIL = '<script>alert("x")</script> & “owls”'


def item(number: int, name: str, *, text: str | None = "", wanted: tuple[str, ...] = (), **values: Any) -> EvalItem:
    return EvalItem(number=number, name=name, prediction=text, references=wanted, **values)


def scored(task: Task, one: EvalItem, **outcome: Any) -> dict[str, float]:
    return scoring.score(task, one, Outcome(text=one.prediction, **outcome))


def test_ocr_is_scored_by_letters_words_order_and_time() -> None:
    one = item(
        1,
        "a",
        text="Two OWLS fly over the barn\nand three mice run away",
        labels={"caseless": True},
        wanted=("two owls fly over the barn\nand three mice run away!",),
    )
    found = scored(Task.OCR, one, seconds=4.0, pages=2)
    assert found["cer"] == pytest.approx(1 / 51)
    assert (found["characters"], found["order"], found["seconds_per_page"]) == (51, 1.0, 2.0)


def test_a_job_that_failed_is_all_wrong_and_not_left_out() -> None:
    failed = item(1, "a", text=None, wanted=("owls",), error="gone")
    assert scored(Task.OCR, failed)["cer"] == 1
    assert scored(Task.CAPTION, failed)["rougeL"] == 0
    assert scored(Task.CAPTION, item(2, "b", text=None)) == {}


def test_the_rate_of_all_characters_weighs_by_length() -> None:
    items = [
        item(1, "a", scores={"cer": 0.5, "characters": 100}, labels={"group": "scan"}),
        item(2, "b", scores={"cer": 0.0, "characters": 300}, labels={"group": "born"}),
    ]
    found = scoring.overall(Task.OCR, items)
    assert found["whole"]["cer_of_all_characters"] == pytest.approx(0.125)
    assert [(g["name"], g["scores"]["cer"]) for g in found["groups"]] == [("scan", 0.5), ("born", 0.0), ("all", 0.25)]


@pytest.mark.parametrize(
    ("answer", "right"), [("宠物", 1.0), ("这是宠物视频，不是体育", 1.0), ("体育或者宠物", 0.0), ("no idea", 0.0)]
)
def test_a_category_is_the_first_that_is_named(answer: str, right: float) -> None:
    labels = {"youku": "category", "category": "宠物", "categories": ["体育", "宠物"]}
    assert scored(Task.CAPTION, item(1, "v", text=answer, labels=labels)) == {"accuracy": right}


def test_retrieval_finds_a_video_by_the_words_of_its_caption() -> None:
    words = ["a red kite over hills", "two boats on a lake", "snow on a dark street"]
    items = [item(n, str(n), text=text, wanted=(text,), labels={"youku": "retrieval"}) for n, text in enumerate(words)]
    assert scoring.retrieval(items)["text_to_video_r1"] == 1
    mixed = [
        item(n, str(n), text=words[n - 1], wanted=(text,), labels={"youku": "retrieval"})
        for n, text in enumerate(words)
    ]
    found = scoring.retrieval(mixed)
    assert (found["video_to_text_r1"], found["video_to_text_r5"]) == (0, 1)
    silent = [
        item(n, str(n), text="nothing", wanted=(text,), labels={"youku": "retrieval"}) for n, text in enumerate(words)
    ]
    assert scoring.retrieval(silent)["text_to_video_r1"] == 0, "captions that say nothing find nothing"


def test_text_on_screen_is_looked_for_in_all_that_a_result_says() -> None:
    one = item(1, "v", text="A card.", wanted=("A white card.",), labels={"on_screen": ["Midroll"]})
    assert scored(Task.CAPTION, one, data={"captions": [{"text_seen": ["Midroll"]}]})["on_screen"] == 1
    assert scored(Task.CAPTION, one)["on_screen"] == 0


def test_two_runs_are_compared_file_by_file() -> None:
    before = [
        item(n, name, text="t", scores={"cer": cer})
        for n, (name, cer) in enumerate({"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.0, "gone": 0}.items())
    ]
    after = [
        item(n, name, text=text, scores={"cer": cer})
        for n, (name, cer, text) in enumerate(
            [("a", 0.3, "t"), ("b", 0.1, "t"), ("c", 0.35, "t"), ("d", 0.0, "other"), ("new", 0, "t")]
        )
    ]
    found = compare(before, after, score="cer")
    assert [(one.name, one.before, one.after) for one in found.worse] == [("a", 0.1, 0.3), ("c", 0.3, 0.35)]
    assert [one.name for one in found.better] == ["b"]
    assert (found.same, found.other_text, found.only_before, found.only_after) == (1, ("d",), ("gone",), ("new",))
    assert [one.name for one in compare(after, before, score="cer").better] == ["a", "c"]
    with pytest.raises(ParamsError, match=r"'wer'.*there are cer"):
        compare(before, after, score="wer")


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]


def parsed(page: str) -> Tags:
    tags = Tags()
    tags.feed(page)
    return tags


def run_of(task: Task, items: list[EvalItem]) -> EvalRun:
    from datetime import UTC, datetime

    scores = scoring.overall(task, items)
    return EvalRun(
        id="r", task=task, manifest=EVIL, name=EVIL, scores=scores, created_at=datetime(2026, 1, 1, tzinfo=UTC)
    )


def test_the_report_holds_everything_and_escapes_what_it_shows() -> None:
    bad = item(
        1, EVIL, text=EVIL, wanted=("right " + EVIL,), scores={"cer": 0.5}, error=EVIL, facts={"unsupported": [EVIL]}
    )
    good = item(2, "good.pdf", text="same words", wanted=("same words",), scores={"cer": 0.0})
    page = report.render(run_of(Task.OCR, [good, bad]), [good, bad], {1: [PICTURE]})
    tags = parsed(page)
    assert "script" not in tags.seen
    assert tags.links == [PICTURE], "nothing is fetched"
    assert page.index("&lt;script&gt;") < page.index("good.pdf"), "the worst comes first"
    assert "<del>right</del>" in page
    assert "50.00 %" in page


def test_differences_are_marked_word_by_word_on_both_sides() -> None:
    left, right = report.differences("two <owls> fly", "two <owl> fly fast")
    assert str(left) == "two <del>&lt;owls&gt;</del> fly"
    assert str(right) == "two <ins>&lt;owl&gt;</ins> fly <ins>fast</ins>"


def question(number: int, text: str, *, turns: tuple[str, ...] = ("single_turn",), abilities: str = "ab") -> EvalItem:
    labels = {"question_id": number, "question": f"Q{number}?", "abilities": list(abilities), "turns": list(turns)}
    return item(number, f"{number} {number}.jpg", text=text, labels=labels, source="/x.jpg")


QUESTIONS = [
    question(1, "ours one", turns=("single_turn", "multi_turn")),
    question(2, "ours two", turns=("multi_turn",), abilities="af"),
]
OTHERS = {"rival": {1: "theirs\none"}, "third": {1: "x", 2: "y </script>"}}


def data_of(page: str) -> dict[str, Any]:
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert match is not None
    found: dict[str, Any] = json.loads(match[1])
    return found


def test_the_rating_page_is_blind_shuffled_and_whole() -> None:
    made = rating.make(QUESTIONS, OTHERS, {1: [PICTURE]}, seed=3)
    assert "rival" not in made.html
    assert "nightowl" not in json.dumps(data_of(made.html))
    shown = {one["text"]: one for one in data_of(made.html)["questions"]}
    assert sorted(answer["text"] for answer in shown["Q1?"]["answers"]) == ["ours one", "theirs one", "x"]
    assert sorted(answer["text"] for answer in shown["Q2?"]["answers"]) == ["ours two", "y </script>"]
    assert {answer["text"]: answer["earlier"] for answer in shown["Q2?"]["answers"]}["ours two"] == "Q1?\n→ ours one"
    assert parsed(made.html).links == []
    orders = {
        tuple(made.key["answers"][answer["id"]]["system"] for answer in one["answers"])
        for seed in range(12)
        for made in [rating.make(QUESTIONS, OTHERS, {}, seed=seed)]
        for one in data_of(made.html)["questions"]
        if one["text"] == "Q1?"
    }
    assert len(orders) > 3, "no system has a place of its own"


def test_tallies_count_by_turns_and_ability() -> None:
    made = rating.make(QUESTIONS, OTHERS, {}, seed=1)
    grades = {("nightowl", 1): "A", ("nightowl", 2): "C", ("rival", 1): "B", ("third", 2): "D"}
    given = {
        name: grades[one["system"], one["question_id"]]
        for name, one in made.key["answers"].items()
        if (one["system"], one["question_id"]) in grades
    }
    saved = {"page": made.key["page"], "ratings": given}
    found = {(one.system, one.part): one.grades for one in rating.tally(made.key, [saved])}
    assert found["nightowl", "all"] == (1, 0, 1, 0)
    assert found["nightowl", "single-turn"] == (1, 0, 0, 0)
    assert found["nightowl", "multi-turn"] == (1, 0, 1, 0)
    assert found["nightowl", "multi-turn dialogue"] == (0, 0, 1, 0)
    assert found["third", "instruction understanding"] == (0, 0, 0, 1)
    assert ("third", "single-turn") not in found
    twice = {(one.system, one.part): one.grades for one in rating.tally(made.key, [saved, saved])}
    assert twice["rival", "all"] == (0, 2, 0, 0)
    assert rating.agreement([saved, saved]) == 1
    assert rating.agreement([saved]) is None


def test_ratings_of_another_page_are_refused(tmp_path: Path) -> None:
    made = rating.make(QUESTIONS, OTHERS, {}, seed=1)
    with pytest.raises(ParamsError, match="are of the page other"):
        rating.tally(made.key, [{"page": "other", "ratings": {}}])
    with pytest.raises(ParamsError, match="no answer 'x'"):
        rating.tally(made.key, [{"page": made.key["page"], "ratings": {"x": "A"}}])
    with pytest.raises(ParamsError, match="are called 'rival'"):
        rating.make(QUESTIONS, OTHERS, {}, ours="rival")
    path = tmp_path / "saved.json"
    path.write_text("[]", encoding="utf-8")
    with pytest.raises(ParamsError, match="is not a file that the rating page"):
        rating.load(path)
