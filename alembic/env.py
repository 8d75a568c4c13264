"""Alembic's entry: runs with the engine that storage/migrations.py passes, or with the one that the settings name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alembic import context

from domain.settings import Settings
from storage.session import WRITES, Database
from storage.tables import Base

if TYPE_CHECKING:
    from sqlalchemy import Engine


def run(engine: Engine) -> None:
    # WRITES: a migration on SQLite begins IMMEDIATE, so that two that start together wait for each other.
    with engine.connect().execution_options(**{WRITES: True}) as connection:
        context.configure(
            connection=connection,
            target_metadata=Base.metadata,
            render_as_batch=engine.dialect.name == "sqlite",
            compare_type=True,
        )
        with context.begin_transaction():
            context.run_migrations()


engine = context.config.attributes.get("engine")
run(engine if engine is not None else Database(Settings().database).engine)
