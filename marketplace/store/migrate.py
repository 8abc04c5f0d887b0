"""Brings the marketplace's database to the newest schema, or back, by Alembic's migrations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from orchestrator.store.migrate import alone

FIRST = "0001"
_LOCK = 727002
"""Of PostgreSQL's advisory locks; the orchestrator's database has its own number."""


def upgrade(engine: sa.Engine, revision: str = "head") -> None:
    """Brings the database up to `revision`, wholly or not at all; one made before there were
    migrations too. Of several that open it at once, one does it and the others wait."""
    with alone(engine).begin() as db:
        if engine.dialect.name == "postgresql":
            db.execute(sa.text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
        tables = set(sa.inspect(db).get_table_names())
        if "tenants" in tables and "alembic_version" not in tables:
            command.stamp(_config(db), FIRST)
        command.upgrade(_config(db), revision)


def downgrade(engine: sa.Engine, revision: str) -> None:
    """Takes the database back to `revision`; what later ones hold is lost."""
    with alone(engine).begin() as db:
        command.downgrade(_config(db), revision)


def _config(db: sa.Connection) -> Config:
    config = Config()
    # A % would be taken for the start of an interpolation.
    folder = str(Path(__file__).parent / "migrations").replace("%", "%%")
    config.set_main_option("script_location", folder)
    attributes: dict[str, Any] = config.attributes
    attributes["connection"] = db
    return config
