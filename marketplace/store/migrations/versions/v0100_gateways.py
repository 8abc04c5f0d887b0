"""Which gateways work on the database, and which of them runs what."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0100"
down_revision = "0095"
_OWNED = ("jobs", "batches", "idempotency_keys")


def upgrade() -> None:
    """Adds the table and the columns."""
    op.create_table(
        "gateways",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("number", sa.Integer, nullable=False, unique=True),
        sa.Column("lock_key", sa.BigInteger),
        sa.Column("pid", sa.Integer),
        sa.Column("url", sa.String(256), nullable=False),
        sa.Column("report", sa.Text, nullable=False),
        sa.Column("seen_s", sa.Float, nullable=False),
        sa.Column("ended", sa.Boolean, nullable=False),
    )
    for table in _OWNED:
        op.add_column(table, sa.Column("gateway_id", sa.String(40)))
    asked = sa.Column("cancel_asked", sa.Boolean, nullable=False, server_default=sa.false())
    op.add_column("jobs", asked)


def downgrade() -> None:
    """Drops them."""
    op.drop_column("jobs", "cancel_asked")
    for table in _OWNED:
        op.drop_column(table, "gateway_id")
    op.drop_table("gateways")
