"""The operator's interface: tenants, projects, people, keys, statistics, events."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from pydantic import Field
from starlette.responses import JSONResponse, Response

from marketplace.gateway.bodies import Body, KeyBody, Name, Rotation, read_as
from marketplace.gateway.runtime import Runtime
from marketplace.meter import stats
from marketplace.siblings.figures import joined
from marketplace.store.accounts import MAX_WEIGHT
from marketplace.store.ledger import usd


class NewTenant(Body):
    """A tenant to be added."""

    name: Name
    terms: str = "postpaid"


class Weight(Body):
    """A tenant's part of what there is, compared with the others'."""

    weight: Annotated[int, Field(ge=1, le=MAX_WEIGHT)]


class NewProject(Body):
    """A project to be added."""

    tenant: Name
    name: Name


class NewUser(Body):
    """A person who is to be able to log in."""

    tenant: Name
    email: Annotated[str, Field(max_length=254)]
    role: str = "member"


class NewKey(KeyBody):
    """A key to be made for a tenant."""

    tenant: Name


def build_router(runtime: Runtime) -> APIRouter:
    """The routes under /admin/v1; all want the admin key."""
    router = APIRouter(
        prefix="/admin/v1", tags=["admin"], dependencies=[Depends(runtime.door.check_admin)]
    )
    _add_tenant_routes(router, runtime)
    _add_user_routes(router, runtime)
    _add_key_routes(router, runtime)
    _add_report_routes(router, runtime)
    return router


def _add_tenant_routes(router: APIRouter, runtime: Runtime) -> None:
    @router.get("/tenants")
    async def list_tenants() -> dict[str, Any]:
        return {"data": await runtime.db.call(runtime.db.accounts.list_tenants)}

    @router.post("/tenants")
    async def create_tenant(request: Request) -> Response:
        body = await read_as(runtime, request, NewTenant)
        create = runtime.db.accounts.create_tenant
        row = await runtime.db.call(create, body.name, runtime.clock.now_s(), body.terms)
        await runtime.dispatcher.desk.refresh()
        return JSONResponse(row, 201)

    @router.put("/tenants/{tenant}/weight")
    async def set_weight(tenant: str, request: Request) -> dict[str, Any]:
        body = await read_as(runtime, request, Weight)
        row = await runtime.db.call(runtime.db.accounts.set_weight, tenant, body.weight)
        await runtime.dispatcher.desk.refresh()
        return row

    @router.get("/projects")
    async def list_projects(tenant: str | None = None) -> dict[str, Any]:
        return {"data": await runtime.db.call(runtime.db.accounts.list_projects, tenant)}

    @router.post("/projects")
    async def create_project(request: Request) -> Response:
        body = await read_as(runtime, request, NewProject)
        create = runtime.db.accounts.create_project
        now_s = runtime.clock.now_s()
        return JSONResponse(await runtime.db.call(create, body.tenant, body.name, now_s), 201)

    @router.delete("/projects/{project_id}")
    async def archive_project(project_id: str) -> dict[str, Any]:
        archive = runtime.db.accounts.archive_project
        await runtime.db.call(archive, project_id, runtime.clock.now_s())
        runtime.door.forget_keys()
        return {"id": project_id, "archived": True}


def _add_user_routes(router: APIRouter, runtime: Runtime) -> None:
    @router.get("/users")
    async def list_users(tenant: str | None = None) -> dict[str, Any]:
        return {"data": await runtime.db.call(runtime.db.users.list, tenant)}

    @router.post("/users")
    async def create_user(request: Request) -> Response:
        body = await read_as(runtime, request, NewUser)
        create, now_s = runtime.db.users.create, runtime.clock.now_s()
        row = await runtime.db.call(create, body.tenant, body.email, body.role, now_s)
        return JSONResponse(row, 201)

    @router.delete("/users/{user_id}")
    async def disable_user(user_id: str) -> dict[str, Any]:
        await runtime.db.call(runtime.db.users.disable, user_id, runtime.clock.now_s())
        runtime.door.forget_keys()
        return {"id": user_id, "disabled": True}


def _add_key_routes(router: APIRouter, runtime: Runtime) -> None:
    @router.get("/keys")
    async def list_keys() -> dict[str, Any]:
        return {"data": await runtime.db.call(runtime.db.keys.list)}

    @router.post("/keys")
    async def create_key(request: Request) -> Response:
        body = await read_as(runtime, request, NewKey)
        create, now_s = runtime.db.keys.create, runtime.clock.now_s()
        return JSONResponse(await runtime.db.call(create, body.tenant, body.spec(), now_s), 201)

    @router.post("/keys/{key_id}/rotate")
    async def rotate_key(key_id: str, request: Request) -> Response:
        body = await read_as(runtime, request, Rotation)
        rotate, now_s = runtime.db.keys.rotate, runtime.clock.now_s()
        row = await runtime.db.call(rotate, key_id, body.grace_s, now_s)
        runtime.door.forget_keys()
        return JSONResponse(row, 201)

    @router.delete("/keys/{key_id}")
    async def revoke_key(key_id: str) -> dict[str, Any]:
        await runtime.db.call(runtime.db.keys.revoke, key_id, runtime.clock.now_s())
        runtime.door.forget_keys()
        return {"id": key_id, "revoked": True}


def _add_report_routes(router: APIRouter, runtime: Runtime) -> None:
    @router.get("/usage")
    async def get_usage(tenant: str | None = None) -> dict[str, Any]:
        rows = await runtime.db.call(runtime.db.ledger.usage, tenant)
        total = sum(row["amount_micro_usd"] for row in rows)
        data = [row | {"usd": usd(row["amount_micro_usd"])} for row in rows]
        return {"data": data, "total_micro_usd": total, "total_usd": usd(total)}

    @router.get("/stats")
    async def get_stats() -> dict[str, Any]:
        """How the marketplace stands, whichever of its gateways is asked."""
        db, siblings = runtime.db, runtime.company.siblings
        live = runtime.live_stats()
        if siblings:
            ttft_ms = await db.call(db.ledger.recent_ttft_ms)
            live = joined(live, [one.report.stats for one in siblings], ttft_ms)
        return stats(await db.call(db.ledger.totals), live)

    @router.get("/events")
    async def list_events(
        after: Annotated[int, Query(ge=0, lt=2**31)] = 0,
        limit: Annotated[int, Query(ge=1, le=1000)] = 200,
    ) -> dict[str, Any]:
        return {"data": await runtime.db.call(runtime.db.ledger.list_events, after, limit)}
