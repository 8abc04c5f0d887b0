"""The operator's interface to money: prices, budgets, quotas, payments, invoices, the books."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import Field
from starlette.responses import JSONResponse, Response

from marketplace.billing.limits import DEFAULT_ALERTS, BudgetSpec, LimitScope, Period, QuotaSpec
from marketplace.gateway.billing_api import Table, invoice_response, usage_response
from marketplace.gateway.bodies import Body, Id, MicroUsd, Name, Time, read_as, time_range
from marketplace.gateway.runtime import Runtime
from marketplace.money import Price
from marketplace.store.prices import PriceSpec

_Count = Annotated[int, Field(ge=0, lt=2**31)]


class NewPrice(Body):
    """A price per 1,000 tokens."""

    model: Id
    tier: Literal["priority", "default", "flex"] = "default"
    input_micro_usd_per_1k: MicroUsd
    output_micro_usd_per_1k: MicroUsd
    spot_floor_permille: Annotated[int, Field(ge=0, le=1000)] = 1000
    valid_from_s: Time | None = None


class NewBudget(Body):
    """A budget; `scope_id` is the project's or key's."""

    tenant: Name
    scope: LimitScope = "tenant"
    scope_id: Id | None = None
    period: Period = "month"
    limit_micro_usd: MicroUsd
    hard: bool = True
    alerts_percent: list[int] = Field(default_factory=lambda: list(DEFAULT_ALERTS))


class NewQuota(Body):
    """All limits of a tenant, project or key; null, or left out: none."""

    tenant: Name
    scope: LimitScope = "tenant"
    scope_id: Id | None = None
    requests_per_minute: _Count | None = None
    tokens_per_minute: _Count | None = None
    requests_per_day: _Count | None = None
    tokens_per_day: _Count | None = None
    concurrent_jobs: _Count | None = None


class Payment(Body):
    """Money for a tenant's account. `reference` tells payments apart: a repeated one is ignored."""

    tenant: Name
    amount_micro_usd: MicroUsd
    reference: Name


class Refund(Body):
    """Money back for a job; without an amount, all that is left of its price."""

    job_id: Name
    amount_micro_usd: MicroUsd | None = None
    reference: Name


def build_router(runtime: Runtime) -> APIRouter:
    """The routes under /admin/v1 that deal with money; all want the admin key."""
    router = APIRouter(
        prefix="/admin/v1", tags=["admin"], dependencies=[Depends(runtime.door.check_admin)]
    )
    _add_price_routes(router, runtime)
    _add_limit_routes(router, runtime)
    _add_book_routes(router, runtime)
    _add_statement_routes(router, runtime)
    return router


def _add_price_routes(router: APIRouter, runtime: Runtime) -> None:
    @router.get("/prices")
    async def list_prices(model: str | None = None) -> dict[str, Any]:
        return {"data": await runtime.db.call(runtime.db.prices.list, model)}

    @router.post("/prices")
    async def set_price(request: Request) -> Response:
        body = await read_as(runtime, request, NewPrice)
        now_s = runtime.clock.now_s()
        spec = PriceSpec(
            body.model,
            body.tier,
            Price(body.input_micro_usd_per_1k, body.output_micro_usd_per_1k),
            now_s if body.valid_from_s is None else body.valid_from_s,
            body.spot_floor_permille,
        )
        row = await runtime.db.call(runtime.db.prices.set, spec, now_s)
        await runtime.dispatcher.desk.refresh()
        return JSONResponse(row, 201)

    @router.delete("/prices/{price_id}")
    async def withdraw_price(price_id: Annotated[int, Path(ge=0, lt=2**31)]) -> dict[str, Any]:
        await runtime.db.call(runtime.db.prices.withdraw, price_id, runtime.clock.now_s())
        await runtime.dispatcher.desk.refresh()
        return {"id": price_id, "withdrawn": True}


