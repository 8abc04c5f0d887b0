"""Prices, reservations, limits, and the books: double entry, append-only."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_USAGE_COLUMNS: dict[str, Any] = {
    "project_id": sa.String(32),
    "tier": sa.String(8),
    "input_micro_usd_per_1k": sa.BigInteger(),
    "output_micro_usd_per_1k": sa.BigInteger(),
}
_TABLES = (
    "balances",
    "ledger_entries",
    "ledger_transactions",
    "quota_windows",
    "quotas",
    "budget_periods",
    "budgets",
    "reservations",
    "prices",
)
_APPEND_ONLY = ("ledger_transactions", "ledger_entries")
_REFUSE_SQLITE = """
CREATE TRIGGER {table}_no_{action} BEFORE {action} ON {table}
BEGIN SELECT RAISE(ABORT, 'the books are append-only'); END
"""
# INSERT OR REPLACE deletes without asking the trigger on DELETE.
_NO_REPLACE_SQLITE = """
CREATE TRIGGER {table}_no_replace BEFORE INSERT ON {table}
WHEN EXISTS (SELECT 1 FROM {table} WHERE {key} = NEW.{key})
BEGIN SELECT RAISE(ABORT, 'the books are append-only'); END
"""
_SEALED_SQLITE = """
CREATE TRIGGER ledger_entries_sealed BEFORE INSERT ON ledger_entries
WHEN EXISTS (SELECT 1 FROM ledger_transactions WHERE id = NEW.transaction_id)
BEGIN SELECT RAISE(ABORT, 'the transaction is closed'); END
"""
_BALANCED_SQLITE = """
CREATE TRIGGER ledger_balanced BEFORE INSERT ON ledger_transactions
WHEN (SELECT COUNT(*) < 2 OR SUM(amount_micro_usd) <> 0
      FROM ledger_entries WHERE transaction_id = NEW.id)
BEGIN SELECT RAISE(ABORT, 'the entries of a transaction must sum to zero'); END
"""
_FUNCTIONS_POSTGRES = (
    """
CREATE FUNCTION ledger_refuse() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'the books are append-only'; END $$
""",
    """
CREATE FUNCTION ledger_check_entry() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN
  IF EXISTS (SELECT 1 FROM ledger_transactions WHERE id = NEW.transaction_id) THEN
    RAISE EXCEPTION 'the transaction is closed';
  END IF;
  RETURN NEW;
END $$
""",
    """
CREATE FUNCTION ledger_check_transaction() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN
  IF (SELECT COUNT(*) < 2 OR SUM(amount_micro_usd) <> 0
      FROM ledger_entries WHERE transaction_id = NEW.id) THEN
    RAISE EXCEPTION 'the entries of a transaction must sum to zero';
  END IF;
  RETURN NEW;
END $$
""",
)
_TRIGGERS_POSTGRES = (
    """
CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table}
FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse()
""",
    """
CREATE TRIGGER ledger_entries_sealed BEFORE INSERT ON ledger_entries
FOR EACH ROW EXECUTE FUNCTION ledger_check_entry()
""",
    """
