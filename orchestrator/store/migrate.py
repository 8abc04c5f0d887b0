"""Brings a database to the newest schema, or back, by Alembic's migrations."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

FIRST = "0001"


def upgrade(engine: sa.Engine, revision: str = "head") -> None:
    """Brings the database up to `revision`, wholly or not at all; one made before there were
    migrations too. Of several that open it at once, one does it and the others wait."""
    with alone(engine).begin() as db:
        if engine.dialect.name == "postgresql":
            db.execute(sa.text("SELECT pg_advisory_xact_lock(727001)"))
        tables = set(sa.inspect(db).get_table_names())
        if "plans" in tables and "alembic_version" not in tables:
            command.stamp(_config(db), FIRST)
        command.upgrade(_config(db), revision)


def downgrade(engine: sa.Engine, revision: str) -> None:
    """Takes the database back to `revision`; what later ones hold is lost."""
    with alone(engine).begin() as db:
        command.downgrade(_config(db), revision)


@functools.lru_cache(maxsize=32)
def alone(engine: sa.Engine) -> sa.Engine:
    """The engine with transactions that write: on SQLite one at a time, from their start."""
    # Kept, because an engine with options takes longer to make than a transaction.
    return engine.execution_options(alone=True)


def _config(db: sa.Connection) -> Config:
    config = Config()
    # A % would be taken for the start of an interpolation.
    folder = str(Path(__file__).parent / "migrations").replace("%", "%%")
    config.set_main_option("script_location", folder)
    attributes: dict[str, Any] = config.attributes
    attributes["connection"] = db
    return config
