"""Functions as NVCF manages them: /v2/nvcf/functions; those for everybody: /admin/v1/functions."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import JSONResponse, Response

from airan.core.errors import InvalidInputError
from marketplace.functions import Function, function_object, new_function_id, parse_function
from marketplace.gateway.errors import ApiError
from marketplace.gateway.idempotency import stable_id
from marketplace.gateway.invocations import MODEL_VERSION, find_function, not_found
from marketplace.gateway.reading import read_json
from marketplace.gateway.runtime import Runtime

_MAX_PRICE = 10**12


def build_router(runtime: Runtime) -> APIRouter:
    """The routes under /v2/nvcf/functions and /admin/v1/functions."""
    router = APIRouter()
    tenants = APIRouter(prefix="/v2/nvcf/functions", tags=["nvcf"])
    checked = [Depends(runtime.door.check_admin)]
    admin = APIRouter(prefix="/admin/v1/functions", tags=["admin"], dependencies=checked)
    _add_tenant_routes(tenants, runtime)
    _add_admin_routes(admin, runtime)
    router.include_router(tenants)
    router.include_router(admin)
    return router


def _add_tenant_routes(router: APIRouter, runtime: Runtime) -> None:
    @router.post("")
    async def create(request: Request) -> Response:
        tenant_id = (await runtime.door.authenticate(request)).tenant_id
        return await _create(runtime, request, tenant_id, _new_id(request))

    @router.post("/{function_id}/versions")
    async def create_version(function_id: str, request: Request) -> Response:
        tenant_id = (await runtime.door.authenticate(request)).tenant_id
        await _own(runtime, tenant_id, function_id)
        return await _create(runtime, request, tenant_id, function_id)

    @router.get("")
    async def list_functions(request: Request) -> dict[str, Any]:
        tenant_id = (await runtime.door.authenticate(request)).tenant_id
        found = await runtime.db.call(runtime.db.functions.versions, None, tenant_id)
        shown = await asyncio.gather(*(_shown(runtime, one) for one in found))
        return {"functions": [*map(_of_model, runtime.models_of(tenant_id)), *shown]}

    @router.get("/{function_id}/versions")
    async def list_versions(function_id: str, request: Request) -> dict[str, Any]:
        tenant_id = (await runtime.door.authenticate(request)).tenant_id
        found = await runtime.db.call(runtime.db.functions.versions, function_id, tenant_id)
        if not found:
            raise not_found(function_id)
        return {"functions": await asyncio.gather(*(_shown(runtime, one) for one in found))}

    @router.get("/{function_id}/versions/{version_id}")
    async def get_version(function_id: str, version_id: str, request: Request) -> dict[str, Any]:
        tenant_id = (await runtime.door.authenticate(request)).tenant_id
        function = await find_function(runtime, tenant_id, function_id, version_id)
        return {"function": await _shown(runtime, function)}

    @router.delete("/{function_id}/versions/{version_id}")
    async def delete_version(function_id: str, version_id: str, request: Request) -> Response:
        tenant_id = (await runtime.door.authenticate(request)).tenant_id
        function = await _own(runtime, tenant_id, function_id, version_id)
        return await _delete(runtime, function)


def _add_admin_routes(router: APIRouter, runtime: Runtime) -> None:
    @router.post("")
    async def create_public(request: Request) -> Response:
        return await _create(runtime, request, None, _new_id(request))

    @router.get("")
    async def list_public() -> dict[str, Any]:
        found = await runtime.db.call(runtime.db.functions.versions, None, None)
        shown = await asyncio.gather(*(_shown(runtime, one) for one in found))
        # The operator sees where they run.
        data = [one | {"url": function.url} for one, function in zip(shown, found, strict=True)]
        return {"data": data}

    @router.delete("/{function_id}/versions/{version_id}")
    async def delete_public(function_id: str, version_id: str) -> Response:
        return await _delete(runtime, await find_function(runtime, None, function_id, version_id))


async def _own(
    runtime: Runtime, tenant_id: str, function_id: str, version_id: str | None = None
) -> Function:
    function = await find_function(runtime, tenant_id, function_id, version_id)
    if function.tenant_id != tenant_id:
        raise ApiError(403, "Only the operator can change a public function.")
    return function


async def _create(
    runtime: Runtime, request: Request, tenant_id: str | None, function_id: str
) -> Response:
    values = await read_json(request, runtime.settings.max_body_bytes)
    price = runtime.settings.function_price_micro_usd
    if tenant_id is None and isinstance(values, dict):
        values = dict(values)
        price = _price(values.pop("priceMicroUsdPerInvocation", price))
    row = parse_function(values, frozenset(runtime.models_of(tenant_id)), runtime.function_hosts)
    row |= {
        "id": function_id,
        "version_id": new_function_id(),
        "tenant_id": tenant_id,
        "price_micro_usd": price,
        "created_s": runtime.clock.now_s(),
    }
    limit = runtime.settings.max_functions
    function = await runtime.db.call(runtime.db.functions.add, row, limit)
    return JSONResponse({"function": await _shown(runtime, function)}, 201)


async def _delete(runtime: Runtime, function: Function) -> Response:
    functions, now_s = runtime.db.functions, runtime.clock.now_s()
    await runtime.db.call(functions.delete, function.version_id, now_s)
    return JSONResponse({"function": function_object(function, "DELETED")})


async def _shown(runtime: Runtime, function: Function) -> dict[str, Any]:
    well = function.model in runtime.models_of(function.tenant_id) or (
        function.url is not None and await runtime.functions.healthy(function)
    )
    return function_object(function, "ACTIVE" if well else "ERROR")


def _of_model(name: str) -> dict[str, Any]:
    shown = {"id": name, "versionId": MODEL_VERSION, "name": name, "status": "ACTIVE"}
    return shown | {"public": True, "model": name}


def _new_id(request: Request) -> str:
    known = stable_id(request, "function")
    return new_function_id() if known is None else str(known)


def _price(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= _MAX_PRICE:
        text = f"must be an integer between 0 and {_MAX_PRICE}"
        raise InvalidInputError("priceMicroUsdPerInvocation", text)
    return value
