"""Tables of tenants' webhook endpoints, what is to be sent to them, and what came of it."""

from __future__ import annotations

from sqlalchemy import Column, Float, ForeignKey, Index, Integer, String, Table, Text

from marketplace.store.schema.base import metadata

webhook_endpoints = Table(
    "webhook_endpoints",
    metadata,
    Column("id", String(48), primary_key=True),
    Column("tenant_id", ForeignKey("tenants.id"), nullable=False),
    Column("url", Text, nullable=False),
    Column("events", Text, nullable=False),  # JSON list of types
    Column("state", String(12), nullable=False),  # enabled | disabled
    Column("reason", Text),  # why it was disabled
    # As they are: what signs cannot be a hash.
    Column("secret", Text, nullable=False),
    Column("old_secret", Text),
    Column("old_secret_until_s", Float),
    Column("failing_since_s", Float),
    Column("created_s", Float, nullable=False),
    Index("ix_webhook_endpoints_tenant", "tenant_id"),
)

webhook_deliveries = Table(
    "webhook_deliveries",
    metadata,
    Column("endpoint_id", ForeignKey("webhook_endpoints.id"), primary_key=True),
    Column("message_id", String(64), primary_key=True),
    Column("type", String(48), nullable=False),
    Column("body", Text, nullable=False),  # exactly what is signed and sent
    Column("state", String(12), nullable=False),  # pending | delivered | failed
    Column("attempts", Integer, nullable=False),
    Column("next_attempt_s", Float, nullable=False),
    Column("created_s", Float, nullable=False),
    Index("ix_webhook_deliveries_due", "state", "next_attempt_s"),
)

webhook_attempts = Table(
    "webhook_attempts",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("endpoint_id", ForeignKey("webhook_endpoints.id"), nullable=False),
    Column("message_id", String(64), nullable=False),
    Column("time_s", Float, nullable=False),
    Column("duration_ms", Float, nullable=False),
    Column("status", Integer),
    Column("error", Text),
    Index("ix_webhook_attempts_endpoint", "endpoint_id", "seq"),
    sqlite_autoincrement=True,
)
