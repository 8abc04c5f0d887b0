"""A tenant's own view of its money and keys: usage, prices, account, invoices, keys, projects."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from airan.core.errors import InvalidInputError
from marketplace.billing.invoice import to_csv, usd_text
from marketplace.billing.quotes import TIERS
from marketplace.billing.spreadsheet import csv_of
from marketplace.gateway.bodies import KeyBody, Rotation, read_as, time_range
from marketplace.gateway.errors import not_allowed
from marketplace.gateway.runtime import Runtime
from marketplace.principal import Principal
from marketplace.store.statements import UsageQuery

Format = Literal["json", "csv", "pdf"]
Table = Literal["json", "csv"]
_SUMS = ("requests", "input_tokens", "output_tokens", "amount_micro_usd")
_MAX_GROUPS = 5


def build_router(runtime: Runtime) -> APIRouter:
    """The routes under /v1 that need the scopes billing:read and keys:write."""
    router = APIRouter(prefix="/v1", tags=["billing"])
    _add_money_routes(router, runtime)
    _add_key_routes(router, runtime)
    return router


def _add_money_routes(router: APIRouter, runtime: Runtime) -> None:
    @router.get("/usage")
    async def get_usage(request: Request, format: Table = "json") -> Response:
        """Query: start_time, end_time, bucket, group_by (repeated or with commas), format."""
        principal = await runtime.door.authenticate(request, "billing:read")
        who = (principal.tenant_id, principal.project_id)
        return await usage_response(runtime, request, who, format)

    @router.get("/prices")
    async def get_prices(request: Request) -> dict[str, Any]:
        """What a request would be quoted now, per 1,000 tokens."""
        principal = await runtime.door.authenticate(request, "billing:read")
        data = []
        for model in runtime.models_of(principal.tenant_id):
            for tier in TIERS:
                price = await runtime.dispatcher.desk.quote(model, tier)
                row = {
                    "model": model,
                    "tier": tier,
                    "input_micro_usd_per_1k": price.input_micro_usd_per_1k,
                    "output_micro_usd_per_1k": price.output_micro_usd_per_1k,
                }
                data.append(row)
        return {"object": "list", "data": data}

    @router.get("/account")
    async def get_account(request: Request) -> dict[str, Any]:
        """What is owed and prepaid, and how full the budgets and quotas are."""
        principal = _whole_tenant(await runtime.door.authenticate(request, "billing:read"))
        db, tenant_id = runtime.db, principal.tenant_id
        return {
            "object": "account",
            **await db.call(db.books.account, tenant_id),
            "budgets": await db.call(db.billing.budgets, tenant_id, runtime.clock.now_s()),
            "quotas": await db.call(db.billing.quotas, tenant_id),
        }

    @router.get("/invoices/{month}")
    async def get_invoice(month: str, request: Request, format: Format = "json") -> Response:
        principal = _whole_tenant(await runtime.door.authenticate(request, "billing:read"))
        return await invoice_response(runtime, principal.tenant_id, month, format)


def _add_key_routes(router: APIRouter, runtime: Runtime) -> None:
    @router.get("/projects")
    async def list_projects(request: Request) -> dict[str, Any]:
        principal = _whole_tenant(await runtime.door.authenticate(request, "keys:write"))
        rows = await runtime.db.call(runtime.db.accounts.list_projects, principal.tenant_id)
        return {"object": "list", "data": rows}

    @router.get("/keys")
    async def list_keys(request: Request) -> dict[str, Any]:
        principal = _whole_tenant(await runtime.door.authenticate(request, "keys:write"))
        rows = await runtime.db.call(runtime.db.keys.list, principal.tenant_id)
        return {"object": "list", "data": rows}

    @router.post("/keys")
    async def create_key(request: Request) -> Response:
        principal = _whole_tenant(await runtime.door.authenticate(request, "keys:write"))
        spec = (await read_as(runtime, request, KeyBody)).spec()
        if "keys:write" in spec.scopes and principal.user_id is None:
            # Else one that leaked could outlive its own end through its children.
            raise not_allowed("make keys that make keys; log in for that")
        create, now_s = runtime.db.keys.create, runtime.clock.now_s()
        made = await runtime.db.call(create, principal.tenant_id, spec, now_s)
        return JSONResponse(made, 201)

    @router.post("/keys/{key_id}/rotate")
    async def rotate_key(key_id: str, request: Request) -> Response:
        principal = _whole_tenant(await runtime.door.authenticate(request, "keys:write"))
        body = await read_as(runtime, request, Rotation)
        rotate, now_s = runtime.db.keys.rotate, runtime.clock.now_s()
        row = await runtime.db.call(rotate, key_id, body.grace_s, now_s, principal.tenant_id)
        runtime.door.forget_keys()
        return JSONResponse(row, 201)

    @router.delete("/keys/{key_id}")
    async def revoke_key(key_id: str, request: Request) -> dict[str, Any]:
        principal = _whole_tenant(await runtime.door.authenticate(request, "keys:write"))
        revoke, now_s = runtime.db.keys.revoke, runtime.clock.now_s()
        await runtime.db.call(revoke, key_id, now_s, principal.tenant_id)
        runtime.door.forget_keys()
        return {"id": key_id, "revoked": True}


async def usage_response(
    runtime: Runtime, request: Request, who: tuple[str | None, str | None], format: Table
) -> Response:
    """Usage and cost as the query's start_time, end_time, bucket and group_by ask for.

    `who`: tenant and project, None for all.

    Raises:
        InvalidInputError: one of these is wrong.
    """
    asked = request.query_params
    start_s, end_s = (_number(asked.get(name), name) for name in ("start_time", "end_time"))
    span = time_range(start_s, end_s, runtime.clock.now_s())
    groups = [name for text in asked.getlist("group_by") for name in text.split(",")]
    if len(groups) > _MAX_GROUPS:
        raise InvalidInputError("group_by", f"names at most {_MAX_GROUPS} columns")
    query = UsageQuery(*span, *who, asked.get("bucket"), tuple(dict.fromkeys(groups)))
    rows = await runtime.db.call(runtime.db.statements.usage, query)
    if format == "csv":
        columns = list(rows[0]) if rows else [*query.group_by, *_SUMS]
        headers = {"Content-Disposition": 'attachment; filename="usage.csv"'}
        text = csv_of(columns, rows)
        return Response(text, media_type="text/csv; charset=utf-8", headers=headers)
    total = sum(row["amount_micro_usd"] for row in rows)
    return JSONResponse(
        {
            "object": "list",
            "start_time": span[0],
            "end_time": span[1],
            "data": rows,
            "total_micro_usd": total,
            "total_usd": usd_text(total),
        }
    )


async def invoice_response(runtime: Runtime, tenant: str, month: str, format: Format) -> Response:
    """A month's invoice in the format wanted."""
    now_s = runtime.clock.now_s()
    invoice = await runtime.db.call(runtime.db.statements.invoice, tenant, month, now_s)
    if format == "json":
        return JSONResponse(invoice.to_dict())
    headers = {"Content-Disposition": f'attachment; filename="invoice-{invoice.number}.{format}"'}
    if format == "csv":
        return Response(to_csv(invoice), media_type="text/csv; charset=utf-8", headers=headers)
    # matplotlib's drawing holds the event loop up for too long.
    from marketplace.billing.invoice_pdf import to_pdf

    body = await asyncio.to_thread(to_pdf, invoice, runtime.settings.seller)
    return Response(body, media_type="application/pdf", headers=headers)


def _whole_tenant(principal: Principal) -> Principal:
    if principal.project_id is not None:
        raise not_allowed("see or change what belongs to the whole tenant: it is a project's")
    return principal


def _number(text: str | None, name: str) -> float | None:
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        raise InvalidInputError(name, "must be a Unix time in seconds") from None
