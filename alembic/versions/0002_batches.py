"""Batches with a manifest, results that are given again, and indexes by which the doorbell finds what waits."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

TIME = sa.DateTime(timezone=True)
JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
UNTAKEN = "token IS NULL AND state IN ('pending', 'running')"
UNRUNG = "rung_at IS NULL AND token IS NULL AND state = 'pending'"

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def _batch_columns() -> tuple[sa.Column[Any], ...]:
    return (
        sa.Column("kind", sa.String(length=16), nullable=True),
        sa.Column("params", JSON, nullable=True),
        sa.Column("source", sa.Text(), nullable=True),
        sa.Column("share", sa.Integer(), nullable=True),
        sa.Column("submitted_at", TIME, nullable=True),
        sa.Column("cancelled_at", TIME, nullable=True),
        sa.Column("over_at", TIME, nullable=True),
    )


def _job_columns() -> tuple[sa.Column[Any], ...]:
    return (
        sa.Column("sha256", sa.String(length=64), nullable=True),
        sa.Column("work_key", sa.String(length=64), nullable=True),
        sa.Column("reused_from", sa.String(length=64), nullable=True),
        sa.Column("fresh", sa.Boolean(), server_default=sa.text("false"), nullable=False),
    )


JOB_INDEXES: dict[str, tuple[str, tuple[str, ...]]] = {
    "ix_jobs_work_key": ("work_key IS NOT NULL", ("work_key",)),
    "ix_jobs_reused_from": ("reused_from IS NOT NULL", ("reused_from",)),
    "ix_jobs_unrung": (UNRUNG, ("batch_id", "priority", "created_at", "id")),
    "ix_jobs_waiting": (UNRUNG, ("created_at", "id")),
    "ix_jobs_rung": (f"rung_at IS NOT NULL AND {UNTAKEN}", ("token", "rung_at")),
}


def upgrade() -> None:
    for column in _batch_columns():
        op.add_column("batches", column)
    _index("ix_batches_open", "batches", "over_at IS NULL", "created_at")
    for column in _job_columns():
        op.add_column("jobs", column)
    for name, (condition, columns) in JOB_INDEXES.items():
        _index(name, "jobs", condition, *columns)
    op.drop_index("ix_jobs_batch_id", table_name="jobs")
    op.create_index("ix_jobs_batch_id_state", "jobs", ["batch_id", "state"])
    op.create_table(
        "members",
        sa.Column("batch_id", sa.String(length=64), nullable=False),
        sa.Column("digest", sa.String(length=40), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=True),
        sa.Column("size", sa.BigInteger(), nullable=True),
        sa.Column("format", sa.String(length=64), nullable=True),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("job_id", sa.String(length=64), nullable=True),
        sa.Column("error_code", sa.String(length=64), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("created_at", TIME, server_default=sa.text("(CURRENT_TIMESTAMP)"), nullable=False),
        sa.CheckConstraint("state IN ('submitted', 'skipped')", name=op.f("ck_members_state_known")),
        sa.ForeignKeyConstraint(
            ["batch_id"], ["batches.id"], name=op.f("fk_members_batch_id_batches"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["job_id"],
            ["jobs.id"],
            name=op.f("fk_members_job_id_jobs"),
            ondelete="CASCADE",
            deferrable=True,
            initially="DEFERRED",
        ),
        sa.PrimaryKeyConstraint("batch_id", "digest", name=op.f("pk_members")),
    )
    op.create_index("ix_members_job_id", "members", ["job_id"])


def _index(name: str, table: str, condition: str, *columns: str) -> None:
    where = sa.text(condition)
    op.create_index(name, table, list(columns), sqlite_where=where, postgresql_where=where)


def downgrade() -> None:
    op.drop_table("members")
    op.drop_index("ix_jobs_batch_id_state", table_name="jobs")
    op.create_index("ix_jobs_batch_id", "jobs", ["batch_id"])
    for name in JOB_INDEXES:
        op.drop_index(name, table_name="jobs")
    op.drop_index("ix_batches_open", table_name="batches")
    for column in reversed(_job_columns()):
        op.drop_column("jobs", column.name)
    for column in reversed(_batch_columns()):
        op.drop_column("batches", column.name)
