"""Tenants' weights in the fair queue."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0070"
down_revision = "0032"


def upgrade() -> None:
    """Adds the column."""
    op.add_column("tenants", sa.Column("weight", sa.Integer, nullable=False, server_default="1"))


def downgrade() -> None:
    """Drops it."""
    op.drop_column("tenants", "weight")
