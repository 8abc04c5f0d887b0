"""The orchestrator's tables, on SQLite and PostgreSQL alike; `migrations` makes them."""

from __future__ import annotations

import sqlalchemy as sa

METADATA = sa.MetaData()
PLANS = sa.Table(
    "plans",
    METADATA,
    sa.Column("generation", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("parent", sa.Integer, nullable=False),
    sa.Column("state", sa.String, nullable=False),
    sa.Column("created_s", sa.Float, nullable=False),
    sa.Column("body", sa.JSON, nullable=False),
)
STEPS = sa.Table(
    "plan_steps",
    METADATA,
    sa.Column("seq", sa.Integer, primary_key=True),
    sa.Column("generation", sa.Integer, nullable=False, index=True),
    sa.Column("time_s", sa.Float, nullable=False),
    sa.Column("step", sa.String, nullable=False),
    sa.Column("state", sa.String, nullable=False),
    sa.Column("error", sa.String, nullable=False),
    sqlite_autoincrement=True,
)
LEASES = sa.Table(
    "leases",
    METADATA,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("state", sa.String, nullable=False, index=True),
    sa.Column("granted_s", sa.Float, nullable=False),
    sa.Column("pid_started_s", sa.Float, nullable=False),
    sa.Column("body", sa.JSON, nullable=False),
    sa.Index("ix_leases_granted_s_id", "granted_s", "id"),
)
EVENTS = sa.Table(
    "events",
    METADATA,
    sa.Column("seq", sa.Integer, primary_key=True),
    sa.Column("time_s", sa.Float, nullable=False),
    sa.Column("severity", sa.String, nullable=False),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("message", sa.String, nullable=False),
    sqlite_autoincrement=True,
)
AUDIT = sa.Table(
    "audit",
    METADATA,
    sa.Column("seq", sa.Integer, primary_key=True),
    sa.Column("time_s", sa.Float, nullable=False),
    sa.Column("actor", sa.String, nullable=False, index=True),
    sa.Column("role", sa.String, nullable=False),
    sa.Column("method", sa.String, nullable=False),
    sa.Column("request", sa.String, nullable=False),
    sa.Column("outcome", sa.String, nullable=False),
    sa.Column("message", sa.String, nullable=False),
    sqlite_autoincrement=True,
)
ROLES = sa.Table(
    "partition_roles",
    METADATA,
    sa.Column("partition_id", sa.String, primary_key=True),
    sa.Column("role", sa.String, nullable=False),
)
MAINTENANCE = sa.Table(
    "maintenance",
    METADATA,
    sa.Column("gpu_uuid", sa.String, primary_key=True),
    sa.Column("reason", sa.String, nullable=False),
    sa.Column("since_s", sa.Float, nullable=False),
)
DEMAND = sa.Table(
    "demand_history",
    METADATA,
    sa.Column("time_s", sa.Float, primary_key=True),
    sa.Column("share", sa.Float, nullable=False),
)
VALUES = sa.Table(
    "site_values",
    METADATA,
    sa.Column("key", sa.String, primary_key=True),
    sa.Column("value", sa.JSON, nullable=False),
)
LEADERSHIP = sa.Table(
    "leadership",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("holder", sa.String, nullable=False),
    sa.Column("beat_s", sa.Float, nullable=False),
)
