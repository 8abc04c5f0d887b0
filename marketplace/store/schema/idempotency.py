"""Table of requests that came with an Idempotency-Key."""

from __future__ import annotations

from sqlalchemy import Column, Float, Index, Integer, LargeBinary, String, Table, Text

from marketplace.store.schema.base import metadata

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("owner", String(48), primary_key=True),  # the tenant's id, or `admin`
    Column("key", String(255), primary_key=True),
    Column("fingerprint", String(64), nullable=False),  # SHA-256 of what was asked
    # running | done | unkept (done, but the answer is not stored) | open (may run again)
    Column("state", String(12), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("status", Integer),
    Column("headers", Text),  # as JSON
    Column("body", LargeBinary),
    Column("created_s", Float, nullable=False),
    Column("gateway_id", String(40)),  # which gateway runs it
    Index("ix_idempotency_created", "created_s"),
)
