"""The report of a run: one HTML file that holds its pictures, with what should have come out beside what did."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup, escape
from rapidfuzz.distance import Levenshtein

from nightowl.evaluation import texts
from nightowl.evaluation.items import Task
from nightowl.evaluation.scoring import LOWER_IS_BETTER, MAIN

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from storage.evaluations import EvalItem, EvalRun

RATES = frozenset({"cer", "wer", "cer_of_all_characters"})
COUNTS = frozenset({"words", "characters", "unsupported"})
MARKS = ("method", "unsupported", "key_points", "captions", "variants", "sources")


def render(run: EvalRun, items: Sequence[EvalItem], pictures: Mapping[int, Sequence[str]]) -> str:
    """The page. Everything in it that came from files or models is escaped."""
    task = Task(run.task)
    groups = (run.scores or {}).get("groups", [])
    return (
        environment()
        .get_template("report.html")
        .render(
            run=run,
            names=list(dict.fromkeys(name for group in groups for name in group["scores"])),
            groups=groups,
            whole=(run.scores or {}).get("whole", {}),
            differences=task is Task.OCR,
            main=MAIN[task],
            items=[_shown(task, item, pictures.get(item.number, ())) for item in worst_first(task, items)],
        )
    )


def environment() -> Environment:
    made = Environment(loader=PackageLoader("nightowl.evaluation"), autoescape=True, trim_blocks=False)
    made.filters["score"] = show_score
    return made


def show_score(value: float | None, name: str) -> str:
    """Rates in per cent, counts as they are, everything else with three digits."""
    if value is None:
        return "–"
    if name in RATES:
        return f"{100 * value:.2f} %"
    if name in COUNTS:
        return f"{value:.0f}" if value == int(value) else f"{value:.1f}"
    return f"{value:.3f}"


def worst_first(task: Task, items: Sequence[EvalItem]) -> list[EvalItem]:
    """By the task's main score; questions, which have none, in their own order."""
    main = MAIN[task]
    if task is Task.OWLEVAL:
        return list(items)
    sign = -1 if main in LOWER_IS_BETTER else 1
    return sorted(items, key=lambda item: sign * item.scores.get(main, 0.0))


def _shown(task: Task, item: EvalItem, pictures: Sequence[str]) -> dict[str, Any]:
    references: Sequence[str] = item.references
    prediction = item.prediction or ""
    if task is Task.OCR and references:
        wanted, prediction = differences(references[0], prediction)
        references = (wanted,)
    return {
        "name": item.name,
        "scores": item.scores,
        "seconds": item.seconds,
        "error": item.error,
        "pictures": pictures,
        "references": references,
        "prediction": prediction,
        "question": item.labels.get("question"),
        "notes": _notes(item.facts),
    }


def differences(reference: str, text: str) -> tuple[Markup, Markup]:
    """Both texts on one line, their words marked where they are not the same."""
    one, other = texts.folded(reference).split(), texts.folded(text).split()
    left: list[Markup] = []
    right: list[Markup] = []
    for step in Levenshtein.opcodes(one, other):
        old = escape(" ".join(one[step.src_start : step.src_end]))
        new = escape(" ".join(other[step.dest_start : step.dest_end]))
        same = step.tag == "equal"
        left += [old if same else Markup("<del>{}</del>").format(old)] if old else []
        right += [new if same else Markup("<ins>{}</ins>").format(new)] if new else []
    return Markup(" ").join(left), Markup(" ").join(right)


def _notes(facts: Mapping[str, Any]) -> str:
    """What a result says of itself, a line each."""
    lines = []
    for name in MARKS:
        value = facts.get(name)
        rows = value if isinstance(value, list) else [value] if value is not None else []
        lines += [f"{name}: {_flat(row)}" for row in rows if row not in ("", [], None)]
    return "\n".join(lines)


def _flat(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_flat(one)}" for name, one in value.items())
    if isinstance(value, list):
        return "; ".join(_flat(one) for one in value)
    return f"{value:.2f}" if isinstance(value, float) else str(value)
