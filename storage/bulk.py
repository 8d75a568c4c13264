"""Many rows in one statement, for batches by the hundred thousand.

What differs between the rows travels as one JSON text, which the database takes apart; what is alike in all of them
travels once. That is about twice as fast as a statement that is run once for each row (docs/performance.md).
"""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import Text, bindparam, cast, func, insert, literal_column, select, true
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import JSONB

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import ColumnElement, Insert, Table
    from sqlalchemy.orm import Session


def insert_rows(
    session: Session,
    table: Table,
    rows: Sequence[Mapping[str, str | int | None]],
    *,
    same: Mapping[str, Any],
    renewed: str | None = None,
) -> None:
    """Insert rows of the same columns, texts and numbers, and with the columns of `same`, which may be anything.

    `renewed` is the column that takes the new value where there is a row of this id; without it that is an error.
    """
    if not rows:
        return
    names = tuple(rows[0])
    statement = _statement(session.get_bind().dialect.name, table, names, tuple(same), renewed)
    values = json.dumps([[row[name] for name in names] for row in rows], ensure_ascii=False)
    session.execute(statement, {"rows": values, **{f"same_{name}": value for name, value in same.items()}})


@cache
def _statement(
    dialect: str, table: Table, names: tuple[str, ...], same: tuple[str, ...], renewed: str | None
) -> Insert:
    rows = bindparam("rows", type_=Text)
    if dialect == "postgresql":
        each = func.jsonb_array_elements(cast(rows, JSONB)).table_valued("value").c.value
    else:
        each = func.json_each(rows).table_valued("value").c.value
    own = [_taken(dialect, table, each, index, name) for index, name in enumerate(names)]
    alike = [bindparam(f"same_{name}", type_=table.c[name].type) for name in same]
    # SQLite takes ON CONFLICT behind a SELECT for a join, unless there is a WHERE.
    selected = select(*own, *alike).where(true())
    if renewed is None:
        return insert(table).from_select([*names, *same], selected)
    # The two dialects have the same method, and no class in common that has it.
    upsert: Any = (postgresql if dialect == "postgresql" else sqlite).insert(table)
    upsert = upsert.from_select([*names, *same], selected)
    whole: Insert = upsert.on_conflict_do_update(index_elements=["id"], set_={renewed: upsert.excluded[renewed]})
    return whole


def _taken(dialect: str, table: Table, each: ColumnElement[Any], index: int, name: str) -> ColumnElement[Any]:
    """A column out of a row's array."""
    if dialect == "postgresql":
        return cast(each.op("->>")(literal_column(str(index))), table.c[name].type)
    return func.json_extract(each, literal_column(f"'$[{index}]'"))
