"""Tables of the marketplace's database. Money is in micro-USD, times are Unix seconds."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Engine,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    event,
    text,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from airan.core.errors import ConfigError

SCHEMA_VERSION = 1
metadata = MetaData()

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

jobs = Table(
    "jobs",
    metadata,
    Column("id", String(48), primary_key=True),
    Column("kind", String(8), nullable=False),  # sync | async
    Column("tenant_id", ForeignKey("tenants.id"), nullable=False),
    Column("key_id", ForeignKey("keys.id"), nullable=False),
    Column("model", String(128), nullable=False),
    Column("state", String(12), nullable=False),
    # What the client sent, kept for asynchronous jobs only: others end with their connection.
    Column("request", Text),
    Column("generated_ids", LargeBinary),  # int32, little-endian
    Column("text", Text),
    Column("input_tokens", Integer, nullable=False, default=0),
    Column("output_tokens", Integer, nullable=False, default=0),
    Column("preemptions", Integer, nullable=False, default=0),
    Column("tokens_lost", Integer, nullable=False, default=0),
    Column("finish_reason", String(16)),
    Column("error_code", String(48)),
    Column("error_message", Text),
    Column("created_s", Float, nullable=False),
    Column("updated_s", Float, nullable=False),
    Column("ttft_ms", Float),
    Index("ix_jobs_state", "state"),
)

usage = Table(
    "usage",
    metadata,
    # The job's id is the key: a job is billed once or not at all.
    Column("job_id", ForeignKey("jobs.id"), primary_key=True),
    Column("tenant_id", ForeignKey("tenants.id"), nullable=False),
    Column("key_id", ForeignKey("keys.id"), nullable=False),
    Column("model", String(128), nullable=False),
    Column("input_tokens", Integer, nullable=False),
    Column("output_tokens", Integer, nullable=False),
    Column("amount_micro_usd", BigInteger, nullable=False),
    Column("created_s", Float, nullable=False),
    Index("ix_usage_tenant", "tenant_id"),
)

events = Table(
    "events",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("time_s", Float, nullable=False),
    Column("severity", String(8), nullable=False),
    Column("kind", String(48), nullable=False),
    Column("message", Text, nullable=False),
    Column("job_id", String(48)),
    sqlite_autoincrement=True,
)


def open_database(url: str) -> Engine:
    """Opens the database, creating its tables where they are missing.

    SQLite runs in WAL mode with full synchronisation: what was committed survives a crash.

    Raises:
        ConfigError: the URL is no database's, it cannot be opened, or a newer airan wrote it.
    """
    try:
        engine = create_engine(make_url(url))
        if engine.dialect.name == "sqlite":
            event.listen(engine, "connect", _prepare_sqlite)
        with engine.begin() as connection:
            _check_version(connection.execute(text("PRAGMA user_version")).scalar_one(), url)
            metadata.create_all(connection)
            connection.execute(text(f"PRAGMA user_version = {SCHEMA_VERSION}"))
    except SQLAlchemyError as error:
        raise ConfigError(
            f"database {url} cannot be opened: {error}",
            remedy="check the path and its permissions",
        ) from error
    return engine


def _check_version(found: int, url: str) -> None:
    if found > SCHEMA_VERSION:
        raise ConfigError(
            f"database {url} was written by a newer airan (schema {found}, not {SCHEMA_VERSION})",
            remedy="update airan, or give it another state folder",
        )


def _prepare_sqlite(connection: object, _: object) -> None:
    cursor = connection.cursor()  # type: ignore[attr-defined]
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=5000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
