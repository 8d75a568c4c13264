"""Digests of pages that were made before, so that another style or another kind need not make them again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError

from domain.plain import clean
from storage import tables

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from sqlalchemy.orm import Session


@dataclass(frozen=True, slots=True, kw_only=True)
class Digest:
    text: str
    data: Mapping[str, Any]


def find(session: Session, key: str) -> Digest | None:
    row = session.execute(select(tables.Digest.text, tables.Digest.data).where(tables.Digest.key == key)).first()
    return Digest(text=row.text, data=row.data) if row else None


def keep(session: Session, key: str, digest: Digest, *, job_id: str, now: datetime) -> bool:
    """False where somebody kept one with this key before; theirs stays."""
    values = {"key": key, "job_id": job_id, "text": clean(digest.text), "data": clean(dict(digest.data))}
    try:
        with session.begin_nested():
            session.execute(insert(tables.Digest).values(**values, created_at=now))
    except IntegrityError:
        return False
    return True
