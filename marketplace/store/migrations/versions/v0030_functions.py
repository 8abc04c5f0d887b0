"""Functions and invocations of containers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0030"
down_revision = "0003"


def upgrade() -> None:
    """Makes the tables."""
    op.create_table(
        "functions",
        sa.Column("version_id", sa.String(48), primary_key=True),
        sa.Column("id", sa.String(48), nullable=False),
        sa.Column("tenant_id", sa.String(32), sa.ForeignKey("tenants.id")),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("model", sa.String(128)),
        sa.Column("url", sa.Text),
        sa.Column("inference_path", sa.Text),
        sa.Column("health_path", sa.Text),
        sa.Column("timeout_s", sa.Float, nullable=False),
        sa.Column("max_response_bytes", sa.Integer, nullable=False),
        sa.Column("price_micro_usd", sa.BigInteger, nullable=False),
        sa.Column("created_s", sa.Float, nullable=False),
        sa.Column("deleted_s", sa.Float),
    )
    op.create_index("ix_functions_id", "functions", ["id"])
    op.create_table(
        "invocations",
        sa.Column("job_id", sa.String(48), sa.ForeignKey("jobs.id"), primary_key=True),
        sa.Column(
            "version_id", sa.String(48), sa.ForeignKey("functions.version_id"), nullable=False
        ),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("status", sa.Integer),
        sa.Column("content_type", sa.String(128)),
        sa.Column("result", sa.LargeBinary),
    )


def downgrade() -> None:
    """Drops them."""
    op.drop_table("invocations")
    op.drop_table("functions")
