"""A batch may name a URL that is told once, when none of its jobs is open any more."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

OVER = "NEW.callback IS NOT NULL AND OLD.over_at IS NULL AND NEW.over_at IS NOT NULL"
SQLITE = f"""
    CREATE TRIGGER nightowl_batch_callback AFTER UPDATE OF over_at ON batches FOR EACH ROW WHEN {OVER}
    BEGIN
        INSERT INTO deliveries (id, batch_id, url) VALUES (lower(hex(randomblob(16))), NEW.id, NEW.callback);
    END
"""
POSTGRESQL = (
    """
    CREATE FUNCTION nightowl_batch_callback() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO deliveries (id, batch_id, url)
        VALUES (replace(gen_random_uuid()::text, '-', ''), NEW.id, NEW.callback);
        RETURN NULL;
    END $$
    """,
    f"""
    CREATE TRIGGER nightowl_batch_callback AFTER UPDATE OF over_at ON batches FOR EACH ROW WHEN ({OVER})
    EXECUTE FUNCTION nightowl_batch_callback()
    """,
)
OF_JOBS = """
    CREATE TRIGGER nightowl_job_callback AFTER UPDATE OF state ON jobs FOR EACH ROW WHEN
    NEW.callback IS NOT NULL
    AND OLD.state IN ('pending', 'running') AND NEW.state NOT IN ('pending', 'running')
    BEGIN
        INSERT INTO deliveries (id, job_id, job_state, url)
        VALUES (lower(hex(randomblob(16))), NEW.id, NEW.state, NEW.callback);
    END
"""
"""As in 0006. SQLite makes a new table to change one, and a trigger may not name it meanwhile."""


def upgrade() -> None:
    op.add_column("batches", sa.Column("callback", sa.Text(), nullable=True))
    if not _on_postgresql():
        op.execute("DROP TRIGGER nightowl_job_callback")
    with op.batch_alter_table("deliveries") as table:
        table.add_column(sa.Column("batch_id", sa.String(length=64), nullable=True))
        table.alter_column("job_id", existing_type=sa.String(length=64), nullable=True)
        table.alter_column("job_state", existing_type=sa.String(length=16), nullable=True)
        table.create_foreign_key(
            op.f("fk_deliveries_batch_id_batches"), "batches", ["batch_id"], ["id"], ondelete="CASCADE"
        )
        table.create_check_constraint(op.f("ck_deliveries_one_subject"), "(job_id IS NULL) <> (batch_id IS NULL)")
        table.create_index("ix_deliveries_batch_id", ["batch_id"])
    for statement in POSTGRESQL if _on_postgresql() else (SQLITE, OF_JOBS):
        op.execute(statement)


def downgrade() -> None:
    if _on_postgresql():
        op.execute("DROP TRIGGER nightowl_batch_callback ON batches")
        op.execute("DROP FUNCTION nightowl_batch_callback()")
    else:
        op.execute("DROP TRIGGER nightowl_batch_callback")
        op.execute("DROP TRIGGER nightowl_job_callback")
    op.execute("DELETE FROM deliveries WHERE job_id IS NULL")
    with op.batch_alter_table("deliveries") as table:
        table.drop_index("ix_deliveries_batch_id")
        table.drop_constraint(op.f("ck_deliveries_one_subject"), type_="check")
        table.drop_constraint(op.f("fk_deliveries_batch_id_batches"), type_="foreignkey")
        table.drop_column("batch_id")
        table.alter_column("job_id", existing_type=sa.String(length=64), nullable=False)
        table.alter_column("job_state", existing_type=sa.String(length=16), nullable=False)
    if not _on_postgresql():
        op.execute(OF_JOBS)
    op.drop_column("batches", "callback")


def _on_postgresql() -> bool:
    return op.get_bind().dialect.name == "postgresql"
