"""Bringing a database to the schema of this version, and asking whether it is there.

The migration scripts lie in alembic/ beside the packages (a checkout, the container image); a wheel does not hold them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from domain.errors import SetupError

if TYPE_CHECKING:
    from storage.session import Database

INI = Path(__file__).resolve().parent.parent / "alembic.ini"


def config(database: Database) -> Config:
    """Raises SetupError where the scripts are not installed."""
    if not INI.is_file():
        raise SetupError(f"{INI} is missing: migrate from a checkout or from the container image")
    made = Config(str(INI))
    made.attributes["engine"] = database.engine
    return made


def upgrade(database: Database) -> None:
    """Run every migration that the database lacks. Safe to run twice."""
    command.upgrade(config(database), "head")


def revision(database: Database) -> str | None:
    with database.engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def head(database: Database) -> str | None:
    return ScriptDirectory.from_config(config(database)).get_current_head()


def require_current(database: Database) -> None:
    """Raises SetupError naming the command where the database is behind."""
    found, wanted = revision(database), head(database)
    if found != wanted:
        raise SetupError(
            f"the database is at {found or 'no schema'}, this version needs {wanted}: run `nightowl migrate`"
        )
