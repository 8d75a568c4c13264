"""Commands `nightowl eval rate|tally`: people rate OwlEval's answers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from domain.errors import ParamsError
from nightowl.cli import eval_runs, options, show

if TYPE_CHECKING:
    from nightowl.evaluation.rating import Tally


def rate(
    run: eval_runs.RunArgument,
    page: Annotated[Path, typer.Argument(help="The HTML page to write; its key goes beside it (.key.json).")],
    answers: Annotated[
        Path | None, typer.Option(help="Folder of other systems' answers (*.jsonl).", show_default=False)
    ] = None,
    name: Annotated[str, typer.Option(help="What our system is called in the tally.")] = "nightowl",
    seed: Annotated[int | None, typer.Option(help="Fixes how answers are shuffled.", show_default=False)] = None,
) -> None:
    """Make the page to rate OwlEval's answers on: blind, shuffled, keys 1 to 4."""
    eval_runs.require_extra()
    from nightowl.evaluation import owleval as reading
    from nightowl.evaluation import pictures, rating

    found, items = eval_runs.load(run)
    if found.task != "owleval":
        raise ParamsError(f"{found.title} is a run of {found.task}; only answers to questions are rated (eval owleval)")
    others = reading.answers(answers) if answers else {}
    made = rating.make(
        items, others, pictures.of_sources({item.number: item.source for item in items}), ours=name, seed=seed
    )
    page.write_text(made.html, encoding="utf-8")
    key = page.with_suffix(".key.json")
    key.write_text(show.as_json(made.key), encoding="utf-8")
    show.note(f"page: {page}\nkey, not for raters: {key}")


def tally(
    key: Annotated[Path, typer.Argument(help="The key that `eval rate` wrote.")],
    ratings: Annotated[list[Path], typer.Argument(help="What the page saved, one file per rater.")],
    json: options.JsonOption = False,
) -> None:
    """Count the ratings: per system, single-turn and multi-turn, and per ability."""
    eval_runs.require_extra()
    from nightowl.evaluation import rating

    saved = [rating.load(path) for path in ratings]
    found = rating.tally(rating.load(key), saved)
    if json:
        for one in found:
            show.json_line(
                {
                    "system": one.system,
                    "part": one.part,
                    "rated": one.rated,
                    **dict(zip(rating.GRADES, one.grades, strict=True)),
                }
            )
        return
    eval_runs.table(("questions", "system", "rated", *rating.GRADES, "A or B"), [_tally_row(one) for one in found])
    if (same := rating.agreement(saved)) is not None:
        show.line(f"the first two raters agree on {100 * same:.0f} % of what both rated")


def _tally_row(one: Tally) -> tuple[str, ...]:
    good = (one.grades[0] + one.grades[1]) / one.rated if one.rated else 0.0
    return (one.part, one.system, str(one.rated), *(str(count) for count in one.grades), f"{100 * good:.0f} %")
