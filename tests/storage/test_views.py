"""What docs/sql.md says: its views count right, and each of its queries is served by indexes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from domain.states import JobState
from storage import migrations
from storage.session import Database
from tests.storage.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = (Path(__file__).parents[2] / "docs" / "sql.md").read_text()
QUERIES = [
    query.strip()
    for block in re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)
    for query in block.split(";")
    if query.strip().startswith("SELECT")
]
BATCHES, JOBS, PAGES = 400, 4000, 2
SAMPLE = {"cursor": JOBS - 20, "job_id": "job-7", "batch_id": "batch-7"}
NUMBERS = "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < :last)"
FILL = (
    f"INSERT INTO batches (id, name) {NUMBERS} SELECT 'batch-' || n, 'name ' || n FROM numbers WHERE n <= {BATCHES}",
    f"INSERT INTO jobs (id, batch_id, kind, state, change_seq, parts_total, parts_succeeded, created_at) {NUMBERS} "
    f"SELECT 'job-' || n, 'batch-' || (n % {BATCHES} + 1), 'ocr',"
    f" CASE WHEN n % 9 = 0 THEN 'failed' ELSE 'succeeded' END, n, {PAGES}, {PAGES}, '2026-01-01 00:00:00' FROM numbers",
    f"INSERT INTO members (batch_id, digest, path, state, job_id) {NUMBERS}"
    f" SELECT 'batch-' || (n % {BATCHES} + 1), '' || n, 'folder/' || n || '.pdf', 'submitted', 'job-' || n"
    " FROM numbers",
    *(
        f"INSERT INTO parts (job_id, number, slice, state, spec, text) {NUMBERS} SELECT 'job-' || n, {page}, 1,"
        f" 'succeeded', '{{\"page\": {page}}}', 'a page of text that somebody wrote' FROM numbers"
        for page in range(1, PAGES + 1)
    ),
)


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def filled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """A ledger with some thousand jobs, analyzed."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('views') / 'ledger.db'}"
    else:
        url = _fresh(request.getfixturevalue("postgres_server"))
    database = Database(url)
    migrations.upgrade(database)
    with database.write() as session:
        for statement in FILL:
            session.execute(text(statement), {"last": JOBS})
    with database.write() as session:
        session.execute(text("ANALYZE"))
    yield database
    database.close()


def _fresh(server: str) -> str:
    from sqlalchemy import NullPool, create_engine, make_url

    admin = make_url(server).set(drivername="postgresql+psycopg")
    engine = create_engine(admin, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with engine.connect() as connection:
        connection.exec_driver_sql("CREATE DATABASE test_views")
    engine.dispose()
    return admin.set(database="test_views").render_as_string(hide_password=False)


def _bound(query: str) -> dict[str, Any]:
    return {name: SAMPLE[name] for name in re.findall(r":(\w+)", query)}


def plan(database: Database, query: str) -> str:
    """What the database says that it would do."""
    explain = "EXPLAIN QUERY PLAN" if database.dialect == "sqlite" else "EXPLAIN"
    with database.read() as session:
        rows = session.execute(text(f"{explain} {query}"), _bound(query)).all()
    return "\n".join(str(row[-1]) for row in rows)


def whole_scans(database: Database, steps: str) -> list[str]:
    """The large tables of which every row would be read."""
    if database.dialect == "sqlite":
        return re.findall(r"^SCAN (jobs|parts|attempts)(?! USING INDEX)", steps, re.MULTILINE)
    return re.findall(r"Seq Scan on (jobs|parts|attempts)", steps)


def test_the_page_has_queries() -> None:
    assert len(QUERIES) >= 8


@pytest.mark.parametrize("query", QUERIES)
def test_each_documented_query_runs_and_is_served_by_indexes(filled: Database, query: str) -> None:
    with filled.read() as session:
        assert session.execute(text(query), _bound(query)).all()
    steps = plan(filled, query)
    assert not whole_scans(filled, steps), steps


def test_a_query_without_an_index_is_seen(filled: Database) -> None:
    assert whole_scans(filled, plan(filled, "SELECT id FROM jobs WHERE source = 'x'"))


def test_batch_progress_counts_its_jobs(filled: Database) -> None:
    with filled.read() as session:
        row = session.execute(text("SELECT * FROM batch_progress WHERE id = 'batch-8'")).mappings().one()
    numbers = [n for n in range(1, JOBS + 1) if n % BATCHES + 1 == 8]
    failed = sum(n % 9 == 0 for n in numbers)
    assert (row["jobs"], row["failed"], row["succeeded"]) == (len(numbers), failed, len(numbers) - failed)
    assert (row["pending"], row["running"], row["parts_total"]) == (0, 0, PAGES * len(numbers))
    assert row["change_seq"] == max(numbers)


def test_a_batch_without_jobs_is_seen_with_none(database: Database) -> None:
    with database.write() as session:
        session.execute(text("INSERT INTO batches (id) VALUES ('empty')"))
    with database.read() as session:
        row = session.execute(text("SELECT jobs, parts_total FROM batch_progress")).one()
    assert tuple(row) == (0, 0)


def test_progress_and_texts_follow_the_parts(database: Database) -> None:
    ledger = Ledger(database)
    job_id = ledger.planned(pages=4)

    def done() -> float:
        with database.read() as session:
            return float(session.scalar(text("SELECT done FROM job_progress")) or 0)

    assert done() == 0
    claim = ledger.must_claim(job_id)
    ledger.do(claim, 1, "first")
    ledger.fail(claim, 2)
    assert done() == 0.5
    with database.read() as session:
        rows = session.execute(text("SELECT page, text, error_code FROM part_texts ORDER BY number")).all()
    assert [tuple(row) for row in rows] == [
        (1, "first", None),
        (2, None, "page_damaged"),
        (3, None, None),
        (4, None, None),
    ]
    ledger.cancel(job_id)
    assert done() == 1
    assert ledger.job(job_id).state is JobState.CANCELLED
