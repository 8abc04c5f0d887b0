"""Tenants and their keys."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from airan.core.errors import InvalidInputError, NotFoundError
from marketplace.keys import key_hash, new_key, shown_prefix
from marketplace.store.connect import writing
from marketplace.store.schema import keys, tenants


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a valid key speaks for."""

    tenant_id: str
    key_id: str


class Accounts:
    """All calls are blocking and safe from several threads."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def create_tenant(self, name: str, now_s: float) -> dict[str, Any]:
        """Adds a tenant.

        Raises:
            InvalidInputError: the name is taken.
        """
        row = {"id": "ten_" + secrets.token_hex(8), "name": name, "created_s": now_s}
        try:
            with writing(self._engine) as connection:
                connection.execute(insert(tenants).values(row))
        except IntegrityError as error:
            raise InvalidInputError("name", f"tenant {name!r} exists already") from error
        return row

    def list_tenants(self) -> list[dict[str, Any]]:
        """All tenants, oldest first."""
        with self._engine.connect() as connection:
            rows = connection.execute(select(tenants).order_by(tenants.c.created_s)).mappings()
            return [dict(row) for row in rows]

    def create_key(self, tenant: str, name: str, now_s: float) -> dict[str, Any]:
        """Adds a key for the tenant of that name or id. Only this answer holds the key itself.

        Raises:
            NotFoundError: there is no such tenant.
        """
        key = new_key()
        row = {
            "id": "key_" + secrets.token_hex(8),
            "tenant_id": self._tenant_id(tenant),
            "name": name,
            "prefix": shown_prefix(key),
            "created_s": now_s,
        }
        with writing(self._engine) as connection:
            connection.execute(insert(keys).values(row | {"sha256": key_hash(key)}))
        return row | {"key": key}

    def list_keys(self) -> list[dict[str, Any]]:
        """All keys with their tenants' names, never the keys themselves."""
        query = select(
            *[column for column in keys.c if column.name != "sha256"],
            tenants.c.name.label("tenant"),
        )
        query = query.join(tenants).order_by(keys.c.created_s)
        with self._engine.connect() as connection:
            rows = [dict(row) for row in connection.execute(query).mappings()]
        return [row | {"revoked": row["revoked_s"] is not None} for row in rows]

    def revoke_key(self, key_id: str, now_s: float) -> None:
        """Ends a key for good. Idempotent.

        Raises:
            NotFoundError: there is no such key.
        """
        query = update(keys).where(keys.c.id == key_id)
        query = query.values(revoked_s=keys.c.revoked_s).returning(keys.c.revoked_s)
        with writing(self._engine) as connection:
            row = connection.execute(query).first()
            if row is None:
                raise NotFoundError(f"key {key_id!r} does not exist")
            if row.revoked_s is None:
                connection.execute(update(keys).where(keys.c.id == key_id).values(revoked_s=now_s))

    def authenticate(self, key: str) -> Principal | None:
        """Whom the key speaks for; None if it is unknown or revoked."""
        query = select(keys.c.tenant_id, keys.c.id)
        query = query.where(keys.c.sha256 == key_hash(key), keys.c.revoked_s.is_(None))
        with self._engine.connect() as connection:
            row = connection.execute(query).first()
        return None if row is None else Principal(row.tenant_id, row.id)

    def _tenant_id(self, tenant: str) -> str:
        query = select(tenants.c.id).where(or_(tenants.c.id == tenant, tenants.c.name == tenant))
        with self._engine.connect() as connection:
            found = connection.execute(query).scalar()
        if found is None:
            raise NotFoundError(f"tenant {tenant!r} does not exist")
        return str(found)
