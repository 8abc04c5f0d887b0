"""Tables of functions and of the invocations of those that are HTTP containers."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
)

from marketplace.store.schema.base import metadata

functions = Table(
    "functions",
    metadata,
    Column("version_id", String(48), primary_key=True),
    Column("id", String(48), nullable=False),
    Column("tenant_id", ForeignKey("tenants.id")),  # nothing: every tenant may call it
    Column("name", String(64), nullable=False),
    Column("model", String(128)),  # it is a model ...
    Column("url", Text),  # ... or the container at this address
    Column("inference_path", Text),
    Column("health_path", Text),
    Column("timeout_s", Float, nullable=False),
    Column("max_response_bytes", Integer, nullable=False),
    Column("price_micro_usd", BigInteger, nullable=False),  # of one invocation of a container
    Column("created_s", Float, nullable=False),
    Column("deleted_s", Float),
    Index("ix_functions_id", "id"),
)

invocations = Table(
    "invocations",
    metadata,
    # State, tenant and bill are the job's.
    Column("job_id", ForeignKey("jobs.id"), primary_key=True),
    Column("version_id", ForeignKey("functions.version_id"), nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("status", Integer),  # the container's answer
    Column("content_type", String(128)),
    Column("result", LargeBinary),
)
