"""The sweep finds jobs that were put off by a wrong clock without looking at the backlog."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

PUT_OFF = sa.text("not_before IS NOT NULL")


def upgrade() -> None:
    op.create_index("ix_jobs_put_off", "jobs", ["not_before"], sqlite_where=PUT_OFF, postgresql_where=PUT_OFF)


def downgrade() -> None:
    op.drop_index("ix_jobs_put_off", "jobs")
