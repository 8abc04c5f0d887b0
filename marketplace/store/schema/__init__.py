"""Tables of the marketplace's database, a file a subject. Money is micro-USD, times Unix seconds.

A new table needs a migration too: tests compare what the migrations make with what is here.
"""

from marketplace.store.schema.accounts import keys, tenants
from marketplace.store.schema.base import metadata
from marketplace.store.schema.batches import batch_lines, batches, files, responses
from marketplace.store.schema.functions import functions, invocations
from marketplace.store.schema.idempotency import idempotency_keys
from marketplace.store.schema.jobs import events, jobs, usage
from marketplace.store.schema.webhooks import (
    webhook_attempts,
    webhook_deliveries,
    webhook_endpoints,
)

__all__ = [
    "batch_lines",
    "batches",
    "events",
    "files",
    "functions",
    "idempotency_keys",
    "invocations",
    "jobs",
    "keys",
    "metadata",
    "responses",
    "tenants",
    "usage",
    "webhook_attempts",
    "webhook_deliveries",
    "webhook_endpoints",
]
