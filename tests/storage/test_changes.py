"""A poller that keeps the highest change number it saw misses nothing, in whichever order writers commit."""

from __future__ import annotations

import random
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select, update

from storage import changes, jobs, migrations, tables
from storage.session import Database
from tests.storage.ledger import Ledger
from tests.storage.test_ledger import at_once

if TYPE_CHECKING:
    from collections.abc import Iterator

WRITERS, CHANGES = 8, 12


class Poller:
    """Keeps the highest number that it saw, and what it saw of each job last."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.cursor = 0
        self.seen: dict[str, int] = {}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Poller:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            over = self._done.is_set()
            if not self.look() and over:
                return

    def look(self) -> int:
        with self._database.read() as session:
            found = jobs.changes(session, since=self.cursor, limit=5)
        for job in found:
            assert job.change_seq > self.cursor, "a number came twice, or late"
            self.cursor = job.change_seq
            self.seen[job.id] = job.priority
        return len(found)


def write(database: Database, writer: int) -> None:
    """Change two jobs of its own many times. Transactions stay open for a random while; some take a number in vain."""
    chance = random.Random(writer)
    for count in range(1, CHANGES + 1):
        job_id = f"{writer}-{count % 2}"
        if chance.random() < 0.1:
            with suppress(InVainError):
                _change(database, job_id, count, chance, in_vain=True)
        _change(database, job_id, count, chance)


class InVainError(Exception):
    pass


def _change(database: Database, job_id: str, count: int, chance: random.Random, *, in_vain: bool = False) -> None:
    with database.write() as session:
        session.execute(update(tables.Job).where(tables.Job.id == job_id).values(priority=count))
        time.sleep(chance.random() * 0.006)
        changes.bump(session, job_id)
        time.sleep(chance.random() * 0.003)
        if in_vain:
            raise InVainError


def test_a_poller_beside_concurrent_writers_misses_no_change(database: Database) -> None:
    ledger = Ledger(database)
    for writer in range(WRITERS):
        for number in range(2):
            ledger.submit(id=f"{writer}-{number}")
    with Poller(database) as poller:
        at_once(WRITERS, lambda writer: write(database, writer))
    last = {f"{writer}-{count % 2}": count for writer in range(WRITERS) for count in range(1, CHANGES + 1)}
    assert poller.seen == last


@pytest.fixture
def postgres(postgres_url: str) -> Iterator[Database]:
    made = Database(postgres_url)
    migrations.upgrade(made)
    yield made
    made.close()


@pytest.mark.postgres
def test_numbers_that_are_not_taken_under_the_lock_are_missed(postgres: Database) -> None:
    """The test above can fail: a number from a sequence becomes visible after a higher one, and is never asked for."""
    database = postgres
    ledger = Ledger(database)
    for name in ("slow", "quick"):
        ledger.submit(id=name)
    poller = Poller(database)
    while poller.look():
        pass
    with database.write() as slow:
        slow.execute(update(tables.Job).where(tables.Job.id == "slow").values(change_seq=101, priority=1))
        with database.write() as quick:
            quick.execute(update(tables.Job).where(tables.Job.id == "quick").values(change_seq=102, priority=1))
        poller.look()
    poller.look()
    assert poller.seen == {"quick": 1, "slow": 0}


@pytest.mark.postgres
def test_the_second_writer_waits_for_the_first_ones_number(postgres: Database) -> None:
    """What the row's lock is for, seen in the database: nobody gets a number while a smaller one is not committed."""
    database = postgres
    Ledger(database).submit(id="a")
    Ledger(database).submit(id="b")
    order: list[str] = []

    def second() -> None:
        with database.write() as session:
            changes.bump(session, "b")
        order.append("b")

    thread = threading.Thread(target=second)
    with database.write() as session:
        changes.bump(session, "a")
        thread.start()
        thread.join(0.3)
        assert thread.is_alive()
        order.append("a")
    thread.join()
    assert order == ["a", "b"]
    with database.read() as session:
        numbers = {id: number for id, number in session.execute(select(tables.Job.id, tables.Job.change_seq))}
    assert numbers["b"] == numbers["a"] + 1
