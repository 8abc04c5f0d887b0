"""What several gateways share: files' contents, secrets, who takes an adapter's file in."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0101"
down_revision = "0100"


def upgrade() -> None:
    """Adds the tables and the column."""
    op.create_table(
        "file_chunks",
        sa.Column(
            "file_id",
            sa.String(48),
            sa.ForeignKey("files.id", ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "shared_secrets",
        sa.Column("name", sa.String(32), primary_key=True),
        sa.Column("secret", sa.LargeBinary, nullable=False),
    )
    op.add_column("adapters", sa.Column("gateway_id", sa.String(40)))


def downgrade() -> None:
    """Drops them."""
    op.drop_column("adapters", "gateway_id")
    op.drop_table("shared_secrets")
    op.drop_table("file_chunks")
