"""Evaluations in SQL: runs over data sets, and their items. What they mean is nightowl/evaluation's business."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select, update

from domain.errors import NotFoundError
from domain.plain import clean
from storage import tables
from storage.jobs import new_id

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from sqlalchemy.orm import Session


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalRun:
    """A run as its row says. `scores` is None until it has ended."""

    id: str
    task: str
    manifest: str
    name: str | None = None
    engine: str | None = None
    model: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, Any] | None = None
    created_at: datetime | None = None
    finished_at: datetime | None = None
    items: int = 0

    @property
    def title(self) -> str:
        return self.name or self.id


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalItem:
    """An item as its row says."""

    number: int
    name: str
    source: str | None = None
    job_id: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    labels: Mapping[str, Any] = field(default_factory=dict)
    references: tuple[str, ...] = ()
    prediction: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)
    seconds: float | None = None
    error: str | None = None


def begin(
    session: Session, *, task: str, manifest: str, name: str | None, params: Mapping[str, Any], now: datetime
) -> str:
    """A row for a new run; its id."""
    row = tables.EvalRun(
        id=new_id(), task=task, manifest=manifest, name=name, params=clean(dict(params)), created_at=now
    )
    session.add(row)
    session.flush()
    return row.id


def add(session: Session, run_id: str, item: EvalItem) -> None:
    session.add(
        tables.EvalItem(
            run_id=run_id,
            number=item.number,
            name=item.name,
            source=item.source,
            job_id=item.job_id,
            params=clean(dict(item.params)),
            labels=clean(dict(item.labels)),
            reference_texts=clean({"texts": list(item.references)}),
        )
    )


def settle(session: Session, run_id: str, item: EvalItem) -> None:
    """Write down what came of an item."""
    values = {
        "prediction": None if item.prediction is None else clean(item.prediction),
        "facts": clean(dict(item.facts)),
        "scores": clean(dict(item.scores)),
        "seconds": item.seconds,
        "error": None if item.error is None else clean(item.error),
    }
    where = (tables.EvalItem.run_id == run_id, tables.EvalItem.number == item.number)
    session.execute(update(tables.EvalItem).where(*where).values(values))


def end(
    session: Session, run_id: str, *, scores: Mapping[str, Any], engine: str | None, model: str | None, now: datetime
) -> None:
    values = {"scores": clean(dict(scores)), "engine": engine, "model": model, "finished_at": now}
    session.execute(update(tables.EvalRun).where(tables.EvalRun.id == run_id).values(values))


def find(session: Session, wanted: str) -> EvalRun:
    """The newest run of that name, or the one whose id begins so.

    Raises:
        NotFoundError: there is none, or several ids begin so.
    """
    named = select(tables.EvalRun).where(tables.EvalRun.name == wanted).order_by(tables.EvalRun.created_at.desc())
    row = session.scalars(named.limit(1)).first()
    if row is None:
        by_id = select(tables.EvalRun).where(tables.EvalRun.id.startswith(wanted, autoescape=True)).limit(2)
        rows = session.scalars(by_id).all()
        if len(rows) != 1:
            found = (
                "several runs have ids that begin with" if rows else "no run is called, or has an id that begins with,"
            )
            raise NotFoundError(f"{found} {wanted!r}; `nightowl eval list` shows them")
        row = rows[0]
    return _run(row, count=_count(session, row.id))


def recent(session: Session, *, limit: int) -> list[EvalRun]:
    """The newest first."""
    query = select(tables.EvalRun).order_by(tables.EvalRun.created_at.desc(), tables.EvalRun.id.desc()).limit(limit)
    return [_run(row, count=_count(session, row.id)) for row in session.scalars(query)]


def items(session: Session, run_id: str) -> list[EvalItem]:
    """In the order of the data set."""
    query = select(tables.EvalItem).where(tables.EvalItem.run_id == run_id).order_by(tables.EvalItem.number)
    return [_item(row) for row in session.scalars(query)]


def _count(session: Session, run_id: str) -> int:
    query = select(func.count()).select_from(tables.EvalItem).where(tables.EvalItem.run_id == run_id)
    return session.scalar(query) or 0


def _run(row: tables.EvalRun, *, count: int) -> EvalRun:
    return EvalRun(
        id=row.id,
        task=row.task,
        manifest=row.manifest,
        name=row.name,
        engine=row.engine,
        model=row.model,
        params=row.params,
        scores=row.scores,
        created_at=row.created_at,
        finished_at=row.finished_at,
        items=count,
    )


def _item(row: tables.EvalItem) -> EvalItem:
    return EvalItem(
        number=row.number,
        name=row.name,
        source=row.source,
        job_id=row.job_id,
        params=row.params,
        labels=row.labels,
        references=tuple(row.reference_texts.get("texts", ())),
        prediction=row.prediction,
        facts=row.facts or {},
        scores=row.scores or {},
        seconds=row.seconds,
        error=row.error,
    )
