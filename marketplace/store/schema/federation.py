"""What was paid to peers."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, ForeignKey, Integer, String, Table

from marketplace.store.schema.base import metadata

peer_usage = Table(
    "peer_usage",
    metadata,
    # A job is sent to a peer once, so it costs there once.
    Column("job_id", String(48), ForeignKey("jobs.id"), primary_key=True),
    Column("peer", String(64), primary_key=True),
    Column("model", String(128), nullable=False),
    Column("input_tokens", Integer, nullable=False),
    Column("output_tokens", Integer, nullable=False),
    Column("cost_micro_usd", BigInteger, nullable=False),
    Column("created_s", Float, nullable=False),
)
