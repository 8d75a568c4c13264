"""Callbacks: a job may name a URL; a trigger writes down, in the transaction that ends it, what is to be sent there."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

TIME = sa.DateTime(timezone=True)

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

ENDS = """
    NEW.callback IS NOT NULL
    AND OLD.state IN ('pending', 'running') AND NEW.state NOT IN ('pending', 'running')
"""
SQLITE = f"""
    CREATE TRIGGER nightowl_job_callback AFTER UPDATE OF state ON jobs FOR EACH ROW WHEN {ENDS}
    BEGIN
        INSERT INTO deliveries (id, job_id, job_state, url)
        VALUES (lower(hex(randomblob(16))), NEW.id, NEW.state, NEW.callback);
    END
"""
POSTGRESQL = (
    """
    CREATE FUNCTION nightowl_job_callback() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO deliveries (id, job_id, job_state, url)
        VALUES (replace(gen_random_uuid()::text, '-', ''), NEW.id, NEW.state, NEW.callback);
        RETURN NULL;
    END $$
    """,
    f"""
    CREATE TRIGGER nightowl_job_callback AFTER UPDATE OF state ON jobs FOR EACH ROW WHEN ({ENDS})
    EXECUTE FUNCTION nightowl_job_callback()
    """,
)


def upgrade() -> None:
    op.add_column("jobs", sa.Column("callback", sa.Text(), nullable=True))
    op.create_table(
        "deliveries",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("job_id", sa.String(length=64), nullable=False),
        sa.Column("job_state", sa.String(length=16), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=16), server_default="pending", nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("not_before", TIME, nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("created_at", TIME, server_default=sa.text("(CURRENT_TIMESTAMP)"), nullable=False),
        sa.Column("finished_at", TIME, nullable=True),
        sa.CheckConstraint("state IN ('pending', 'delivered', 'given_up')", name=op.f("ck_deliveries_state_known")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_deliveries_job_id_jobs"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deliveries")),
    )
    pending = sa.text("state = 'pending'")
    op.create_index(
        "ix_deliveries_pending", "deliveries", ["created_at"], sqlite_where=pending, postgresql_where=pending
    )
    op.create_index("ix_deliveries_job_id", "deliveries", ["job_id"])
    for statement in POSTGRESQL if _on_postgresql() else (SQLITE,):
        op.execute(statement)


def downgrade() -> None:
    if _on_postgresql():
        op.execute("DROP TRIGGER nightowl_job_callback ON jobs")
        op.execute("DROP FUNCTION nightowl_job_callback()")
    else:
        op.execute("DROP TRIGGER nightowl_job_callback")
    op.drop_table("deliveries")
    op.drop_column("jobs", "callback")


def _on_postgresql() -> bool:
    return op.get_bind().dialect.name == "postgresql"
