"""Secrets that all gateways of a database share. All calls are blocking and thread-safe."""

from __future__ import annotations

import secrets
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from marketplace.store.connect import writing
from marketplace.store.schema import shared_secrets

_BYTES = 32
_INSERTS: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}


class SharedSecrets:
    """Rows of secrets, made where they are first asked for."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def get(self, name: str) -> bytes:
        """The secret of that name, the same to all; made now if there is none."""
        query = sa.select(shared_secrets.c.secret).where(shared_secrets.c.name == name)
        with writing(self._engine) as db:
            insert = _INSERTS[db.dialect.name](shared_secrets)
            row = {"name": name, "secret": secrets.token_bytes(_BYTES)}
            # Of several that come first at once, one waits for the other's.
            db.execute(insert.values(row).on_conflict_do_nothing())
            return bytes(db.execute(query).scalar_one())
