"""Webhook endpoints: a tenant's own under /v1/webhooks, the operator's view under /admin/v1."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import JSONResponse, Response

from airan.core.errors import InvalidInputError
from marketplace.gateway.reading import read_json
from marketplace.gateway.runtime import Runtime
from marketplace.webhooks import EVENT_TYPES, check_events

_DAY_S = 86_400.0
_MAX_GRACE_S = 90 * _DAY_S
_SECRET = {"Cache-Control": "no-store"}
"""An answer that holds a secret is stored nowhere, not even for an Idempotency-Key."""
_Limit = Annotated[int, Query(ge=1, le=200)]
TenantOf = Callable[[Request], Awaitable[str]]


def build_router(runtime: Runtime) -> APIRouter:
    """The routes under /v1/webhooks and /admin/v1/tenants/{tenant}/webhooks."""

    async def own(request: Request) -> str:
        return (await runtime.door.authenticate(request)).tenant_id

    async def named(request: Request) -> str:
        tenant = str(request.path_params["tenant"])
        return await runtime.db.call(runtime.db.webhooks.tenant_id, tenant)

    router = APIRouter(tags=["webhooks"])
    for prefix, tenant_of, checks in (
        ("/v1/webhooks", own, []),
        ("/admin/v1/tenants/{tenant}/webhooks", named, [Depends(runtime.door.check_admin)]),
    ):
        part = APIRouter(prefix=prefix, dependencies=checks)
        _add_endpoint_routes(part, runtime, tenant_of)
        _add_delivery_routes(part, runtime, tenant_of)
        router.include_router(part)
    return router


def _add_endpoint_routes(router: APIRouter, runtime: Runtime, tenant_of: TenantOf) -> None:
    @router.post("")
    async def create(request: Request) -> Response:
        tenant_id = await tenant_of(request)
        url, events = _parse(runtime, await _body(runtime, request))
        add, now_s = runtime.db.webhooks.add, runtime.clock.now_s()
        return JSONResponse(await runtime.db.call(add, tenant_id, url, events, now_s), 201, _SECRET)

    @router.get("")
    async def list_endpoints(request: Request) -> dict[str, Any]:
        tenant_id = await tenant_of(request)
        return {"data": await runtime.db.call(runtime.db.webhooks.of_tenant, tenant_id)}

    @router.get("/{endpoint_id}")
    async def retrieve(endpoint_id: str, request: Request) -> dict[str, Any]:
        tenant_id = await tenant_of(request)
        return await runtime.db.call(runtime.db.webhooks.get, tenant_id, endpoint_id)

    @router.delete("/{endpoint_id}")
    async def remove(endpoint_id: str, request: Request) -> dict[str, Any]:
        tenant_id = await tenant_of(request)
        await runtime.db.call(runtime.db.webhooks.remove, tenant_id, endpoint_id)
        return {"id": endpoint_id, "deleted": True}

    @router.post("/{endpoint_id}/rotate")
    async def rotate(endpoint_id: str, request: Request) -> Response:
        tenant_id = await tenant_of(request)
        grace_s = _grace_s(await _body(runtime, request))
        now_s = runtime.clock.now_s()
        made = await runtime.db.call(
            runtime.db.webhooks.rotate, tenant_id, endpoint_id, grace_s, now_s
        )
        return JSONResponse(made, headers=_SECRET)

    @router.post("/{endpoint_id}/enable")
    async def enable(endpoint_id: str, request: Request) -> dict[str, Any]:
        tenant_id = await tenant_of(request)
        store, now_s = runtime.db.webhooks, runtime.clock.now_s()
        shown = await runtime.db.call(store.enable, tenant_id, endpoint_id, now_s)
        runtime.webhooks.wake()
        return shown


def _add_delivery_routes(router: APIRouter, runtime: Runtime, tenant_of: TenantOf) -> None:
    @router.post("/{endpoint_id}/test")
    async def send_test(endpoint_id: str, request: Request) -> Response:
        tenant_id = await tenant_of(request)
        store, now_s = runtime.db.webhooks, runtime.clock.now_s()
        message = await runtime.db.call(store.send_test, tenant_id, endpoint_id, now_s)
        runtime.webhooks.wake()
        return JSONResponse({"message_id": message}, 202)

    @router.get("/{endpoint_id}/deliveries")
    async def list_deliveries(
        endpoint_id: str, request: Request, limit: _Limit = 50
    ) -> dict[str, Any]:
        tenant_id = await tenant_of(request)
        store = runtime.db.webhooks
        return {"data": await runtime.db.call(store.deliveries, tenant_id, endpoint_id, limit)}

    @router.post("/{endpoint_id}/deliveries/{message_id}/resend")
    async def resend(endpoint_id: str, message_id: str, request: Request) -> Response:
        tenant_id = await tenant_of(request)
        store, now_s = runtime.db.webhooks, runtime.clock.now_s()
        message_id = message_id.replace("\0", "")
        await runtime.db.call(store.resend, tenant_id, endpoint_id, message_id, now_s)
        runtime.webhooks.wake()
        return JSONResponse({"message_id": message_id}, 202)


async def _body(runtime: Runtime, request: Request) -> dict[str, Any]:
    values = await read_json(request, runtime.settings.max_body_bytes)
    if not isinstance(values, dict):
        raise InvalidInputError("body", "must be a JSON object")
    return values


def _parse(runtime: Runtime, values: dict[str, Any]) -> tuple[str, list[str]]:
    for name in values:
        if name not in ("url", "events"):
            raise InvalidInputError(name, "is not a supported parameter")
    url = values.get("url")
    if not isinstance(url, str):
        raise InvalidInputError("url", "is required, as a text")
    events = check_events(values.get("events", list(EVENT_TYPES)))
    return runtime.webhook_hosts.check_public("url", url), events


def _grace_s(values: dict[str, Any]) -> float:
    grace_s = values.get("grace_s", _DAY_S)
    if type(grace_s) not in (int, float) or not 0 <= grace_s <= _MAX_GRACE_S:
        raise InvalidInputError("grace_s", f"must be between 0 and {_MAX_GRACE_S:.0f}")
    return float(grace_s)
