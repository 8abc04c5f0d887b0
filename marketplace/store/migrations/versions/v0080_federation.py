"""Tenants' data policies, tenants that are peers, and what peers cost."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0080"
down_revision = "0070"


def upgrade() -> None:
    """Adds the columns and the table."""
    policy = sa.Column("data_policy", sa.String(512), nullable=False, server_default="stay")
    op.add_column("tenants", policy)
    peer = sa.Column("peer", sa.Boolean, nullable=False, server_default=sa.false())
    op.add_column("tenants", peer)
    op.create_table(
        "peer_usage",
        sa.Column("job_id", sa.String(48), sa.ForeignKey("jobs.id"), primary_key=True),
        sa.Column("peer", sa.String(64), primary_key=True),
        sa.Column("model", sa.String(128), nullable=False),
        sa.Column("input_tokens", sa.Integer, nullable=False),
        sa.Column("output_tokens", sa.Integer, nullable=False),
        sa.Column("cost_micro_usd", sa.BigInteger, nullable=False),
        sa.Column("created_s", sa.Float, nullable=False),
    )


def downgrade() -> None:
    """Drops them."""
    op.drop_table("peer_usage")
    op.drop_column("tenants", "peer")
    op.drop_column("tenants", "data_policy")