def _add_limit_routes(router: APIRouter, runtime: Runtime) -> None:
    @router.get("/budgets")
    async def list_budgets(tenant: str) -> dict[str, Any]:
        now_s = runtime.clock.now_s()
        return {"data": await runtime.db.call(runtime.db.billing.budgets, tenant, now_s)}

    @router.post("/budgets")
    async def set_budget(request: Request) -> Response:
        body = await read_as(runtime, request, NewBudget)
        spec = BudgetSpec(
            body.scope,
            body.scope_id or "",
            body.period,
            body.limit_micro_usd,
            body.hard,
            tuple(body.alerts_percent),
        )
        now_s = runtime.clock.now_s()
        row = await runtime.db.call(runtime.db.billing.set_budget, body.tenant, spec, now_s)
        await runtime.dispatcher.desk.refresh()
        return JSONResponse(row, 201)

    @router.delete("/budgets/{budget_id}")
    async def drop_budget(budget_id: str) -> dict[str, Any]:
        await runtime.db.call(runtime.db.billing.drop_budget, budget_id)
        return {"id": budget_id, "deleted": True}

    @router.get("/quotas")
    async def list_quotas(tenant: str) -> dict[str, Any]:
        return {"data": await runtime.db.call(runtime.db.billing.quotas, tenant)}

    @router.put("/quotas")
    async def set_quota(request: Request) -> dict[str, Any]:
        body = await read_as(runtime, request, NewQuota)
        values = body.model_dump(exclude={"tenant"}) | {"scope_id": body.scope_id or ""}
        row = await runtime.db.call(runtime.db.billing.set_quota, body.tenant, QuotaSpec(**values))
        await runtime.dispatcher.desk.refresh()
        return row


def _add_book_routes(router: APIRouter, runtime: Runtime) -> None:
    books = "/books"

    @router.post("/payments")
    async def pay(request: Request) -> Response:
        body = await read_as(runtime, request, Payment)
        asked = (body.tenant, body.amount_micro_usd, body.reference, runtime.clock.now_s())
        return JSONResponse(await runtime.db.call(runtime.db.books.pay, *asked), 201)

    @router.post("/credits")
    async def credit(request: Request) -> Response:
        body = await read_as(runtime, request, Payment)
        asked = (body.tenant, body.amount_micro_usd, body.reference, runtime.clock.now_s())
        return JSONResponse(await runtime.db.call(runtime.db.books.credit, *asked), 201)

    @router.post("/refunds")
    async def refund(request: Request) -> Response:
        body = await read_as(runtime, request, Refund)
        asked = (body.job_id, body.amount_micro_usd, body.reference, runtime.clock.now_s())
        return JSONResponse(await runtime.db.call(runtime.db.books.refund, *asked), 201)

    @router.get(books + "/account")
    async def get_account(tenant: str) -> dict[str, Any]:
        return await runtime.db.call(runtime.db.books.account, tenant)

    @router.get(books + "/transactions")
    async def list_transactions(
        tenant: str | None = None,
        start_time: float | None = None,
        end_time: float | None = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 1000,
    ) -> dict[str, Any]:
        span = time_range(start_time, end_time, runtime.clock.now_s())
        find = runtime.db.books.transactions
        return {"data": await runtime.db.call(find, tenant, *span, limit)}

    @router.get(books + "/check")
    async def check_books() -> dict[str, Any]:
        """Replays the whole log: `problems` is empty where all agrees."""
        return await runtime.db.call(runtime.db.books.check)


def _add_statement_routes(router: APIRouter, runtime: Runtime) -> None:
    @router.get("/costs")
    async def get_costs(
        request: Request, tenant: str | None = None, format: Table = "json"
    ) -> Response:
        return await usage_response(runtime, request, (tenant, None), format)

    @router.get("/invoices/{tenant}/{month}")
    async def get_invoice(
        tenant: str, month: str, format: Literal["json", "csv", "pdf"] = "json"
    ) -> Response:
        return await invoice_response(runtime, tenant, month, format)
