"""What was sent to peers, and what it cost."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Float, ForeignKey, Integer, String, Table, true

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
    # False: the peer was never heard of again, and this is the most that it can charge.
    Column("heard", Boolean, nullable=False, server_default=true()),
)

peer_sendings = Table(
    "peer_sendings",
    metadata,
    # Of jobs that outlive their connection, stored before anything of them leaves.
    Column("job_id", String(48), ForeignKey("jobs.id"), primary_key=True),
    Column("peer", String(64), primary_key=True),
    Column("way", String(12), nullable=False),  # invocation | stream
    Column("via", String(1100), nullable=False),  # the sites it came through, commas between
    Column("policy", String(512), nullable=False),  # where it may go, as the peer was told
    Column("remote_id", String(128)),  # what the peer calls it, once that is known
    # open | answered | refused | broken | cancelled | unheard
    Column("state", String(12), nullable=False),
    Column("created_s", Float, nullable=False),
)
