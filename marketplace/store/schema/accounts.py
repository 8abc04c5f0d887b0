"""Tables of tenants and their keys."""

from __future__ import annotations

from sqlalchemy import Column, Float, ForeignKey, String, Table

from marketplace.store.schema.base import metadata

tenants = Table(
    "tenants",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("name", String(64), nullable=False, unique=True),
    Column("created_s", Float, nullable=False),
)

keys = Table(
    "keys",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("tenant_id", ForeignKey("tenants.id"), nullable=False),
    Column("name", String(64), nullable=False),
    Column("sha256", String(64), nullable=False, unique=True),
    Column("prefix", String(16), nullable=False),
    Column("created_s", Float, nullable=False),
    Column("revoked_s", Float),
)
