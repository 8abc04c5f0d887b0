"""Tables of tenants, their projects and people, and their keys."""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
)

from marketplace.store.schema.base import metadata

tenants = Table(
    "tenants",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("name", String(64), nullable=False, unique=True),
    Column("created_s", Float, nullable=False),
    # postpaid: an invoice a month; prepaid: no job without money in the account.
    Column("terms", String(8), nullable=False, server_default="postpaid"),
    # Its part of what tenants wait for together, compared with the others'.
    Column("weight", Integer, nullable=False, server_default="1"),
    # Where its prompts may go: `stay`, or the regions of peers.
    Column("data_policy", String(512), nullable=False, server_default="stay"),
    # A site of others, whose work runs while compute is free.
    Column("peer", Boolean, nullable=False, server_default=false()),
)

projects = Table(
    "projects",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("tenant_id", String(32), ForeignKey("tenants.id"), nullable=False),
    Column("name", String(64), nullable=False),
    Column("created_s", Float, nullable=False),
    Column("archived_s", Float),
    UniqueConstraint("tenant_id", "name", name="uq_projects_tenant_name"),
)

users = Table(
    "users",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("tenant_id", String(32), ForeignKey("tenants.id"), nullable=False),
    Column("email", String(254), nullable=False, unique=True),
    Column("role", String(8), nullable=False),  # owner | member | viewer
    # Who the identity provider says it is; set at the first login, from then on that alone counts.
    Column("issuer", String(255)),
    Column("subject", String(255)),
    Column("created_s", Float, nullable=False),
    Column("disabled_s", Float),
    Column("last_login_s", Float),
    UniqueConstraint("issuer", "subject", name="uq_users_issuer_subject"),
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
    Column("project_id", String(32)),
    Column("scopes", Text),  # words with blanks between; NULL, of old keys: all
    Column("models", Text),  # JSON list of names; NULL: all
    Column("expires_s", Float),
    Column("last_used_s", Float),
    Column("replaced_by", String(32)),
    Index("ix_keys_project_id", "project_id"),
)
