"""The database: one SQLAlchemy engine, read and write transactions.

SQLite runs in WAL mode. A write transaction begins IMMEDIATE: with a deferred BEGIN, a transaction that reads and then
writes fails at once with "database is locked" when another one wrote in between, and the busy timeout does not help.

PostgreSQL lies across a network that may fall silent. We hang up on a server that does not answer, and it ends a
transaction of ours that stands still: what that one had locked would stop everybody else until TCP gave up.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import (
    ClauseElement,
    Connection,
    CursorResult,
    Engine,
    Table,
    Update,
    bindparam,
    create_engine,
    event,
    make_url,
    text,
    update,
)
from sqlalchemy.exc import ArgumentError
from sqlalchemy.orm import Session

from domain import silence
from domain.errors import SetupError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Mapping

BUSY_SECONDS = 30
WRITES = "nightowl_writes"


class Database:
    """A door to the ledger. Thread-safe; close it when done."""

    def __init__(self, url: str) -> None:
        self.engine = _create_engine(url)
        # SQLite takes one writer at a time, and those that wait sleep and try again. Threads of one process queue here
        # instead, where the next one wakes at once.
        self._turn = threading.Lock() if self.dialect == "sqlite" else nullcontext()

    @property
    def dialect(self) -> str:
        return self.engine.dialect.name

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A transaction that only reads. Rows do not outlive it unless they were made into values."""
        with self.engine.connect() as connection, Session(connection) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A short transaction that writes; committed at the end, rolled back by any exception."""
        with (
            self._turn,
            self.engine.connect().execution_options(**{WRITES: True}) as connection,
            Session(connection, expire_on_commit=False) as session,
            session.begin(),
        ):
            yield session

    def close(self) -> None:
        self.engine.dispose()


def rows_changed(session: Session, statement: Update, values: Mapping[str, Any] | None = None) -> int:
    """Run an UPDATE and say how many rows its guard let through. Rows that the session has loaded are not refreshed."""
    done = session.execute(statement, values, execution_options={"synchronize_session": False})
    return cast("CursorResult[Any]", done).rowcount


def change(session: Session, table: Table, where: Mapping[str, Any], values: Mapping[str, Any]) -> int:
    """Update the rows whose columns are as `where` says, and say how many those were.

    The statement is made once for its columns: to build one and to look it up costs eight times what running it does.
    """
    plain = {name: value for name, value in values.items() if not isinstance(value, ClauseElement)}
    statement = _guarded_update(table, tuple(where), tuple(plain))
    if len(plain) < len(values):
        statement = statement.values({name: value for name, value in values.items() if name not in plain})
    bound = {f"is_{name}": value for name, value in where.items()} | {f"to_{name}": plain[name] for name in plain}
    return rows_changed(session, statement, bound)


@cache
def _guarded_update(table: Table, where: tuple[str, ...], values: tuple[str, ...]) -> Update:
    guards = [table.c[name] == bindparam(f"is_{name}", type_=table.c[name].type) for name in where]
    return (
        update(table)
        .where(*guards)
        .values({name: bindparam(f"to_{name}", type_=table.c[name].type) for name in values})
    )


def take_time(session: Session) -> None:
    """This transaction only reads and may stand still for long: whoever reads its rows has other things to do, too."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))


POOL: dict[str, Any] = {"pool_size": 20, "max_overflow": 20}

SILENCE: dict[str, Any] = {
    "connect_timeout": silence.CONNECT_SECONDS,
    "keepalives_idle": silence.IDLE_SECONDS,
    "keepalives_interval": silence.PROBE_SECONDS,
    "keepalives_count": silence.PROBES,
    "tcp_user_timeout": 1000 * silence.HANG_UP_SECONDS,
}
"""In libpq's words."""
STILL_SECONDS = 10
"""So long may a transaction stand still between two statements before the server ends it; see `take_time`."""


def _create_engine(url: str) -> Engine:
    # Parameters are hidden: an error of the database must not carry passwords and signed URLs into logs and rows.
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise SetupError("NIGHTOWL_DATABASE_URL is not a database URL; see docs/settings.md") from error
    if parsed.get_backend_name() == "sqlite":
        return _sqlite(url, parsed.database)
    ours = {name: value for name, value in SILENCE.items() if name not in parsed.query}
    engine = create_engine(url, pool_pre_ping=True, hide_parameters=True, connect_args=ours, **POOL)
    event.listen(engine, "connect", _prepare_postgresql)
    return engine


def _prepare_postgresql(connection: Any, _record: Any) -> None:
    # Not by libpq's `options`: PgBouncer refuses those.
    connection.execute(f"SET idle_in_transaction_session_timeout = '{STILL_SECONDS}s'")
    connection.commit()


def _sqlite(url: str, path: str | None) -> Engine:
    if path and path != ":memory:":
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, connect_args={"timeout": BUSY_SECONDS}, hide_parameters=True, **POOL)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


_PRAGMAS = (
    *("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", f"busy_timeout={BUSY_SECONDS * 1000}"),
    "secure_delete=ON",  # a password that was taken from its row is to be gone from the file as well
)


def _prepare_sqlite(connection: sqlite3.Connection, _record: Any) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves
    for pragma in _PRAGMAS:
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    immediate = connection.get_execution_options().get(WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")
