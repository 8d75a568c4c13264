"""Rating answers by hand: a page to rate them on, and the tallies of what was saved there.

The page does not say whose an answer is: each has a random name, and the key to these names is a file of its own, for
the tally alone.
"""

from __future__ import annotations

import json
import random
import secrets
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from domain.errors import ParamsError
from nightowl.evaluation.owleval import ABILITIES, TURNS
from nightowl.evaluation.report import environment

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from storage.evaluations import EvalItem

OURS = "nightowl"
GRADES = ("A", "B", "C", "D")


@dataclass(frozen=True, slots=True, kw_only=True)
class RatingPage:
    """`html` is for the raters, `key` for the tally: which answer is whose, and of what question."""

    html: str
    key: dict[str, Any]


def make(
    items: Sequence[EvalItem],
    others: Mapping[str, Mapping[int, str]],
    pictures: Mapping[int, Sequence[str]],
    *,
    ours: str = OURS,
    seed: int | None = None,
) -> RatingPage:
    """A page over a run's items and the answers of other systems by question. `seed` fixes the shuffling.

    Raises:
        ParamsError: another system is called as ours is.
    """
    if ours in others:
        raise ParamsError(f"two systems are called {ours!r}; choose another name with --name")
    shuffler = random.Random(seed)
    page = secrets.token_hex(4)
    systems = {ours: {item.labels["question_id"]: item.prediction or "" for item in items}, **others}
    key: dict[str, Any] = {"page": page, "systems": list(systems), "answers": {}}
    questions = [_question(item, items, systems, shuffler, key["answers"]) for item in items]
    shuffler.shuffle(questions)
    shown = {item.name.split(" ", 1)[-1]: pictures[item.number][0] for item in items if pictures.get(item.number)}
    data = {"page": page, "questions": [one for one in questions if one["answers"]], "pictures": shown}
    return RatingPage(html=environment().get_template("rating.html").render(data=data), key=key)


def _question(
    item: EvalItem,
    items: Sequence[EvalItem],
    systems: Mapping[str, Mapping[int, str]],
    shuffler: random.Random,
    key: dict[str, Any],
) -> dict[str, Any]:
    number = item.labels["question_id"]
    before = earlier(item, items)
    answers = []
    for system, texts in systems.items():
        if not texts.get(number):
            continue
        name = secrets.token_hex(5)
        key[name] = {
            "system": system,
            "question_id": number,
            "abilities": list(item.labels["abilities"]),
            "turns": list(item.labels["turns"]),
        }
        said = [
            f"{one.labels['question']}\n→ {unwrapped(texts.get(one.labels['question_id'], '(no answer)'))}"
            for one in before
        ]
        answers.append({"id": name, "text": unwrapped(texts[number]), "earlier": "\n".join(said)})
    shuffler.shuffle(answers)
    return {"text": item.labels["question"], "image": item.name.split(" ", 1)[-1], "answers": answers}


def unwrapped(text: str) -> str:
    """Without the line breaks inside paragraphs: one of the published systems would be known by them."""
    return "\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


def earlier(item: EvalItem, items: Sequence[EvalItem]) -> list[EvalItem]:
    """The questions of its conversation that come before it."""
    if "multi_turn" not in item.labels["turns"]:
        return []
    same = [one for one in items if one.source == item.source and "multi_turn" in one.labels["turns"]]
    return [one for one in same if one.labels["question_id"] < item.labels["question_id"]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """How often one system's answers of one part of the questions were graded A, B, C, D."""

    system: str
    part: str
    grades: tuple[int, int, int, int]

    @property
    def rated(self) -> int:
        return sum(self.grades)


def load(path: Path) -> dict[str, Any]:
    """Raises ParamsError."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ParamsError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(found, dict) or not isinstance(found.get("page"), str):
        raise ParamsError(f"{path} is not a file that the rating page or `nightowl eval rate` wrote")
    return found


def tally(key: Mapping[str, Any], saved: Sequence[Mapping[str, Any]]) -> list[Tally]:
    """The tallies of all questions, of single-turn and multi-turn ones, and of each ability; several raters are added.

    Raises:
        ParamsError: ratings of another page, or a grade that is none of A to D.
    """
    counts: dict[tuple[str, str], Counter[str]] = {}
    for ratings in saved:
        if ratings["page"] != key["page"]:
            raise ParamsError(f"these ratings are of the page {ratings['page']}, the key is of {key['page']}")
        for name, grade in ratings.get("ratings", {}).items():
            if grade not in GRADES or name not in key["answers"]:
                raise ParamsError(f"the page {key['page']} has no answer {name!r} to be graded {grade!r}")
            answer = key["answers"][name]
            for part in _parts(answer):
                counts.setdefault((answer["system"], part), Counter())[grade] += 1
    order = ["all", *TURNS.values(), *ABILITIES.values()]
    return [
        Tally(system=system, part=part, grades=_grades(counts[system, part]))
        for part in order
        for system in key["systems"]
        if (system, part) in counts
    ]


def _parts(answer: Mapping[str, Any]) -> list[str]:
    return ["all", *(TURNS[turn] for turn in answer["turns"]), *(ABILITIES[letter] for letter in answer["abilities"])]


def _grades(counted: Counter[str]) -> tuple[int, int, int, int]:
    a, b, c, d = (counted[grade] for grade in GRADES)
    return a, b, c, d


def agreement(saved: Sequence[Mapping[str, Any]]) -> float | None:
    """Share of answers to which the first two raters gave the same grade, of those that both rated."""
    if len(saved) < 2:
        return None
    one, other = saved[0].get("ratings", {}), saved[1].get("ratings", {})
    both = [name for name in one if name in other]
    return sum(one[name] == other[name] for name in both) / len(both) if both else None
