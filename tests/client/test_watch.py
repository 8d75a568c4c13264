"""The live view: counts, rates measured while watching, time left; and the rows by which workers report themselves."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import update
from typer.testing import CliRunner

from domain.states import JobState
from nightowl.cli import app
from nightowl.cli.watch import Look, Watcher
from storage import presence, tables
from storage.presence import Presence, Standing
from tasks.presence import Meter
from tests.storage.ledger import Ledger

if TYPE_CHECKING:
    import pytest

    from nightowl import Client
    from storage.session import Database

NOW = datetime.now(UTC)


def in_batch(database: Database, *ids: str) -> None:
    with database.write() as session:
        session.add(tables.Batch(id="b", name="night"))
        session.flush()
        session.execute(update(tables.Job).where(tables.Job.id.in_(ids)).values(batch_id="b"))


def test_what_is_left_is_reckoned_from_the_measured_rate(client: Client, database: Database) -> None:
    ledger, now = Ledger(database), [0.0]
    for id in ("one", "two"):
        ledger.planned(id=id, pages=4)
    ledger.submit(id="later")
    in_batch(database, "one", "two", "later")
    watcher = Watcher(client, "b", clock=lambda: now[0])
    first = watcher.look()
    assert first.parts_per_second is None and first.seconds_left is None
    assert (first.standing.parts_total, first.standing.parts_over, first.standing.parts_left) == (8, 0, 12)
    claim = ledger.must_claim("one")
    for number in (1, 2, 3):
        ledger.do(claim, number)
    ledger.fail(claim, 4)
    now[0] = 8.0
    second = watcher.look()
    assert second.parts_per_second == 0.5
    assert second.seconds_left == 8 / 0.5
    assert second.standing.states == {JobState.RUNNING: 2, JobState.PENDING: 1}


def test_a_rate_is_that_of_the_last_minute(client: Client, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    now, over = [0.0], [0]
    watcher = Watcher(client, None, clock=lambda: now[0])
    monkeypatch.setattr(client, "standing", lambda *_, **__: Standing(parts_over=over[0]))
    for minute in range(4):
        now[0], over[0] = 60.0 * minute, 600 * minute
        watcher.look()
    now[0], over[0] = 240.0, over[0]
    assert watcher.look().parts_per_second == 0


def test_without_a_batch_the_past_is_left_out(client: Client, database: Database) -> None:
    ledger = Ledger(database)
    ledger.cancel(ledger.submit().id)
    waiting = ledger.submit().id
    watcher = Watcher(client, None)
    assert watcher.look().standing.states == {JobState.PENDING: 1}
    ledger.cancel(waiting)
    assert watcher.look().standing.states == {JobState.CANCELLED: 1}


def test_workers_are_seen_until_they_leave_or_fall_silent(client: Client, database: Database) -> None:
    now = datetime.now(UTC)
    for name, seen in (("here:1", now), ("gone:2", now), ("silent:3", now - timedelta(hours=2))):
        with database.write() as session:
            presence.report(session, Presence(name=name, seen_at=seen, started_at=now, occupancy=0.5))
    with database.write() as session:
        presence.report(session, Presence(name="here:1", seen_at=now, started_at=now, parts=7, pages_per_second=2.5))
        presence.leave(session, "gone:2")
    assert [(worker.name, worker.parts) for worker in client.workers()] == [("here:1", 7)]
    with database.write() as session:
        presence.forget(session, seen_before=now - timedelta(hours=1))
    with database.read() as session:
        assert len(presence.workers(session, seen_after=now - timedelta(days=1))) == 1


def test_a_meter_tells_the_rate_of_the_last_minute() -> None:
    meter = Meter()
    assert meter.read(NOW) == (0, 0, 0, 0)
    for spec in ({"page": 1}, {"page": 2}, {"start": 0.0, "end": 1.0}):
        meter.count(spec)
    assert meter.read(NOW + timedelta(seconds=10)) == (3, 2, 0.3, 0.2)
    meter.read(NOW + timedelta(seconds=70))
    assert meter.read(NOW + timedelta(seconds=130)) == (3, 2, 0, 0)


def test_the_command_ends_with_the_batch(client: Client, database: Database) -> None:
    ledger = Ledger(database)
    ledger.cancel(ledger.submit(id="x").id)
    in_batch(database, "x")
    told = CliRunner().invoke(app, ["status", "night", "--watch", "--json"])
    assert told.exit_code == 0, told.output
    assert json.loads(told.stdout)["jobs"] == {"cancelled": 1}
    text = CliRunner().invoke(app, ["status", "night", "--watch"]).stdout
    assert "jobs     1 cancelled" in text


def test_the_view_names_failures_rates_and_occupancy() -> None:
    worker = Presence(name="a:1", seen_at=NOW, started_at=NOW, pages_per_second=3.0, occupancy=0.8, in_hand=2)
    standing = Standing(
        states={JobState.RUNNING: 1, JobState.FAILED: 2},
        codes={"no_pages": 2},
        planned=1,
        parts_total=100,
        parts_over=40,
    )
    text = str(Look(standing=standing, workers=[worker], parts_per_second=2.0))
    for piece in ("1 running", "2 no_pages", "40 of 100", "2.0 parts/s", "3.0 pages/s", "0:00:30 left", "80% full"):
        assert piece in text
