"""Projects, people, and keys with scopes, an end and a successor."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0011"

_KEY_COLUMNS: dict[str, Any] = {
    "project_id": sa.String(32),
    "scopes": sa.Text(),
    "models": sa.Text(),
    "expires_s": sa.Float(),
    "last_used_s": sa.Float(),
    "replaced_by": sa.String(32),
}


def upgrade() -> None:
    """Makes the tables and columns."""
    terms = sa.Column("terms", sa.String(8), nullable=False, server_default="postpaid")
    op.add_column("tenants", terms)
    op.create_table(
        "projects",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("tenant_id", sa.String(32), sa.ForeignKey("tenants.id"), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("created_s", sa.Float, nullable=False),
        sa.Column("archived_s", sa.Float),
        sa.UniqueConstraint("tenant_id", "name", name="uq_projects_tenant_name"),
    )
    op.create_table(
        "users",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("tenant_id", sa.String(32), sa.ForeignKey("tenants.id"), nullable=False),
        sa.Column("email", sa.String(254), nullable=False, unique=True),
        sa.Column("role", sa.String(8), nullable=False),
        sa.Column("issuer", sa.String(255)),
        sa.Column("subject", sa.String(255)),
        sa.Column("created_s", sa.Float, nullable=False),
        sa.Column("disabled_s", sa.Float),
        sa.Column("last_login_s", sa.Float),
        sa.UniqueConstraint("issuer", "subject", name="uq_users_issuer_subject"),
    )
    for name, kind in _KEY_COLUMNS.items():
        op.add_column("keys", sa.Column(name, kind))
    op.create_index("ix_keys_project_id", "keys", ["project_id"])


def downgrade() -> None:
    """Drops them; keys are then as good as they were before: without scope and end."""
    op.drop_index("ix_keys_project_id", "keys")
    for name in reversed(_KEY_COLUMNS):
        op.drop_column("keys", name)
    op.drop_table("users")
    op.drop_table("projects")
    op.drop_column("tenants", "terms")
