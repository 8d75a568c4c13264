from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from nightowl import Client

if TYPE_CHECKING:
    from collections.abc import Iterator

    from storage.session import Database


@pytest.fixture
def client(database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.setenv("NIGHTOWL_DATABASE_URL", database_url)
    with Client() as made:
        yield made
