"""LoRA adapters: /v1/adapters for a tenant's own, /admin/v1/adapters for the operator.

An adapter is announced with its file's SHA-256 and size, then the file is sent as it is.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import Field
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from airan.core.errors import InvalidInputError
from marketplace.adapters.adapter import Adapter, AdapterFormat, check_name, check_sha256
from marketplace.adapters.peft import check_config
from marketplace.gateway.bodies import Body, Id, Name, read_as
from marketplace.gateway.errors import ApiError
from marketplace.gateway.runtime import Runtime


class NewAdapter(Body):
    """An adapter whose file is to be sent next."""

    base: Id
    name: Annotated[str, Field(min_length=1, max_length=64)]
    format: AdapterFormat = "gguf"
    sha256: Annotated[str, Field(min_length=64, max_length=64)]
    size_bytes: Annotated[int, Field(ge=1, le=2**50)]
    config: dict[str, Any] | None = None
    """peft: what adapter_config.json has."""


class NewAdapterOf(NewAdapter):
    """The same, for a tenant or, without one, for all."""

    tenant: Name | None = None


def build_router(runtime: Runtime) -> APIRouter:
    """The routes under /v1/adapters and /admin/v1/adapters."""
    router = APIRouter()
    tenants = APIRouter(prefix="/v1/adapters", tags=["adapters"])
    checked = [Depends(runtime.door.check_admin)]
    admin = APIRouter(prefix="/admin/v1/adapters", tags=["admin"], dependencies=checked)
    _add_tenant_routes(tenants, runtime)
    _add_admin_routes(admin, runtime)
    router.include_router(tenants)
    router.include_router(admin)
    return router


def _add_tenant_routes(router: APIRouter, runtime: Runtime) -> None:
    async def own(request: Request, adapter_id: str) -> Adapter:
        tenant_id = (await runtime.door.authenticate(request, "files")).tenant_id
        return await runtime.db.call(runtime.db.adapters.get, adapter_id, tenant_id)

    @router.post("")
    async def create(request: Request) -> Response:
        tenant_id = (await runtime.door.authenticate(request, "files")).tenant_id
        body = await read_as(runtime, request, NewAdapter)
        return JSONResponse(_shown(runtime, await _create(runtime, body, tenant_id)), 201)

    @router.get("")
    async def list_adapters(request: Request) -> dict[str, Any]:
        tenant_id = (await runtime.door.authenticate(request, "files")).tenant_id
        await runtime.adapters.refresh()
        mine = [one for one in runtime.adapters if one.tenant_id == tenant_id]
        return {"object": "list", "data": _list(runtime, mine)}

    @router.get("/{adapter_id}")
    async def retrieve(adapter_id: str, request: Request) -> dict[str, Any]:
        return _shown(runtime, await own(request, adapter_id))

    @router.put("/{adapter_id}/content")
    async def send(adapter_id: str, request: Request) -> dict[str, Any]:
        adapter = await own(request, adapter_id)
        return _shown(runtime, await runtime.adapters.receive(adapter, _content(request)))

    @router.delete("/{adapter_id}")
    async def delete(adapter_id: str, request: Request) -> dict[str, Any]:
        await runtime.adapters.remove(await own(request, adapter_id))
        return {"id": adapter_id, "object": "adapter", "deleted": True}


def _add_admin_routes(router: APIRouter, runtime: Runtime) -> None:
    @router.post("")
    async def create_for(request: Request) -> Response:
        body = await read_as(runtime, request, NewAdapterOf)
        tenant_id = None
        if body.tenant is not None:
            tenant = await runtime.db.call(runtime.db.accounts.tenant, body.tenant)
            tenant_id = str(tenant["id"])
        adapter = await _create(runtime, body, tenant_id)
        return JSONResponse(_owned(runtime, adapter), 201)

    @router.get("")
    async def list_all(tenant: str | None = None) -> dict[str, Any]:
        await runtime.adapters.refresh()
        found = list(runtime.adapters)
        if tenant is not None:
            owner = await runtime.db.call(runtime.db.accounts.tenant, tenant)
            found = [one for one in found if one.tenant_id == owner["id"]]
        rows = [one for one in found if one.removed_s is None]
        return {"data": [_owned(runtime, one) for one in sorted(rows, key=_order)]}

    @router.put("/{adapter_id}/content")
    async def send_for(adapter_id: str, request: Request) -> dict[str, Any]:
        adapter = await runtime.db.call(runtime.db.adapters.get, adapter_id)
        return _owned(runtime, await runtime.adapters.receive(adapter, _content(request)))

    @router.delete("/{adapter_id}")
    async def delete_any(adapter_id: str) -> dict[str, Any]:
        await runtime.adapters.remove(await runtime.db.call(runtime.db.adapters.get, adapter_id))
        return {"id": adapter_id, "deleted": True}


async def _create(runtime: Runtime, body: NewAdapter, tenant_id: str | None) -> Adapter:
    check_name(body.base, body.name)
    config = None
    if body.format == "peft":
        if body.config is None:
            raise InvalidInputError("config", "is required for peft: adapter_config.json's content")
        config = check_config(body.config)
    elif body.config is not None:
        raise InvalidInputError("config", "belongs to the format peft only")
    adapter = Adapter(
        "lora-" + secrets.token_hex(12),
        tenant_id,
        body.base,
        body.name,
        body.format,
        check_sha256(body.sha256),
        body.size_bytes,
        config,
        state="pending",
        reason="",
        rank=None,
        created_s=runtime.clock.now_s(),
    )
    await runtime.adapters.add(adapter)
    return adapter


async def _content(request: Request) -> AsyncIterator[bytes]:
    try:
        async for piece in request.stream():
            yield piece
    except ClientDisconnect as error:
        raise ApiError(400, "The connection ended within the file.") from error


def _list(runtime: Runtime, adapters: list[Adapter]) -> list[dict[str, Any]]:
    there = [one for one in adapters if one.removed_s is None]
    return [_shown(runtime, one) for one in sorted(there, key=_order)]


def _order(adapter: Adapter) -> tuple[float, str]:
    return adapter.created_s, adapter.id


def _shown(runtime: Runtime, adapter: Adapter) -> dict[str, Any]:
    """An adapter as its tenant sees it."""
    engines = (engine.state for engine in runtime.dispatcher.pool.engines)
    return {
        "id": adapter.id,
        "object": "adapter",
        "model": adapter.model,
        "base": adapter.base,
        "name": adapter.name,
        "format": adapter.format,
        "sha256": adapter.sha256,
        "size_bytes": adapter.size_bytes,
        "state": adapter.state,
        "reason": adapter.reason or None,
        "rank": adapter.rank,
        "loaded": any(adapter.id in state.adapters for state in engines),
        "created_at": int(adapter.created_s),
    }


def _owned(runtime: Runtime, adapter: Adapter) -> dict[str, Any]:
    return _shown(runtime, adapter) | {"tenant_id": adapter.tenant_id}