CREATE TRIGGER ledger_balanced BEFORE INSERT ON ledger_transactions
FOR EACH ROW EXECUTE FUNCTION ledger_check_transaction()
""",
)


def upgrade() -> None:
    """Makes the tables and the triggers that guard the books."""
    for name, kind in _USAGE_COLUMNS.items():
        op.add_column("usage", sa.Column(name, kind))
    op.create_index("ix_usage_tenant_id_created_s", "usage", ["tenant_id", "created_s"])
    _make_prices()
    _make_limits()
    _make_books()
    if op.get_bind().dialect.name == "postgresql":
        _guard_postgres()
    else:
        _guard_sqlite()


def downgrade() -> None:
    """Drops them; the books are lost, what was billed per job is kept."""
    for name in _TABLES:
        op.drop_table(name)
    if op.get_bind().dialect.name == "postgresql":
        for name in ("ledger_refuse", "ledger_check_entry", "ledger_check_transaction"):
            op.execute(f"DROP FUNCTION {name}()")
    op.drop_index("ix_usage_tenant_id_created_s", "usage")
    for name in reversed(_USAGE_COLUMNS):
        op.drop_column("usage", name)


def _guard_sqlite() -> None:
    for table, key in zip(_APPEND_ONLY, ("id", "seq"), strict=True):
        for action in ("UPDATE", "DELETE"):
            op.execute(_REFUSE_SQLITE.format(table=table, action=action))
        op.execute(_NO_REPLACE_SQLITE.format(table=table, key=key))
    op.execute(_SEALED_SQLITE)
    op.execute(_BALANCED_SQLITE)


def _guard_postgres() -> None:
    for function in _FUNCTIONS_POSTGRES:
        op.execute(function)
    refuse, *checks = _TRIGGERS_POSTGRES
    for table in _APPEND_ONLY:
        op.execute(refuse.format(table=table))
    for check in checks:
        op.execute(check)


def _make_prices() -> None:
    op.create_table(
        "prices",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("model", sa.String(128), nullable=False),
        sa.Column("tier", sa.String(8), nullable=False),
        sa.Column("input_micro_usd_per_1k", sa.BigInteger, nullable=False),
        sa.Column("output_micro_usd_per_1k", sa.BigInteger, nullable=False),
        sa.Column("spot_floor_permille", sa.Integer, nullable=False),
        sa.Column("valid_from_s", sa.Float, nullable=False),
        sa.Column("valid_until_s", sa.Float),
        sa.Index("ix_prices_model_tier", "model", "tier"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "reservations",
        sa.Column("job_id", sa.String(48), sa.ForeignKey("jobs.id"), primary_key=True),
        sa.Column("tenant_id", sa.String(32), sa.ForeignKey("tenants.id"), nullable=False),
        sa.Column("project_id", sa.String(32)),
        sa.Column("key_id", sa.String(32), nullable=False),
        sa.Column("tier", sa.String(8), nullable=False),
        sa.Column("input_micro_usd_per_1k", sa.BigInteger, nullable=False),
        sa.Column("output_micro_usd_per_1k", sa.BigInteger, nullable=False),
        sa.Column("amount_micro_usd", sa.BigInteger, nullable=False),
        sa.Column("n_tokens", sa.Integer, nullable=False),
        sa.Column("created_s", sa.Float, nullable=False),
        sa.Index("ix_reservations_tenant_id", "tenant_id"),
    )


def _make_limits() -> None:
    op.create_table(
        "budgets",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("tenant_id", sa.String(32), sa.ForeignKey("tenants.id"), nullable=False),
        sa.Column("scope", sa.String(8), nullable=False),
        sa.Column("scope_id", sa.String(32), nullable=False),
        sa.Column("period", sa.String(8), nullable=False),
        sa.Column("limit_micro_usd", sa.BigInteger, nullable=False),
        sa.Column("hard", sa.Boolean, nullable=False),
        sa.Column("alerts_percent", sa.Text, nullable=False),
        sa.Column("created_s", sa.Float, nullable=False),
        sa.Index("ix_budgets_tenant_id", "tenant_id"),
    )
    op.create_table(
        "budget_periods",
        sa.Column("budget_id", sa.String(32), sa.ForeignKey("budgets.id"), primary_key=True),
        sa.Column("start_s", sa.Float, primary_key=True),
        sa.Column("spent_micro_usd", sa.BigInteger, nullable=False),
        sa.Column("reserved_micro_usd", sa.BigInteger, nullable=False),
        sa.Column("alerted_percent", sa.Integer, nullable=False),
    )
    op.create_table(
        "quotas",
        sa.Column("scope", sa.String(8), primary_key=True),
        sa.Column("scope_id", sa.String(32), primary_key=True),
        sa.Column("tenant_id", sa.String(32), sa.ForeignKey("tenants.id"), nullable=False),
        sa.Column("requests_per_minute", sa.Integer),
        sa.Column("tokens_per_minute", sa.Integer),
        sa.Column("requests_per_day", sa.Integer),
        sa.Column("tokens_per_day", sa.Integer),
        sa.Column("concurrent_jobs", sa.Integer),
        sa.Index("ix_quotas_tenant_id", "tenant_id"),
    )
    op.create_table(
        "quota_windows",
        sa.Column("scope", sa.String(8), primary_key=True),
        sa.Column("scope_id", sa.String(32), primary_key=True),
        sa.Column("window", sa.String(8), primary_key=True),
        sa.Column("start_s", sa.Float, nullable=False),
        sa.Column("requests", sa.BigInteger, nullable=False),
        sa.Column("tokens", sa.BigInteger, nullable=False),
    )


def _make_books() -> None:
    op.create_table(
        "ledger_transactions",
        sa.Column("id", sa.String(80), primary_key=True),
        sa.Column("kind", sa.String(12), nullable=False),
        sa.Column("tenant_id", sa.String(32), sa.ForeignKey("tenants.id"), nullable=False),
        sa.Column("time_s", sa.Float, nullable=False),
        sa.Column("memo", sa.Text, nullable=False),
        sa.Index("ix_ledger_transactions_tenant_id_time_s", "tenant_id", "time_s"),
    )
    op.create_table(
        "ledger_entries",
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column(
            "transaction_id",
            sa.String(80),
            sa.ForeignKey("ledger_transactions.id", deferrable=True, initially="DEFERRED"),
            nullable=False,
        ),
        sa.Column("account", sa.String(80), nullable=False),
        sa.Column("amount_micro_usd", sa.BigInteger, nullable=False),
        sa.Index("ix_ledger_entries_transaction_id", "transaction_id"),
        sa.Index("ix_ledger_entries_account", "account"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "balances",
        sa.Column("account", sa.String(80), primary_key=True),
        sa.Column("amount_micro_usd", sa.BigInteger, nullable=False),
    )
