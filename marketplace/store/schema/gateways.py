"""Table of the gateways that work on the database now."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Float, Integer, String, Table, Text

from marketplace.store.schema.base import metadata

gateways = Table(
    "gateways",
    metadata,
    # Of one life of a gateway: another start has another one.
    Column("id", String(40), primary_key=True),
    # Its seat: the lowest that was free. On PostgreSQL an advisory lock goes with it.
    Column("number", Integer, nullable=False, unique=True),
    Column("lock_key", BigInteger),
    Column("pid", Integer),  # of the server's process that holds the lock
    Column("url", String(256), nullable=False),  # where the others reach it
    Column("report", Text, nullable=False),  # what it has under way, as JSON
    Column("seen_s", Float, nullable=False),  # by the database's clock
    Column("ended", Boolean, nullable=False),  # it has left, and what it left is free
)
