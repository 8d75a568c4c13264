"""OwlEval: 82 questions about 50 pictures, some in conversations, and the answers of other systems.

The answers are joined by question_id alone: the published files name pictures and word questions in their own ways.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from domain.errors import ParamsError
from domain.kinds import Kind
from domain.params import check_params
from nightowl.evaluation.items import Item

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

ABILITIES = {
    "a": "instruction understanding",
    "b": "visual understanding",
    "c": "optical character recognition",
    "d": "knowledge transfer",
    "e": "reasoning",
    "f": "multi-turn dialogue",
}
TURNS = {"single_turn": "single-turn", "multi_turn": "multi-turn"}
NO_ANSWER = "无法回溯"
"""Stands in the published files where an answer could not be traced back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    id: int
    image: str
    text: str
    abilities: tuple[str, ...]
    turns: tuple[str, ...]
    """"single_turn", "multi_turn", or both for the first question of a conversation."""


def questions(folder: Path) -> list[Question]:
    """Raises ParamsError naming the line."""
    path = folder / "questions.jsonl"
    return [_question(row, path, number) for number, row in enumerate(_rows(path), start=1)]


def _question(row: Mapping[str, Any], path: Path, number: int) -> Question:
    try:
        return Question(
            id=int(row["question_id"]),
            image=str(row["image"]),
            text=str(row["question"]),
            abilities=tuple(letter.strip() for letter in str(row["ability"]).split(",")),
            turns=tuple(row["category"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ParamsError(
            f"{path}, line {number}: a question has image, question_id, question, ability, category"
        ) from error


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except OSError as error:
        raise ParamsError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ParamsError(f"{path}: not JSON Lines: {error}") from error


def read(path: Path, *, params: Mapping[str, Any], media: Path | None = None) -> list[Item]:
    """The questions as items, about the pictures in `media` (by default the folder `cases` beside the questions).

    A question of a conversation comes after the one before it about the same picture.
    """
    folder = path if path.is_dir() else path.parent
    items: list[Item] = []
    last: dict[str, int] = {}
    for number, one in enumerate(questions(folder), start=1):
        talks = "multi_turn" in one.turns
        items.append(
            Item(
                number=number,
                name=f"{one.id} {one.image}",
                source=str(((media or folder / "cases") / one.image).absolute()),
                params=check_params(Kind.ASK, {**params, "question": one.text}),
                labels={
                    "question_id": one.id,
                    "question": one.text,
                    "abilities": list(one.abilities),
                    "turns": list(one.turns),
                },
                after=last.get(one.image) if talks else None,
            )
        )
        if talks:
            last[one.image] = number
    return items


def answers(folder: Path) -> dict[str, dict[int, str]]:
    """The answers of each system by question; those that the publishers could not trace back are left out.

    Raises:
        ParamsError: the folder has no answers, or a file is not what it should be.
    """
    found: dict[str, dict[int, str]] = {}
    for path in sorted(folder.glob("*.jsonl")):
        rows = _rows(path)
        try:
            by_id = {int(row["question_id"]): str(row["answer"]).strip() for row in rows}
            name = str(rows[0]["model_id"])
        except (KeyError, IndexError, ValueError) as error:
            raise ParamsError(f"{path}: an answer has question_id, answer and model_id") from error
        found[name] = {number: text for number, text in by_id.items() if text.strip(" .") not in ("", NO_ANSWER)}
    if not found:
        raise ParamsError(f"{folder} has no answers (*.jsonl)")
    return found


def conversation(items: Sequence[Item], item: Item) -> list[Item]:
    """The items that go before one, the first of the conversation first."""
    by_number = {one.number: one for one in items}
    before: list[Item] = []
    while item.after is not None:
        item = by_number[item.after]
        before.insert(0, item)
    return before
