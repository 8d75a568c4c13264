"""Workers report themselves: a row each, for live views."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

TIME = sa.DateTime(timezone=True)
ZERO = sa.text("0")

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "workers",
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("seen_at", TIME, nullable=False),
        sa.Column("started_at", TIME, nullable=False),
        sa.Column("engine", sa.String(length=255), nullable=True),
        sa.Column("in_hand", sa.Integer(), server_default=ZERO, nullable=False),
        sa.Column("parts", sa.BigInteger(), server_default=ZERO, nullable=False),
        sa.Column("pages", sa.BigInteger(), server_default=ZERO, nullable=False),
        sa.Column("parts_per_second", sa.Double(), server_default=ZERO, nullable=False),
        sa.Column("pages_per_second", sa.Double(), server_default=ZERO, nullable=False),
        sa.Column("occupancy", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_workers")),
    )


def downgrade() -> None:
    op.drop_table("workers")
