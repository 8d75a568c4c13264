"""Batches in the ledger, on both databases."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr
from sqlalchemy import event, func, select, text

from domain.batches import BatchSpec, Found, Skipped
from domain.errors import ConflictError, NotFoundError
from domain.params import Ocr
from domain.states import JobState
from storage import batches, changes, due, tables
from storage.due import Bell
from tests.storage.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Iterator

    from domain.batches import Batch
    from storage.batches import Added
    from storage.session import Database


@pytest.fixture
def ledger(database: Database) -> Ledger:
    return Ledger(database)


def found(path: str, content: str = "c", **more: object) -> Found:
    return Found(path=path, source=f"/archive/{path}", sha256=content * 64, size=1, **more)  # type: ignore[arg-type]


def opened(ledger: Ledger, spec: BatchSpec) -> Batch:
    with ledger.database.write() as session:
        return batches.open_batch(session, spec, now=ledger.now)


def add(ledger: Ledger, batch: Batch, spec: BatchSpec, *entries: Found | Skipped, ring: int = 0) -> Added:
    with ledger.database.write() as session:
        return batches.add(session, batch, spec, entries, stored={}, now=ledger.now, ring=ring)


def filled(ledger: Ledger, count: int, *, name: str = "b", **spec: object) -> tuple[Batch, tuple[str, ...]]:
    made = BatchSpec(name=name, params=Ocr(), **spec)  # type: ignore[arg-type]
    batch = opened(ledger, made)
    added = add(ledger, batch, made, *(found(f"{number}.pdf") for number in range(count)))
    return batch, added.jobs


def bell(ledger: Ledger) -> Bell:
    return Bell(now=ledger.now, stale_before=ledger.now - timedelta(seconds=60))


def rung_plans(ledger: Ledger, limit: int, batches: int | None = None) -> list[str]:
    with ledger.database.write() as session:
        return [item.job_id for item in due.plans(session, bell(ledger), limit=limit, batches=batches)]


def test_the_same_members_again_add_only_what_is_missing(ledger: Ledger) -> None:
    spec = BatchSpec(name="b", params=Ocr())
    batch = opened(ledger, spec)
    first = add(ledger, batch, spec, found("a/x.pdf"), found("b/x.pdf"), found("a/x.pdf"))
    assert (len(first.jobs), first.already) == (2, 1)
    again = add(ledger, opened(ledger, spec), spec, found("a/x.pdf"), found("b/x.pdf", "d"), found("new.pdf"))
    assert (len(again.jobs), again.already) == (2, 1), "another content under a path is another member"
    assert ledger.check() == []


def test_rows_are_written_as_they_are_said_whatever_stands_in_them(ledger: Ledger) -> None:
    spec = BatchSpec(name="b", params=Ocr(pages="1", password=SecretStr("p'w")), priority=-3, engine="e", fresh=True)
    batch = opened(ledger, spec)
    path = """a 'b' "c" \\ {d} %s :e $1 é 漢字 😀 \x7f"""
    large = Found(path=path, source=f"/{path}", size=2**40)
    skipped = Skipped(path=path, code="name_refused", message=path)
    added = add(ledger, batch, spec, large, skipped, found("plain"), found("rung no more"), ring=1)
    job, plain, _ = (ledger.job(id) for id in added.jobs)
    assert (job.source, job.source_name, job.sha256, plain.sha256) == (f"/{path}", path, None, "c" * 64)
    assert (job.params, job.password, job.priority, job.engine, job.fresh) == ({"pages": "1"}, "p'w", -3, "e", True)
    assert job.created_at == ledger.now
    with ledger.database.read() as session:
        members = {(str(one.state), one.path): one for one in batches.members(session, batch.id)}
        rung = list(session.scalars(select(tables.Job.id).where(tables.Job.rung_at == ledger.now)))
    assert (members["submitted", path].size, members["submitted", path].sha256) == (2**40, None)
    assert members["skipped", path].error_message == path
    assert rung == [added.jobs[0]]


def test_a_member_with_params_of_its_own_is_another_one(ledger: Ledger) -> None:
    spec = BatchSpec(name="b", params=Ocr())
    batch = opened(ledger, spec)
    added = add(ledger, batch, spec, found("x.pdf"), found("x.pdf", params=Ocr(pages="1")))
    assert [ledger.job(id).params for id in added.jobs] == [{}, {"pages": "1"}]


def test_a_name_stands_for_one_kind_and_its_params(ledger: Ledger) -> None:
    opened(ledger, BatchSpec(name="b", params=Ocr()))
    with pytest.raises(ConflictError, match="another name"):
        opened(ledger, BatchSpec(name="b", params=Ocr(output="text")))


def test_skipped_members_are_kept_with_why_and_counted(ledger: Ledger) -> None:
    spec = BatchSpec(name="b", params=Ocr())
    batch = opened(ledger, spec)
    add(ledger, batch, spec, found("x.pdf"), Skipped(path="../y", code="name_refused", message="leads out"))
    with ledger.database.read() as session:
        summary = batches.summary(session, batch)
        manifest = sorted(batches.members(session, batch.id), key=lambda member: member.path)
        first, *_ = page = batches.members(session, batch.id, limit=1)
        assert [*page, *batches.members(session, batch.id, after=first.digest)] == batches.members(session, batch.id)
    assert (summary.states, summary.skipped) == ({JobState.PENDING: 1}, {"name_refused": 1})
    assert [(member.path, member.state.value, member.error_message) for member in manifest] == [
        ("../y", "skipped", "leads out"),
        ("x.pdf", "submitted", None),
    ]
    assert manifest[1].job_state is JobState.PENDING


def test_change_numbers_of_a_block_are_one_each_and_the_counter_stands_at_the_last(ledger: Ledger) -> None:
    ledger.submit()
    _, ids = filled(ledger, 5)
    assert [ledger.job(id).change_seq for id in ids] == [2, 3, 4, 5, 6]
    assert ledger.submit().change_seq == 7
    assert ledger.check() == []


def test_concurrent_writers_never_share_a_number_and_show_them_in_order(database: Database) -> None:
    """A poller that keeps the highest number it saw while blocks and single numbers are taken misses none."""
    writers = [Ledger(database, worker=str(number)) for number in range(4)]
    seen: set[int] = set()
    done = threading.Event()

    def write(ledger: Ledger) -> None:
        batch, _ = filled(ledger, 7, name=ledger.worker)
        spec = BatchSpec(name=ledger.worker, params=Ocr())
        for round in range(5):
            add(ledger, batch, spec, *(found(f"{round}/{number}", "d") for number in range(9)))
            ledger.submit()

    def poll() -> None:
        cursor = 0
        while True:
            last_look = done.is_set()
            with database.read() as session:
                numbers = session.scalars(
                    select(tables.Job.change_seq).where(tables.Job.change_seq > cursor).order_by(tables.Job.change_seq)
                ).all()
            seen.update(numbers)
            cursor = max([cursor, *numbers])
            if last_look:
                return

    poller = threading.Thread(target=poll)
    poller.start()
    threads = [threading.Thread(target=write, args=(ledger,)) for ledger in writers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    done.set()
    poller.join(60)
    assert seen == set(range(1, 4 * (7 + 5 * 10) + 1))


def test_a_batch_is_found_by_name_id_and_the_first_letters_of_the_id(ledger: Ledger) -> None:
    batch = opened(ledger, BatchSpec(name="winter", params=Ocr()))
    with ledger.database.read() as session:
        assert {batches.find(session, key).id for key in ("winter", batch.id, batch.id[:-4])} == {batch.id}
        with pytest.raises(NotFoundError, match="summer"):
            batches.find(session, "summer")


def test_cancelling_takes_what_runs_first_and_frees_it(ledger: Ledger) -> None:
    batch, ids = filled(ledger, 6)
    claim = ledger.plan_claim(ids[4])
    assert claim is not None
    ledger.write_plan(claim, pages=2)
    held = ledger.must_claim(ids[4])
    with ledger.database.write() as session:
        batches.mark_cancelled(session, batch.id, now=ledger.now)
    with ledger.database.write() as session:
        assert batches.cancel_some(session, batch.id, now=ledger.now, limit=10, urgent=True) == 1
    assert ledger.job(ids[4]).state is JobState.CANCELLED
    with ledger.database.read() as session:
        from storage import attempts

        assert attempts.stopped(session, [held.token]) == {held.token}
    assert rung_plans(ledger, 10) == [], "nothing of a cancelled batch is rung for"
    chunks = []
    while count := cancel_chunk(ledger, batch, limit=2):
        chunks.append(count)
    assert chunks == [2, 2, 1]
    assert {ledger.job(id).state for id in ids} == {JobState.CANCELLED}
    assert len({ledger.job(id).change_seq for id in ids}) == 6
    assert ledger.check() == []


def cancel_chunk(ledger: Ledger, batch: Batch, *, limit: int) -> int:
    with ledger.database.write() as session:
        return batches.cancel_some(session, batch.id, now=ledger.now, limit=limit)


def test_cancelling_forgets_a_password_that_an_application_wrote_among_the_params(ledger: Ledger) -> None:
    batch, _ = filled(ledger, 1)
    with ledger.database.write() as session:
        session.execute(
            text("INSERT INTO jobs (id, kind, batch_id, params) VALUES ('j', 'ocr', :batch, '{\"password\": \"s\"}')"),
            {"batch": batch.id},
        )
    assert cancel_chunk(ledger, batch, limit=10) == 2
    assert ledger.check() == []


def test_nothing_is_added_to_a_batch_that_was_cancelled_meanwhile(ledger: Ledger) -> None:
    spec = BatchSpec(name="b", params=Ocr())
    batch = opened(ledger, spec)
    with ledger.database.write() as session:
        batches.mark_cancelled(session, batch.id, now=ledger.now)
    with pytest.raises(ConflictError, match="cancelled while"):
        add(ledger, batch, spec, found("x"))


def test_a_retry_opens_what_did_not_succeed_and_keeps_parts_that_did(ledger: Ledger) -> None:
    batch, ids = filled(ledger, 3)
    for id in ids[:2]:
        claim = ledger.plan_claim(id)
        assert claim is not None
        ledger.write_plan(claim, pages=2)
        held = ledger.must_claim(id)
        ledger.do(held, 1)
        ledger.fail(held, 2)
        finish = ledger.finish_claim(id)
        assert finish is not None
        from domain.errors import Failure

        ledger.close(finish, error=Failure(code="page_damaged", message="torn"))
    ledger.cancel(ids[2])
    with ledger.database.write() as session:
        assert batches.retry_some(session, batch.id, ended_before=ledger.now, limit=10) == 3
    with ledger.database.write() as session:
        assert batches.retry_some(session, batch.id, ended_before=ledger.now, limit=10) == 0
    assert [ledger.job(id).state for id in ids] == [JobState.RUNNING, JobState.RUNNING, JobState.PENDING]
    assert [part.state.value for part in ledger.parts(ids[0])] == ["succeeded", "pending"]
    assert ledger.check() == []


def test_a_batch_is_over_with_its_last_job_and_open_again_with_a_retry(ledger: Ledger) -> None:
    batch, ids = filled(ledger, 2)

    def over() -> int:
        with ledger.database.write() as session:
            return batches.close_over(session, now=ledger.now)

    for id in ids:
        ledger.cancel(id)
    assert over() == 0, "its submit has not ended"
    with ledger.database.write() as session:
        batches.close_submit(session, batch.id, now=ledger.now)
    assert (over(), over()) == (1, 0)
    ledger.retry(ids[0])
    assert rung_plans(ledger, 5) == [ids[0]]


def test_a_batch_that_is_over_is_open_again_with_a_new_member(ledger: Ledger) -> None:
    """Of two submits of one batch the first may end, and all its jobs, while the second still adds."""
    spec = BatchSpec(name="one", params=Ocr())
    batch = opened(ledger, spec)
    first = add(ledger, batch, spec, found("a.pdf"))
    with ledger.database.write() as session:
        batches.close_submit(session, batch.id, now=ledger.now)
    ledger.cancel(first.jobs[0])
    with ledger.database.write() as session:
        assert batches.close_over(session, now=ledger.now) == 1
    assert add(ledger, batch, spec, found("a.pdf")).already == 1
    with ledger.database.read() as session:
        assert batches.find(session, batch.id).over_at is not None
    second = add(ledger, batch, spec, found("b.pdf"))
    assert rung_plans(ledger, 5) == list(second.jobs)
    with ledger.database.write() as session:
        assert batches.close_over(session, now=ledger.now) == 0


@pytest.mark.parametrize("database_url", [pytest.param("postgresql", marks=pytest.mark.postgres)], indirect=True)
def test_a_batch_is_not_over_while_somebody_adds_to_it(ledger: Ledger) -> None:
    """On SQLite one waits for the other anyway."""
    spec = BatchSpec(name="one", params=Ocr())
    batch = opened(ledger, spec)
    with ledger.database.write() as session:
        batches.close_submit(session, batch.id, now=ledger.now)
    closed: list[int] = []

    def close() -> None:
        with ledger.database.write() as session:
            closed.append(batches.close_over(session, now=ledger.now))

    with ledger.database.write() as session:
        batches.add(session, batch, spec, [found("a.pdf")], stored={}, now=ledger.now, ring=0)
        closing = threading.Thread(target=close)
        closing.start()
        closing.join(1)
    closing.join()
    with ledger.database.read() as session:
        assert batches.find(session, batch.id).over_at is None
    assert closed == [0]


def test_rounds_take_one_of_each_lane(ledger: Ledger) -> None:
    _, one = filled(ledger, 50, name="one")
    ledger.pass_time(1)
    _, two = filled(ledger, 50, name="two")
    ledger.pass_time(1)
    single = [ledger.submit().id for _ in range(3)]
    with ledger.database.write() as session:
        session.execute(text("UPDATE jobs SET rung_at = NULL"))
    rung = rung_plans(ledger, 8)
    assert rung[0] == single[0]
    assert len(set(rung) & set(one)) >= 2
    assert len(set(rung) & set(two)) >= 2
    assert len(set(rung) & set(single)) >= 2


def test_a_batch_leaves_room_for_other_jobs(ledger: Ledger) -> None:
    filled(ledger, 40)
    with ledger.database.write() as session:
        room = due.room(session, bell(ledger), max_messages=16)
    assert (room.total, room.batches) == (16, 12)
    assert len(rung_plans(ledger, room.total, room.batches)) == 12
    with ledger.database.write() as session:
        room = due.room(session, bell(ledger), max_messages=16)
        assert (room.total, room.batches) == (4, 0)
    single = ledger.submit(source="/later.pdf").id
    with ledger.database.write() as session:
        session.execute(text("UPDATE jobs SET rung_at = NULL WHERE id = :id"), {"id": single})
    assert rung_plans(ledger, room.total, room.batches) == [single]


def test_a_low_priority_is_not_starved_and_rises_as_it_waits(ledger: Ledger) -> None:
    low = ledger.submit().id
    with ledger.database.write() as session:
        session.execute(text("UPDATE jobs SET priority = -25, rung_at = NULL"))
    ledger.pass_time(3600)
    high = [ledger.submit().id for _ in range(20)]
    with ledger.database.write() as session:
        session.execute(text("UPDATE jobs SET rung_at = NULL"))
        rung = due.plans(session, bell(ledger), limit=4)
    assert low in [item.job_id for item in rung]
    assert {item.job_id: item.priority for item in rung}[low] == -25 + 6
    assert {item.priority for item in rung if item.job_id in high} == {0}


def test_a_share_bounds_the_parts_in_flight(ledger: Ledger) -> None:
    _, ids = filled(ledger, 4, share=3)
    assert len(rung_plans(ledger, 10)) <= 4
    for id in ids:
        claim = ledger.plan_claim(id)
        assert claim is not None
        ledger.write_plan(claim, pages=2, slice_parts=1)

    def rung_slices() -> int:
        with ledger.database.write() as session:
            return len(due.slices(session, bell(ledger), limit=50))

    assert rung_slices() == 3
    assert rung_slices() == 0
    with ledger.database.write() as session:
        first = session.execute(select(tables.Part).where(tables.Part.rung_at.is_not(None))).scalars().first()
        assert first is not None
        where = (first.job_id, first.slice, first.number)
    ledger.do(ledger.must_claim(where[0], where[1]), where[2])
    assert rung_slices() == 1


def test_slices_of_a_long_document_do_not_hold_up_a_short_one(ledger: Ledger) -> None:
    long = ledger.planned(pages=40, slice_parts=1)
    ledger.pass_time(1)
    short = ledger.planned(pages=1)
    with ledger.database.write() as session:
        found = due.slices(session, bell(ledger), limit=4)
    assert short in [item.job_id for item in found]
    assert [item.slice for item in found if item.job_id == long] == [1, 2, 3]


def test_a_message_about_a_batch_that_was_lost_is_sent_again(ledger: Ledger) -> None:
    _, ids = filled(ledger, 2)
    assert set(rung_plans(ledger, 10)) == set(ids)
    assert rung_plans(ledger, 10) == []
    ledger.pass_time(61)
    assert set(rung_plans(ledger, 10)) == set(ids)


@contextmanager
def query_plans(database: Database, verb: str) -> Iterator[list[str]]:
    """What SQLite says of each statement of this verb about jobs or parts."""
    said: list[str] = []

    def watch(_c: object, _u: object, statement: str, parameters: Any, _x: object, _m: object) -> None:
        if statement.startswith(verb) and ("jobs" in statement or "parts" in statement):
            connection = database.engine.raw_connection()
            rows = connection.cursor().execute("EXPLAIN QUERY PLAN " + statement, parameters).fetchall()
            connection.close()
            said.extend(map(str, rows))

    event.listen(database.engine, "before_cursor_execute", watch)
    try:
        yield said
    finally:
        event.remove(database.engine, "before_cursor_execute", watch)


@pytest.mark.parametrize("index", ["ix_jobs_unrung", "ix_jobs_waiting", "ix_jobs_rung"])
def test_the_doorbell_finds_its_rows_by_an_index(database: Database, index: str) -> None:
    """Each of its questions over a backlog reads only the first rows of an index, and sorts none."""
    if database.dialect != "sqlite":
        pytest.skip("PostgreSQL reads a small table as a whole; its plan at size is in docs/performance.md")
    ledger = Ledger(database)
    filled(ledger, 3)
    with query_plans(database, "SELECT") as said, ledger.database.write() as session:
        due.plans(session, bell(ledger), limit=2)
        due.room(session, bell(ledger), max_messages=4)
    assert any(index in line for line in said), "\n".join(said)
    assert not any("SCAN jobs" in line and "INDEX" not in line for line in said), "\n".join(said)


def test_times_of_a_wrong_clock_are_looked_for_by_an_index(database: Database) -> None:
    if database.dialect != "sqlite":
        pytest.skip("PostgreSQL reads a small table as a whole; its plan at size is in docs/performance.md")
    ledger = Ledger(database)
    filled(ledger, 3)
    with query_plans(database, "UPDATE") as said, ledger.database.write() as session:
        due.correct_times(session, bell(ledger), longest=timedelta(minutes=5))
    indexes = ("ix_jobs_rung", "ix_jobs_put_off", "ix_parts_waiting", "ix_parts_waiting")
    assert len(said) == 4
    assert all(index in line for index, line in zip(indexes, said, strict=True)), "\n".join(said)


def test_taking_numbers_counts_the_ledger_up(database: Database) -> None:
    with database.write() as session:
        assert list(changes.take(session, 3)) == [1, 2, 3]
        assert list(changes.take(session, 2)) == [4, 5]
        assert session.scalar(select(func.max(tables.Ledger.value))) == 5
