"""Tenants and their projects."""

from __future__ import annotations

import secrets
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from airan.core.errors import InvalidInputError, NotFoundError
from marketplace.principal import Principal
from marketplace.store.connect import reading, writing
from marketplace.store.schema import projects, tenants

__all__ = ["Accounts", "Principal", "project_id_of", "tenant_id_of"]
MAX_WEIGHT = 1000
TERMS = ("postpaid", "prepaid")


class Accounts:
    """All calls are blocking and safe from several threads."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def create_tenant(self, name: str, now_s: float, terms: str = "postpaid") -> dict[str, Any]:
        """Adds a tenant.

        Raises:
            InvalidInputError: the name is taken, or there are no such terms.
        """
        if terms not in TERMS:
            raise InvalidInputError("terms", f"must be one of {', '.join(TERMS)}, got {terms!r}")
        row = {"id": new_id("ten"), "name": name, "created_s": now_s, "terms": terms}
        row |= {"weight": 1, "data_policy": "stay", "peer": False}
        try:
            with writing(self._engine) as db:
                db.execute(sa.insert(tenants).values(row))
        except IntegrityError as error:
            raise InvalidInputError("name", f"tenant {name!r} exists already") from error
        return row

    def list_tenants(self) -> list[dict[str, Any]]:
        """All tenants, oldest first."""
        with reading(self._engine) as db:
            rows = db.execute(sa.select(tenants).order_by(tenants.c.created_s)).mappings()
            return [dict(row) for row in rows]

    def tenant(self, tenant: str) -> dict[str, Any]:
        """The tenant of that name or id.

        Raises:
            NotFoundError: there is none.
        """
        with reading(self._engine) as db:
            tenant_id = tenant_id_of(db, tenant)
            query = sa.select(tenants).where(tenants.c.id == tenant_id)
            return dict(db.execute(query).mappings().one())

    def set_weight(self, tenant: str, weight: int) -> dict[str, Any]:
        """Sets what part the tenant of that name or id gets of what tenants wait for together.

        Raises:
            NotFoundError: there is no such tenant.
            InvalidInputError: the weight is not between 1 and MAX_WEIGHT.
        """
        if not 1 <= weight <= MAX_WEIGHT:
            raise InvalidInputError("weight", f"must be between 1 and {MAX_WEIGHT}, got {weight}")
        with writing(self._engine) as db:
            mine = tenants.c.id == tenant_id_of(db, tenant)
            db.execute(sa.update(tenants).where(mine).values(weight=weight))
            return dict(db.execute(sa.select(tenants).where(mine)).mappings().one())

    def weights(self) -> dict[str, int]:
        """The weights other than 1, by tenant's id."""
        query = sa.select(tenants.c.id, tenants.c.weight).where(tenants.c.weight != 1)
        with reading(self._engine) as db:
            return {row.id: row.weight for row in db.execute(query)}

    def create_project(self, tenant: str, name: str, now_s: float) -> dict[str, Any]:
        """Adds a project to the tenant of that name or id.

        Raises:
            NotFoundError: there is no such tenant.
            InvalidInputError: the tenant has a project of that name.
        """
        try:
            with writing(self._engine) as db:
                row = {
                    "id": new_id("proj"),
                    "tenant_id": tenant_id_of(db, tenant),
                    "name": name,
                    "created_s": now_s,
                }
                db.execute(sa.insert(projects).values(row))
        except IntegrityError as error:
            raise InvalidInputError("name", f"project {name!r} exists already") from error
        return row

    def list_projects(self, tenant: str | None = None) -> list[dict[str, Any]]:
        """Projects with their tenants' names, oldest first; of one tenant or of all.

        Raises:
            NotFoundError: there is no such tenant.
        """
        query = sa.select(projects, tenants.c.name.label("tenant")).join(tenants)
        with reading(self._engine) as db:
            if tenant is not None:
                query = query.where(tenants.c.id == tenant_id_of(db, tenant))
            rows = db.execute(query.order_by(projects.c.created_s)).mappings()
            return [dict(row) for row in rows]

    def archive_project(self, project_id: str, now_s: float) -> None:
        """Ends a project: its keys are valid no longer. Idempotent.

        Raises:
            NotFoundError: there is no such project.
        """
        end = sa.func.coalesce(projects.c.archived_s, now_s)
        change = sa.update(projects).where(projects.c.id == project_id).values(archived_s=end)
        with writing(self._engine) as db:
            if not db.execute(change).rowcount:
                raise NotFoundError(f"project {project_id!r} does not exist")


def new_id(prefix: str) -> str:
    """A random id such as ten_0123456789abcdef."""
    return f"{prefix}_{secrets.token_hex(8)}"


def tenant_id_of(db: sa.Connection, tenant: str) -> str:
    """The id of the tenant of that name or id.

    Raises:
        NotFoundError: there is none.
    """
    # An id goes first: nobody can take over another tenant by taking its id for a name.
    for column in (tenants.c.id, tenants.c.name):
        found = db.execute(sa.select(tenants.c.id).where(column == tenant)).scalar()
        if found is not None:
            return str(found)
    raise NotFoundError(f"tenant {tenant!r} does not exist")


def project_id_of(db: sa.Connection, tenant_id: str, project: str) -> str:
    """The id of the tenant's project of that name or id.

    Raises:
        NotFoundError: there is none, or it was archived.
    """
    query = sa.select(projects.c.id).where(
        projects.c.tenant_id == tenant_id,
        projects.c.archived_s.is_(None),
        sa.or_(projects.c.id == project, projects.c.name == project),
    )
    found = db.execute(query.order_by(projects.c.id != project)).scalar()
    if found is None:
        raise NotFoundError(f"project {project!r} does not exist")
    return str(found)
