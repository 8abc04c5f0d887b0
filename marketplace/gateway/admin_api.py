"""The operator's interface: tenants, keys, usage, statistics, events."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import JSONResponse, Response

from airan.core.errors import InvalidInputError
from marketplace.gateway.runtime import Runtime, read_json
from marketplace.meter import stats
from marketplace.store.ledger import usd

_MAX_NAME = 64


def build_router(runtime: Runtime) -> APIRouter:
    """The routes under /admin/v1; all want the admin key."""
    router = APIRouter(
        prefix="/admin/v1", tags=["admin"], dependencies=[Depends(runtime.check_admin)]
    )
    _add_account_routes(router, runtime)
    _add_report_routes(router, runtime)
    return router


def _add_account_routes(router: APIRouter, runtime: Runtime) -> None:
    @router.get("/tenants")
    async def list_tenants() -> dict[str, Any]:
        return {"data": await runtime.db.call(runtime.db.accounts.list_tenants)}

    @router.post("/tenants")
    async def create_tenant(request: Request) -> Response:
        values = await read_json(request, runtime.settings.max_body_bytes)
        name = _text(values, "name")
        accounts = runtime.db.accounts
        row = await runtime.db.call(accounts.create_tenant, name, runtime.clock.now_s())
        return JSONResponse(row, 201)

    @router.get("/keys")
    async def list_keys() -> dict[str, Any]:
        return {"data": await runtime.db.call(runtime.db.accounts.list_keys)}

    @router.post("/keys")
    async def create_key(request: Request) -> Response:
        values = await read_json(request, runtime.settings.max_body_bytes)
        tenant, name = _text(values, "tenant"), _text(values, "name", "default")
        accounts = runtime.db.accounts
        row = await runtime.db.call(accounts.create_key, tenant, name, runtime.clock.now_s())
        return JSONResponse(row, 201)

    @router.delete("/keys/{key_id}")
    async def revoke_key(key_id: str) -> dict[str, Any]:
        await runtime.db.call(runtime.db.accounts.revoke_key, key_id, runtime.clock.now_s())
        runtime.forget_keys()
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
        return stats(await runtime.db.call(runtime.db.ledger.totals), runtime.live_stats())

    @router.get("/events")
    async def list_events(
        after: Annotated[int, Query(ge=0)] = 0,
        limit: Annotated[int, Query(ge=1, le=1000)] = 200,
    ) -> dict[str, Any]:
        return {"data": await runtime.db.call(runtime.db.ledger.list_events, after, limit)}


def _text(values: Any, field: str, default: str | None = None) -> str:
    if not isinstance(values, dict):
        raise InvalidInputError("body", "must be a JSON object")
    text = values.get(field, default)
    if not isinstance(text, str) or not 0 < len(text.strip()) <= _MAX_NAME:
        raise InvalidInputError(field, f"must be a text of 1 to {_MAX_NAME} characters")
    if not text.isprintable():
        raise InvalidInputError(field, "must be printable")
    return text.strip()
