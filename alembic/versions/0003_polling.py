"""For those that poll: views with stable columns, and on PostgreSQL a word when a job ends.

SQLite rebuilds a table to alter it and refuses while a view reads it: a later migration that does so drops the views
first and makes them again.
"""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

VIEWS = {
    "job_progress": """
        SELECT id, batch_id, kind, state, source_name, parts_total, parts_succeeded, parts_failed,
               CASE WHEN state NOT IN ('pending', 'running') THEN 1.0
                    WHEN parts_total = 0 THEN 0.0
                    ELSE (parts_succeeded + parts_failed) * 1.0 / parts_total END AS done,
               error_code, error_message, error_retryable, change_seq, created_at, started_at, finished_at
          FROM jobs
    """,
    "batch_progress": """
        SELECT batches.id, batches.name, batches.created_at,
               count(jobs.id) AS jobs,
               count(CASE WHEN jobs.state = 'pending' THEN 1 END) AS pending,
               count(CASE WHEN jobs.state = 'running' THEN 1 END) AS running,
               count(CASE WHEN jobs.state = 'succeeded' THEN 1 END) AS succeeded,
               count(CASE WHEN jobs.state = 'partial' THEN 1 END) AS partial,
               count(CASE WHEN jobs.state = 'failed' THEN 1 END) AS failed,
               count(CASE WHEN jobs.state = 'cancelled' THEN 1 END) AS cancelled,
               coalesce(sum(jobs.parts_total), 0) AS parts_total,
               coalesce(sum(jobs.parts_succeeded), 0) AS parts_succeeded,
               coalesce(sum(jobs.parts_failed), 0) AS parts_failed,
               min(jobs.started_at) AS started_at,
               max(jobs.finished_at) AS last_finished_at,
               max(jobs.change_seq) AS change_seq
          FROM batches LEFT JOIN jobs ON jobs.batch_id = batches.id
         GROUP BY batches.id, batches.name, batches.created_at
    """,
    "part_texts": """
        SELECT parts.job_id, parts.number, jobs.batch_id, jobs.source_name, parts.state,
               CAST(parts.spec ->> 'page' AS INTEGER) AS page,
               CAST(parts.spec ->> 'start' AS REAL) AS start_seconds,
               CAST(parts.spec ->> 'end' AS REAL) AS end_seconds,
               parts.text, parts.error_code, parts.error_message, parts.finished_at
          FROM parts JOIN jobs ON jobs.id = parts.job_id
    """,
}
NOTIFY = """
    CREATE FUNCTION nightowl_job_ended() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_notify('nightowl_ended', NEW.id);
        RETURN NULL;
    END $$
"""
TRIGGER = """
    CREATE TRIGGER nightowl_job_ended AFTER UPDATE OF state ON jobs FOR EACH ROW
    WHEN (OLD.state IN ('pending', 'running') AND NEW.state NOT IN ('pending', 'running'))
    EXECUTE FUNCTION nightowl_job_ended()
"""


def upgrade() -> None:
    for name, query in VIEWS.items():
        op.execute(f"CREATE VIEW {name} AS {query}")
    if _on_postgresql():
        op.execute(NOTIFY)
        op.execute(TRIGGER)


def downgrade() -> None:
    if _on_postgresql():
        op.execute("DROP TRIGGER nightowl_job_ended ON jobs")
        op.execute("DROP FUNCTION nightowl_job_ended()")
    for name in reversed(VIEWS):
        op.execute(f"DROP VIEW {name}")


def _on_postgresql() -> bool:
    return op.get_bind().dialect.name == "postgresql"
