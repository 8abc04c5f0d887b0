"""LoRA adapters."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0090"
down_revision = "0080"


def upgrade() -> None:
    """Adds the table."""
    op.create_table(
        "adapters",
        sa.Column("id", sa.String(48), primary_key=True),
        sa.Column("tenant_id", sa.String(32), sa.ForeignKey("tenants.id")),
        sa.Column("base", sa.String(128), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("format", sa.String(8), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("config", sa.Text),
        sa.Column("state", sa.String(12), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("rank", sa.Integer),
        sa.Column("created_s", sa.Float, nullable=False),
        sa.Column("removed_s", sa.Float),
    )
    op.create_index("ix_adapters_base_name", "adapters", ["base", "name"])


def downgrade() -> None:
    """Drops it."""
    op.drop_table("adapters")
