"""Tables of tenants' files, batches and responses."""

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

files = Table(
    "files",
    metadata,
    Column("id", String(48), primary_key=True),
    Column("tenant_id", ForeignKey("tenants.id"), nullable=False),
    Column("purpose", String(32), nullable=False),
    Column("filename", String(256), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("created_s", Float, nullable=False),
    Index("ix_files_tenant", "tenant_id"),
)

file_chunks = Table(
    "file_chunks",
    metadata,
    # What files hold, on PostgreSQL only; beside SQLite it lies in the state folder.
    Column("file_id", ForeignKey("files.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("content", LargeBinary, nullable=False),
)

batches = Table(
    "batches",
    metadata,
    Column("id", String(48), primary_key=True),
    Column("tenant_id", ForeignKey("tenants.id"), nullable=False),
    Column("key_id", ForeignKey("keys.id"), nullable=False),
    Column("state", String(12), nullable=False),
    Column("document", Text, nullable=False),  # the batch as its client sees it, as JSON
    # Which sites it came through, and where it may go, as its request said; nothing: unknown.
    Column("via", String(1100)),
    Column("narrows", String(512)),
    Column("created_s", Float, nullable=False),
    Column("gateway_id", String(40)),  # which gateway runs it
    Index("ix_batches_tenant", "tenant_id"),
    Index("ix_batches_state", "state"),
)

batch_lines = Table(
    "batch_lines",
    metadata,
    # A line has one answer or none yet.
    Column("batch_id", ForeignKey("batches.id"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("failed", Integer, nullable=False),  # 0 | 1
    Column("answer", Text, nullable=False),  # its line of the output or error file
)

responses = Table(
    "responses",
    metadata,
    Column("id", String(48), primary_key=True),
    Column("tenant_id", ForeignKey("tenants.id"), nullable=False),
    Column("job_id", ForeignKey("jobs.id"), nullable=False),
    Column("document", Text, nullable=False),  # what was asked, and the conversation, as JSON
    Column("created_s", Float, nullable=False),
)
