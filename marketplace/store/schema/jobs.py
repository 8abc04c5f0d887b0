"""Tables of jobs, what was billed for them, and events."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
    false,
)

from marketplace.store.schema.base import metadata

jobs = Table(
    "jobs",
    metadata,
    Column("id", String(48), primary_key=True),
    Column("kind", String(8), nullable=False),  # sync | async | function
    Column("tenant_id", ForeignKey("tenants.id"), nullable=False),
    Column("key_id", ForeignKey("keys.id"), nullable=False),
    Column("model", String(128), nullable=False),
    Column("state", String(12), nullable=False),
    # What the client sent, kept for asynchronous jobs only: others end with their connection.
    Column("request", Text),
    Column("generated_ids", LargeBinary),  # int32, little-endian
    Column("text", Text),
    Column("input_tokens", Integer, nullable=False, default=0),
    Column("output_tokens", Integer, nullable=False, default=0),
    Column("preemptions", Integer, nullable=False, default=0),
    Column("tokens_lost", Integer, nullable=False, default=0),
    Column("finish_reason", String(16)),
    Column("error_code", String(48)),
    Column("error_message", Text),
    Column("created_s", Float, nullable=False),
    Column("updated_s", Float, nullable=False),
    Column("ttft_ms", Float),
    # Which gateway runs it; one that is no more leaves it to another.
    Column("gateway_id", String(40)),
    # Its client wants it ended, and told another gateway so.
    Column("cancel_asked", Boolean, nullable=False, server_default=false()),
    Index("ix_jobs_state", "state"),
)

usage = Table(
    "usage",
    metadata,
    # The job's id is the key: a job is billed once or not at all.
    Column("job_id", ForeignKey("jobs.id"), primary_key=True),
    Column("tenant_id", ForeignKey("tenants.id"), nullable=False),
    Column("key_id", ForeignKey("keys.id"), nullable=False),
    Column("model", String(128), nullable=False),
    Column("input_tokens", Integer, nullable=False),
    Column("output_tokens", Integer, nullable=False),
    Column("amount_micro_usd", BigInteger, nullable=False),
    Column("created_s", Float, nullable=False),
    Column("project_id", String(32)),
    Column("tier", String(8)),
    Column("input_micro_usd_per_1k", BigInteger),
    Column("output_micro_usd_per_1k", BigInteger),
    Index("ix_usage_tenant", "tenant_id"),
    Index("ix_usage_tenant_id_created_s", "tenant_id", "created_s"),
)

events = Table(
    "events",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("time_s", Float, nullable=False),
    Column("severity", String(8), nullable=False),
    Column("kind", String(48), nullable=False),
    Column("message", Text, nullable=False),
    Column("job_id", String(48)),
    sqlite_autoincrement=True,
)
