"""Tables of prices, reservations, limits and the books."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    Text,
)

from marketplace.store.schema.base import metadata

prices = Table(
    "prices",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("model", String(128), nullable=False),
    Column("tier", String(8), nullable=False),  # priority | default | flex
    Column("input_micro_usd_per_1k", BigInteger, nullable=False),
    Column("output_micro_usd_per_1k", BigInteger, nullable=False),
    # What a wholly free site charges, of the price above; 1000: the price does not move.
    Column("spot_floor_permille", Integer, nullable=False),
    Column("valid_from_s", Float, nullable=False),
    Column("valid_until_s", Float),
    Index("ix_prices_model_tier", "model", "tier"),
    sqlite_autoincrement=True,
)

reservations = Table(
    "reservations",
    metadata,
    # Gone when the job ends: what is here is promised and not yet billed.
    Column("job_id", String(48), ForeignKey("jobs.id"), primary_key=True),
    Column("tenant_id", String(32), ForeignKey("tenants.id"), nullable=False),
    Column("project_id", String(32)),
    Column("key_id", String(32), nullable=False),
    Column("tier", String(8), nullable=False),
    Column("input_micro_usd_per_1k", BigInteger, nullable=False),
    Column("output_micro_usd_per_1k", BigInteger, nullable=False),
    Column("amount_micro_usd", BigInteger, nullable=False),
    Column("n_tokens", Integer, nullable=False),
    Column("created_s", Float, nullable=False),
    Index("ix_reservations_tenant_id", "tenant_id"),
)

budgets = Table(
    "budgets",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("tenant_id", String(32), ForeignKey("tenants.id"), nullable=False),
    Column("scope", String(8), nullable=False),  # tenant | project | key
    Column("scope_id", String(32), nullable=False),
    Column("period", String(8), nullable=False),  # day | month | total
    Column("limit_micro_usd", BigInteger, nullable=False),
    Column("hard", Boolean, nullable=False),
    Column("alerts_percent", Text, nullable=False),  # numbers with blanks between, rising
    Column("created_s", Float, nullable=False),
    Index("ix_budgets_tenant_id", "tenant_id"),
)

budget_periods = Table(
    "budget_periods",
    metadata,
    Column("budget_id", String(32), ForeignKey("budgets.id"), primary_key=True),
    Column("start_s", Float, primary_key=True),
    Column("spent_micro_usd", BigInteger, nullable=False),
    Column("reserved_micro_usd", BigInteger, nullable=False),
    Column("alerted_percent", Integer, nullable=False),
)

quotas = Table(
    "quotas",
    metadata,
    Column("scope", String(8), primary_key=True),
    Column("scope_id", String(32), primary_key=True),
    Column("tenant_id", String(32), ForeignKey("tenants.id"), nullable=False),
    # NULL: no limit.
    Column("requests_per_minute", Integer),
    Column("tokens_per_minute", Integer),
    Column("requests_per_day", Integer),
    Column("tokens_per_day", Integer),
    Column("concurrent_jobs", Integer),
    Index("ix_quotas_tenant_id", "tenant_id"),
)

quota_windows = Table(
    "quota_windows",
    metadata,
    Column("scope", String(8), primary_key=True),
    Column("scope_id", String(32), primary_key=True),
    Column("window", String(8), primary_key=True),  # minute | day
    Column("start_s", Float, nullable=False),
    Column("requests", BigInteger, nullable=False),
    Column("tokens", BigInteger, nullable=False),
)

ledger_transactions = Table(
    "ledger_transactions",
    metadata,
    # What it is for, such as job:ID: the same is not booked twice.
    Column("id", String(80), primary_key=True),
    Column("kind", String(12), nullable=False),  # charge | payment | refund | credit
    Column("tenant_id", String(32), ForeignKey("tenants.id"), nullable=False),
    Column("time_s", Float, nullable=False),
    Column("memo", Text, nullable=False),
    Index("ix_ledger_transactions_tenant_id_time_s", "tenant_id", "time_s"),
)

ledger_entries = Table(
    "ledger_entries",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    # Entries come before their transaction, which is refused unless they sum to zero.
    Column(
        "transaction_id",
        String(80),
        ForeignKey("ledger_transactions.id", deferrable=True, initially="DEFERRED"),
        nullable=False,
    ),
    Column("account", String(80), nullable=False),
    Column("amount_micro_usd", BigInteger, nullable=False),  # debits above zero, credits below
    Index("ix_ledger_entries_transaction_id", "transaction_id"),
    Index("ix_ledger_entries_account", "account"),
    sqlite_autoincrement=True,
)

balances = Table(
    "balances",
    metadata,
    Column("account", String(80), primary_key=True),
    Column("amount_micro_usd", BigInteger, nullable=False),
)
