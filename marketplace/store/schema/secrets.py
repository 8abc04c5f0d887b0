"""Table of the secrets that all gateways of a database share."""

from __future__ import annotations

from sqlalchemy import Column, LargeBinary, String, Table

from marketplace.store.schema.base import metadata

shared_secrets = Table(
    "shared_secrets",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("secret", LargeBinary, nullable=False),
)
