"""Plan steps, audit log, maintenance and leadership."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_REFUSE_SQLITE = """
CREATE TRIGGER audit_no_{action} BEFORE {action} ON audit
BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END
"""
_REFUSE_POSTGRES = """
CREATE FUNCTION audit_refuse() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'the audit log is append-only'; END $$
"""
_TRIGGER_POSTGRES = """
CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit
FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse()
"""


def upgrade() -> None:
    """Makes the tables, and the triggers that keep the audit log append-only."""
    op.create_table(
        "plan_steps",
        sa.Column("seq", sa.Integer, primary_key=True),
        sa.Column("generation", sa.Integer, nullable=False, index=True),
        sa.Column("time_s", sa.Float, nullable=False),
        sa.Column("step", sa.String, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("error", sa.String, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "audit",
        sa.Column("seq", sa.Integer, primary_key=True),
        sa.Column("time_s", sa.Float, nullable=False),
        sa.Column("actor", sa.String, nullable=False, index=True),
        sa.Column("role", sa.String, nullable=False),
        sa.Column("method", sa.String, nullable=False),
        sa.Column("request", sa.String, nullable=False),
        sa.Column("outcome", sa.String, nullable=False),
        sa.Column("message", sa.String, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "maintenance",
        sa.Column("gpu_uuid", sa.String, primary_key=True),
        sa.Column("reason", sa.String, nullable=False),
        sa.Column("since_s", sa.Float, nullable=False),
    )
    op.create_table(
        "leadership",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("holder", sa.String, nullable=False),
        sa.Column("beat_s", sa.Float, nullable=False),
    )
    if op.get_bind().dialect.name == "postgresql":
        op.execute(_REFUSE_POSTGRES)
        op.execute(_TRIGGER_POSTGRES)
    else:
        for action in ("UPDATE", "DELETE"):
            op.execute(_REFUSE_SQLITE.format(action=action))


def downgrade() -> None:
    """Drops them; SQLite's triggers go with their table."""
    for name in ("leadership", "maintenance", "audit", "plan_steps"):
        op.drop_table(name)
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION audit_refuse()")
