"""Triggers in the database that note what happened to parts and jobs, whoever did it, with the database's clock.

The last state of a row does not say whether it was written twice. These notes do, and they say when a part was claimed
again after its worker was killed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from storage.session import Database

CLAIMED, STORED, ENDED = "claimed", "stored", "ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """`part` is None for a job's planning and finishing; `at` is in seconds since 1970."""

    what: str
    job_id: str
    part: int | None
    token: str | None
    at: float


_TABLE = "CREATE TABLE chaos_notes (what TEXT, job_id TEXT, part INTEGER, token TEXT, at DOUBLE PRECISION)"

# (name, table, condition, what, part). A result or an end that is written a second time is noted a second time.
_CHANGED = "NEW.{0} IS DISTINCT FROM OLD.{0}"
_OVER = "('succeeded', 'partial', 'failed', 'cancelled')"
_TRIGGERS = (
    ("part_claimed", "parts", f"NEW.token IS NOT NULL AND {_CHANGED.format('token')}", CLAIMED, "NEW.number"),
    (
        "part_stored",
        "parts",
        "NEW.state IN ('succeeded', 'failed') AND "
        f"({_CHANGED.format('state')} OR {_CHANGED.format('text')} OR {_CHANGED.format('settled_by')})",
        STORED,
        "NEW.number",
    ),
    ("job_claimed", "jobs", f"NEW.token IS NOT NULL AND {_CHANGED.format('token')}", CLAIMED, "NULL"),
    (
        "job_ended",
        "jobs",
        f"NEW.state IN {_OVER} AND ({_CHANGED.format('state')} OR {_CHANGED.format('finished_at')})",
        ENDED,
        "NULL",
    ),
)


def install(database: Database) -> None:
    make = _sqlite if database.dialect == "sqlite" else _postgres
    with database.write() as session:
        session.execute(text(_TABLE))
        for name, table, condition, what, part in _TRIGGERS:
            job = "NEW.id" if table == "jobs" else "NEW.job_id"
            for statement in make(name, table, condition, f"'{what}', {job}, {part}, NEW.token"):
                session.connection().exec_driver_sql(statement)


def _sqlite(name: str, table: str, condition: str, values: str) -> list[str]:
    now = "(julianday('now') - 2440587.5) * 86400.0"
    return [
        f"CREATE TRIGGER {name} AFTER UPDATE ON {table} WHEN {condition.replace('IS DISTINCT FROM', 'IS NOT')} "
        f"BEGIN INSERT INTO chaos_notes VALUES ({values}, {now}); END"
    ]


def _postgres(name: str, table: str, condition: str, values: str) -> list[str]:
    return [
        f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO chaos_notes VALUES "
        f"({values}, extract(epoch FROM clock_timestamp())); RETURN NULL; END $$",
        f"CREATE TRIGGER {name} AFTER UPDATE ON {table} FOR EACH ROW WHEN ({condition}) EXECUTE FUNCTION {name}()",
    ]


def read(database: Database, job_ids: Sequence[str]) -> list[Note]:
    """The notes about these jobs, in the order of time."""
    wanted = set(job_ids)
    with database.read() as session:
        rows = session.execute(text("SELECT what, job_id, part, token, at FROM chaos_notes ORDER BY at"))
        return [
            Note(what=what, job_id=job_id, part=part, token=token, at=float(at))
            for what, job_id, part, token, at in rows
            if job_id in wanted
        ]
