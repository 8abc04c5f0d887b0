"""Tenants' files and batches."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0001"


def upgrade() -> None:
    """Makes the tables."""
    op.create_table(
        "files",
        sa.Column("id", sa.String(48), primary_key=True),
        sa.Column("tenant_id", sa.String(32), sa.ForeignKey("tenants.id"), nullable=False),
        sa.Column("purpose", sa.String(32), nullable=False),
        sa.Column("filename", sa.String(256), nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("created_s", sa.Float, nullable=False),
        sa.Index("ix_files_tenant", "tenant_id"),
    )
    op.create_table(
        "batches",
        sa.Column("id", sa.String(48), primary_key=True),
        sa.Column("tenant_id", sa.String(32), sa.ForeignKey("tenants.id"), nullable=False),
        sa.Column("key_id", sa.String(32), sa.ForeignKey("keys.id"), nullable=False),
        sa.Column("state", sa.String(12), nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        sa.Column("created_s", sa.Float, nullable=False),
        sa.Index("ix_batches_tenant", "tenant_id"),
        sa.Index("ix_batches_state", "state"),
    )
    op.create_table(
        "batch_lines",
        sa.Column("batch_id", sa.String(48), sa.ForeignKey("batches.id"), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("failed", sa.Integer, nullable=False),
        sa.Column("answer", sa.Text, nullable=False),
    )


def downgrade() -> None:
    """Drops them."""
    for name in ("batch_lines", "batches", "files"):
        op.drop_table(name)
