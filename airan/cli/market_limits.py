"""`airan price`, `budget`, `quota`: what things cost, and how much of them a tenant gets."""

from __future__ import annotations

import time
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any

import typer

from airan.cli.market import JsonFlag, admin, wants_json, when
from airan.cli.output import console, emit_json, table
from airan.core.errors import InvalidInputError

price_app = typer.Typer(help="Prices, by model and tier.", no_args_is_help=True)
budget_app = typer.Typer(help="Budgets: how much may be spent.", no_args_is_help=True)
quota_app = typer.Typer(help="Quotas: how much may be asked for.", no_args_is_help=True)
_MICRO = 1_000_000
_Project = Annotated[str | None, typer.Option("--project", help="Id of one of its projects.")]
_Key = Annotated[str | None, typer.Option("--key", help="Id of one of its keys.")]
_Limit = Annotated[int | None, typer.Option(min=0)]


def register(app: typer.Typer) -> None:
    """Adds this module's commands."""
    app.add_typer(price_app, name="price")
    app.add_typer(budget_app, name="budget")
    app.add_typer(quota_app, name="quota")


@price_app.command("set")
def set_price(
    context: typer.Context,
    model: str,
    input_usd: Annotated[str, typer.Argument(help="USD per 1,000 input tokens.")],
    output_usd: Annotated[str, typer.Argument(help="USD per 1,000 output tokens.")],
    tier: Annotated[str, typer.Option(help="priority, default or flex.")] = "default",
    floor_percent: Annotated[
        float, typer.Option(min=0, max=100, help="flex: what a wholly free site asks of it.")
    ] = 100.0,
    in_hours: Annotated[float, typer.Option(min=0, help="When it begins to hold.")] = 0.0,
    json: JsonFlag = False,
) -> None:
    """Set a price. Jobs accepted before keep the price they were quoted."""
    body: dict[str, Any] = {
        "model": model,
        "tier": tier,
        "input_micro_usd_per_1k": micro(input_usd, "input_usd"),
        "output_micro_usd_per_1k": micro(output_usd, "output_usd"),
        "spot_floor_permille": round(floor_percent * 10),
    }
    if in_hours:
        body["valid_from_s"] = time.time() + in_hours * 3600
    made = admin(context, "POST", "/admin/v1/prices", body)
    if wants_json(context, json):
        emit_json(made)
    else:
        console.print(f"price {made['id']} holds from {when(made['valid_from_s'])}")


@price_app.command("list")
def list_prices(context: typer.Context, json: JsonFlag = False) -> None:
    """List the prices that were set, past and future ones too."""
    rows = admin(context, "GET", "/admin/v1/prices")["data"]
    if wants_json(context, json):
        emit_json(rows)
        return
    shown = [
        (
            str(row["id"]),
            row["model"],
            row["tier"],
            usd(row["input_micro_usd_per_1k"]),
            usd(row["output_micro_usd_per_1k"]),
            f"{row['spot_floor_permille'] / 10:g} %",
            when(row["valid_from_s"]),
            when(row["valid_until_s"]),
        )
        for row in rows
    ]
    columns = ("id", "model", "tier", "USD/1k in", "USD/1k out", "floor", "from", "until")
    table("Prices", columns, shown)


@price_app.command("withdraw")
def withdraw_price(context: typer.Context, price_id: int, json: JsonFlag = False) -> None:
    """End a price now, or one that is yet to hold before it does."""
    done = admin(context, "DELETE", f"/admin/v1/prices/{price_id}")
    if wants_json(context, json):
        emit_json(done)
    else:
        console.print(f"price {price_id} holds no longer")


@budget_app.command("set")
def set_budget(
    context: typer.Context,
    tenant: str,
    limit_usd: str,
    project: _Project = None,
    key: _Key = None,
    period: Annotated[str, typer.Option(help="day, month or total.")] = "month",
    soft: Annotated[bool, typer.Option("--soft", help="Raise alerts, refuse nothing.")] = False,
    json: JsonFlag = False,
) -> None:
    """Add a budget for a tenant, a project or a key."""
    body = {
        "tenant": tenant,
        **scope(project, key),
        "period": period,
        "limit_micro_usd": micro(limit_usd, "limit_usd"),
        "hard": not soft,
    }
    made = admin(context, "POST", "/admin/v1/budgets", body)
    if wants_json(context, json):
        emit_json(made)
    else:
        console.print(f"budget {made['id']} is set")


