"""Secrets that all gateways of a database share. All calls are blocking and thread-safe."""

from __future__ import annotations

import secrets

import sqlalchemy as sa

from marketplace.store.connect import inserts_once, writing
from marketplace.store.schema import shared_secrets

_BYTES = 32
_ADD = inserts_once(shared_secrets)


class SharedSecrets:
    """Rows of secrets, made where they are first asked for."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def get(self, name: str) -> bytes:
        """The secret of that name, the same to all; made now if there is none."""
        query = sa.select(shared_secrets.c.secret).where(shared_secrets.c.name == name)
        with writing(self._engine) as db:
            row = {"name": name, "secret": secrets.token_bytes(_BYTES)}
            # Of several that come first at once, one waits for the other's.
            db.execute(_ADD[db.dialect.name], row)
            return bytes(db.execute(query).scalar_one())
