"""The audit log cannot be written over; ended leases are found by age."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"

# INSERT OR REPLACE deletes without asking the trigger on DELETE.
_NO_REPLACE = """
CREATE TRIGGER audit_no_replace BEFORE INSERT ON audit
WHEN EXISTS (SELECT 1 FROM audit WHERE seq = NEW.seq)
BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END
"""


def upgrade() -> None:
    """Makes the index and SQLite's third trigger."""
    op.create_index("ix_leases_granted_s_id", "leases", ["granted_s", "id"])
    if op.get_bind().dialect.name == "sqlite":
        op.execute(_NO_REPLACE)


def downgrade() -> None:
    """Drops them."""
    if op.get_bind().dialect.name == "sqlite":
        op.execute("DROP TRIGGER audit_no_replace")
    op.drop_index("ix_leases_granted_s_id", "leases")
