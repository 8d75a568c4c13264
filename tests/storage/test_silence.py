"""A PostgreSQL across a network that falls silent: what a host that is cut off had locked does not stop the others."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from storage import changes, migrations, session
from storage.exports import Which, stream
from storage.session import Database

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.orm import Session

pytestmark = pytest.mark.postgres

STILL_SECONDS = 1


@pytest.fixture
def database(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    monkeypatch.setattr(session, "STILL_SECONDS", STILL_SECONDS)
    made = Database(postgres_url)
    migrations.upgrade(made)
    yield made
    made.close()


def setting(session: Session, name: str) -> str:
    return str(session.execute(text(f"SHOW {name}")).scalar_one())


def test_a_transaction_that_stands_still_lets_go_of_the_change_numbers(database: Database) -> None:
    """As one whose client was cut off: it holds the lock that every change of a job needs."""
    with pytest.raises(SQLAlchemyError), database.write() as cut_off:
        changes.take(cut_off, 1)
        began = time.monotonic()
        with database.write() as other:
            first = changes.take(other, 1)
        assert time.monotonic() - began < STILL_SECONDS + 20
        changes.take(cut_off, 1)  # its packets come through again
    with database.write() as again:
        assert changes.take(again, 1).start == first.stop


def test_whoever_reads_a_stream_may_take_his_time(database: Database) -> None:
    with database.read() as reading:
        list(stream(reading, Which()))
        assert setting(reading, "idle_in_transaction_session_timeout") == "0"
        time.sleep(2 * STILL_SECONDS)
        assert list(stream(reading, Which())) == []
    with database.read() as next_one:
        assert setting(next_one, "idle_in_transaction_session_timeout") == f"{STILL_SECONDS}s"


def test_the_url_may_say_how_long_a_silent_server_is_waited_for(postgres_url: str) -> None:
    database = Database(f"{postgres_url}{'&' if '?' in postgres_url else '?'}connect_timeout=77")
    with database.read() as reading:
        driver = reading.connection().connection.driver_connection
        assert driver is not None
        told = driver.info.get_parameters()
    database.close()
    assert told["connect_timeout"] == "77"
    assert told["tcp_user_timeout"] == str(session.SILENCE["tcp_user_timeout"])
