from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from alembic import command
from sqlalchemy import inspect

from domain.errors import SetupError
from storage import migrations
from storage.session import Database
from storage.tables import Base

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def empty(database_url: str) -> Iterator[Database]:
    made = Database(database_url)
    yield made
    made.close()


def tables(database: Database) -> set[str]:
    return set(inspect(database.engine).get_table_names())


def test_upgrade_from_empty_makes_every_table(empty: Database) -> None:
    migrations.upgrade(empty)
    assert tables(empty) == {*Base.metadata.tables, "alembic_version"}


def test_models_and_migrations_say_the_same(empty: Database) -> None:
    migrations.upgrade(empty)
    command.check(migrations.config(empty))


def test_downgrade_leaves_nothing_and_upgrade_works_again(empty: Database) -> None:
    migrations.upgrade(empty)
    command.downgrade(migrations.config(empty), "base")
    assert tables(empty) == {"alembic_version"}
    migrations.upgrade(empty)
    migrations.require_current(empty)


def test_an_empty_database_is_refused_with_the_command_to_run(empty: Database) -> None:
    with pytest.raises(SetupError, match="nightowl migrate"):
        migrations.require_current(empty)


def test_upgrading_twice_changes_nothing(empty: Database) -> None:
    migrations.upgrade(empty)
    migrations.upgrade(empty)
    migrations.require_current(empty)
