"""What was sent to peers of jobs without a waiting client, and where batches may go."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0095"
down_revision = "0090"


def upgrade() -> None:
    """Adds the table and the columns."""
    heard = sa.Column("heard", sa.Boolean, nullable=False, server_default=sa.true())
    op.add_column("peer_usage", heard)
    op.add_column("batches", sa.Column("via", sa.String(1100)))
    op.add_column("batches", sa.Column("narrows", sa.String(512)))
    op.create_table(
        "peer_sendings",
        sa.Column("job_id", sa.String(48), sa.ForeignKey("jobs.id"), primary_key=True),
        sa.Column("peer", sa.String(64), primary_key=True),
        sa.Column("way", sa.String(12), nullable=False),
        sa.Column("via", sa.String(1100), nullable=False),
        sa.Column("policy", sa.String(512), nullable=False),
        sa.Column("remote_id", sa.String(128)),
        sa.Column("state", sa.String(12), nullable=False),
        sa.Column("created_s", sa.Float, nullable=False),
    )


def downgrade() -> None:
    """Drops them."""
    op.drop_table("peer_sendings")
    op.drop_column("batches", "narrows")
    op.drop_column("batches", "via")
    op.drop_column("peer_usage", "heard")
