"""Table of the LoRA adapters."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
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

adapters = Table(
    "adapters",
    metadata,
    Column("id", String(48), primary_key=True),
    Column("tenant_id", ForeignKey("tenants.id")),  # NULL: all tenants'
    Column("base", String(128), nullable=False),
    Column("name", String(64), nullable=False),
    Column("format", String(8), nullable=False),  # gguf | peft
    Column("sha256", String(64), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("config", Text),
    Column("state", String(12), nullable=False),  # pending | in_progress | ready | failed
    Column("reason", Text, nullable=False),
    Column("gateway_id", String(40)),  # in_progress: at which gateway its file comes in
    Column("rank", Integer),
    Column("created_s", Float, nullable=False),
    # Rows stay: requests from before go on with the adapter that they began with.
    Column("removed_s", Float),
    Index("ix_adapters_base_name", "base", "name"),
)
