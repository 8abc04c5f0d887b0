"""Tables of the marketplace's database, a file a subject. Money is micro-USD, times Unix seconds.

A new table needs a migration too: tests compare what the migrations make with what is here.
"""

from marketplace.store.schema.accounts import keys, projects, tenants, users
from marketplace.store.schema.adapters import adapters
from marketplace.store.schema.base import metadata
from marketplace.store.schema.batches import batch_lines, batches, file_chunks, files, responses
from marketplace.store.schema.federation import peer_sendings, peer_usage
from marketplace.store.schema.functions import functions, invocations
from marketplace.store.schema.gateways import gateways
from marketplace.store.schema.idempotency import idempotency_keys
from marketplace.store.schema.jobs import events, jobs, usage
from marketplace.store.schema.money import (
    balances,
    budget_periods,
    budgets,
    ledger_entries,
    ledger_transactions,
    prices,
    quota_windows,
    quotas,
    reservations,
)
from marketplace.store.schema.secrets import shared_secrets
from marketplace.store.schema.webhooks import (
    webhook_attempts,
    webhook_deliveries,
    webhook_endpoints,
)

__all__ = [
    "adapters",
    "balances",
    "batch_lines",
    "batches",
    "budget_periods",
    "budgets",
    "events",
    "file_chunks",
    "files",
    "functions",
    "gateways",
    "idempotency_keys",
    "invocations",
    "jobs",
    "keys",
    "ledger_entries",
    "ledger_transactions",
    "metadata",
    "peer_sendings",
    "peer_usage",
    "prices",
    "projects",
    "quota_windows",
    "quotas",
    "reservations",
    "responses",
    "shared_secrets",
    "tenants",
    "usage",
    "users",
    "webhook_attempts",
    "webhook_deliveries",
    "webhook_endpoints",
]