@budget_app.command("list")
def list_budgets(context: typer.Context, tenant: str, json: JsonFlag = False) -> None:
    """List a tenant's budgets and how full they are."""
    rows = admin(context, "GET", "/admin/v1/budgets", params={"tenant": tenant})["data"]
    if wants_json(context, json):
        emit_json(rows)
        return
    shown = [
        (
            row["id"],
            f"{row['scope']} {row['scope_id']}",
            row["period"],
            "hard" if row["hard"] else "soft",
            usd(row["limit_micro_usd"]),
            usd(row["spent_micro_usd"]),
            usd(row["reserved_micro_usd"]),
        )
        for row in rows
    ]
    columns = ("id", "of", "period", "kind", "USD", "spent", "set aside")
    table("Budgets", columns, shown)


@budget_app.command("drop")
def drop_budget(context: typer.Context, budget_id: str, json: JsonFlag = False) -> None:
    """Remove a budget."""
    done = admin(context, "DELETE", f"/admin/v1/budgets/{budget_id}")
    if wants_json(context, json):
        emit_json(done)
    else:
        console.print(f"budget {budget_id} is gone")


@quota_app.command("set")
def set_quota(
    context: typer.Context,
    tenant: str,
    project: _Project = None,
    key: _Key = None,
    requests_per_minute: _Limit = None,
    tokens_per_minute: _Limit = None,
    requests_per_day: _Limit = None,
    tokens_per_day: _Limit = None,
    concurrent_jobs: _Limit = None,
    json: JsonFlag = False,
) -> None:
    """Set all quotas of a tenant, a project or a key; what is not named is not limited."""
    body = {
        "tenant": tenant,
        **scope(project, key),
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
        "requests_per_day": requests_per_day,
        "tokens_per_day": tokens_per_day,
        "concurrent_jobs": concurrent_jobs,
    }
    made = admin(context, "PUT", "/admin/v1/quotas", body)
    if wants_json(context, json):
        emit_json(made)
    else:
        console.print(f"the quota of {made['scope']} {made['scope_id']} is set")


@quota_app.command("list")
def list_quotas(context: typer.Context, tenant: str, json: JsonFlag = False) -> None:
    """List a tenant's quotas."""
    rows = admin(context, "GET", "/admin/v1/quotas", params={"tenant": tenant})["data"]
    if wants_json(context, json):
        emit_json(rows)
        return
    names = ("requests_per_minute", "tokens_per_minute", "requests_per_day", "tokens_per_day")
    columns = (*names, "concurrent_jobs")
    shown = [
        (f"{row['scope']} {row['scope_id']}", *(row[name] for name in columns)) for row in rows
    ]
    table("Quotas", ("of", *(name.replace("_", " ") for name in columns)), shown)


def scope(project: str | None, key: str | None) -> dict[str, str | None]:
    """What a limit is for, as the admin API names it.

    Raises:
        InvalidInputError: both a project and a key are named.
    """
    if project and key:
        raise InvalidInputError("key", "name either a project or a key")
    if project:
        return {"scope": "project", "scope_id": project}
    return {"scope": "key", "scope_id": key} if key else {"scope": "tenant", "scope_id": None}


def micro(text: str, name: str) -> int:
    """USD as typed -> micro-USD, exactly.

    Raises:
        InvalidInputError: it is no amount, below zero, or has more than six decimals.
    """
    try:
        amount = Decimal(text) * _MICRO
    except InvalidOperation:
        amount = Decimal("NaN")
    if not amount.is_finite() or amount < 0 or amount != amount.to_integral_value():
        raise InvalidInputError(name, f"must be USD with up to six decimals, got {text!r}")
    return int(amount)


def usd(amount: int) -> str:
    """Micro-USD as exact USD."""
    sign = "-" if amount < 0 else ""
    return f"{sign}{abs(amount) // _MICRO}.{abs(amount) % _MICRO:06d}"
