"""Keys: shown once, kept as a hash, with scopes, an end and a successor."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from airan.core.errors import InvalidInputError, NotFoundError
from marketplace.keys import key_hash, new_key, shown_prefix
from marketplace.principal import ALL_SCOPES, DEFAULT_SCOPES, Principal, checked_scopes
from marketplace.store.accounts import new_id, project_id_of, tenant_id_of
from marketplace.store.connect import reading, writing
from marketplace.store.schema import keys, projects, tenants

_USE_STEP_S = 60.0
"""`last_used_s` is that exact: a write for every request would cost more than it tells."""
_WITH_TENANT = sa.select(keys, tenants.c.peer.label("is_peer")).join(
    tenants, tenants.c.id == keys.c.tenant_id
)
_COPIED = ("tenant_id", "name", "project_id", "scopes", "models", "expires_s")


@dataclass(frozen=True)
class KeySpec:
    """A key to be made."""

    name: str = "default"
    project: str | None = None
    """Name or id; None: the key belongs to the tenant as a whole."""
    scopes: tuple[str, ...] = DEFAULT_SCOPES
    models: tuple[str, ...] | None = None
    """Models it may use; None: all."""
    expires_s: float | None = None
    """Unix time of its end; None: never."""


class Keys:
    """All calls are blocking and safe from several threads."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def create(self, tenant: str, spec: KeySpec, now_s: float) -> dict[str, Any]:
        """Adds a key for the tenant of that name or id. Only this answer holds the key itself.

        Raises:
            NotFoundError: there is no such tenant or project.
            InvalidInputError: a scope is unknown, or the end is past.
        """
        scopes = checked_scopes(spec.scopes)
        if spec.expires_s is not None and spec.expires_s <= now_s:
            raise InvalidInputError("expires_s", "must be in the future")
        models = None if spec.models is None else json.dumps(sorted(set(spec.models)))
        with writing(self._engine) as db:
            tenant_id = tenant_id_of(db, tenant)
            project_id = None
            if spec.project is not None:
                project_id = project_id_of(db, tenant_id, spec.project)
            row = {
                "tenant_id": tenant_id,
                "name": spec.name,
                "project_id": project_id,
                "scopes": " ".join(scopes),
                "models": models,
                "expires_s": spec.expires_s,
            }
            return _add(db, row, now_s)

    def list(self, tenant_id: str | None = None) -> list[dict[str, Any]]:
        """Keys with their tenants' names, oldest first; never the keys themselves."""
        query = sa.select(
            *[column for column in keys.c if column.name != "sha256"],
            tenants.c.name.label("tenant"),
        )
        query = query.join(tenants).order_by(keys.c.created_s)
        if tenant_id is not None:
            query = query.where(keys.c.tenant_id == tenant_id)
        with reading(self._engine) as db:
            return [_shown(row) for row in db.execute(query).mappings()]

    def revoke(self, key_id: str, now_s: float, tenant_id: str | None = None) -> None:
        """Ends a key for good; `tenant_id`: only if it is this tenant's. Idempotent.

        Raises:
            NotFoundError: there is no such key.
        """
        end = sa.func.coalesce(keys.c.revoked_s, now_s)
        change = _of(sa.update(keys), key_id, tenant_id).values(revoked_s=end)
        with writing(self._engine) as db:
            if not db.execute(change).rowcount:
                raise NotFoundError(f"key {key_id!r} does not exist")

    def rotate(
        self, key_id: str, grace_s: float, now_s: float, tenant_id: str | None = None
    ) -> dict[str, Any]:
        """Makes a key that may do the same; the old one is valid for `grace_s` yet.

        Raises:
            NotFoundError: there is no such key, or it is valid no longer.
            InvalidInputError: it was rotated already.
        """
        if grace_s < 0:
            raise InvalidInputError("grace_s", "must not be negative")
        with writing(self._engine) as db:
            old = db.execute(_of(sa.select(keys), key_id, tenant_id)).mappings().first()
            if old is None or old["revoked_s"] is not None or _is_over(old, now_s):
                raise NotFoundError(f"key {key_id!r} does not exist or is valid no longer")
            if old["replaced_by"] is not None:
                raise InvalidInputError("key", f"was rotated already, to {old['replaced_by']}")
            made = _add(db, {name: old[name] for name in _COPIED}, now_s)
            end_s = now_s + grace_s
            if old["expires_s"] is not None:
                end_s = min(end_s, old["expires_s"])
            values = {"expires_s": end_s, "replaced_by": made["id"]}
            db.execute(sa.update(keys).where(keys.c.id == key_id).values(values))
        return made | {"replaces": key_id, "old_expires_s": end_s}

    def authenticate(self, key: str, now_s: float) -> Principal | None:
        """Whom the key speaks for; None if it is unknown, revoked or over, or its project is."""
        query = _WITH_TENANT.outerjoin(projects, projects.c.id == keys.c.project_id)
        query = query.where(
            keys.c.sha256 == key_hash(key),
            keys.c.revoked_s.is_(None),
            projects.c.archived_s.is_(None),
            sa.or_(keys.c.expires_s.is_(None), keys.c.expires_s > now_s),
        )
        with reading(self._engine) as db:
            row = db.execute(query).mappings().first()
        if row is None:
            return None
        if row["last_used_s"] is None or now_s - row["last_used_s"] >= _USE_STEP_S:
            with writing(self._engine) as db:
                change = sa.update(keys).where(keys.c.id == row["id"])
                db.execute(change.values(last_used_s=now_s))
        return _principal(row)

    def principal(self, key_id: str) -> Principal:
        """Whom a key spoke for when it began something that goes on, valid still or not.

        Raises:
            NotFoundError: there never was such a key.
        """
        with reading(self._engine) as db:
            row = db.execute(_WITH_TENANT.where(keys.c.id == key_id)).mappings().first()
        if row is None:
            raise NotFoundError(f"key {key_id!r} does not exist")
        return _principal(row)


def _principal(row: Any) -> Principal:
    return Principal(
        row["tenant_id"],
        row["id"],
        row["project_id"],
        ALL_SCOPES if row["scopes"] is None else frozenset(row["scopes"].split()),
        None if row["models"] is None else frozenset(json.loads(row["models"])),
        row["expires_s"],
        is_peer=bool(row["is_peer"]),
    )


def _add(db: sa.Connection, values: dict[str, Any], now_s: float) -> dict[str, Any]:
    key = new_key()
    row = values | {"id": new_id("key"), "prefix": shown_prefix(key), "created_s": now_s}
    db.execute(sa.insert(keys).values(row | {"sha256": key_hash(key)}))
    return _shown(row) | {"key": key}


def _of(query: Any, key_id: str, tenant_id: str | None) -> Any:
    query = query.where(keys.c.id == key_id)
    return query if tenant_id is None else query.where(keys.c.tenant_id == tenant_id)


def _is_over(row: Any, now_s: float) -> bool:
    return row["expires_s"] is not None and row["expires_s"] <= now_s


def _shown(row: Any) -> dict[str, Any]:
    shown = dict(row)
    scopes, models = shown["scopes"], shown["models"]
    shown["scopes"] = sorted(ALL_SCOPES) if scopes is None else scopes.split()
    shown["models"] = None if models is None else json.loads(models)
    shown["revoked"] = shown.get("revoked_s") is not None
    return shown
