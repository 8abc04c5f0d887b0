"""`airan books`, `invoice`, `cost`: payments, credits, refunds, and what is owed."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Annotated, Any

import typer

from airan.cli.market import JsonFlag, admin, wants_json, when
from airan.cli.market_limits import micro, usd
from airan.cli.output import console, emit_json, table
from airan.core.errors import InvalidInputError

books_app = typer.Typer(help="The books: double entry, append-only.", no_args_is_help=True)
_Reference = Annotated[
    str | None, typer.Option(help="Tells this one apart: repeated, it changes nothing.")
]


def register(app: typer.Typer) -> None:
    """Adds this module's commands."""
    app.add_typer(books_app, name="books")
    app.command()(invoice)
    app.command()(cost)


@books_app.command("pay")
def pay(
    context: typer.Context,
    tenant: str,
    amount_usd: str,
    reference: _Reference = None,
    json: JsonFlag = False,
) -> None:
    """Book a payment of a tenant's."""
    _receive(context, "payments", (tenant, amount_usd, reference), json)


@books_app.command("credit")
def credit(
    context: typer.Context,
    tenant: str,
    amount_usd: str,
    reference: _Reference = None,
    json: JsonFlag = False,
) -> None:
    """Give a tenant money to spend, at the site's cost."""
    _receive(context, "credits", (tenant, amount_usd, reference), json)


@books_app.command("refund")
def refund(
    context: typer.Context,
    job_id: str,
    amount_usd: Annotated[str | None, typer.Option(help="All that is left, if not given.")] = None,
    reference: _Reference = None,
    json: JsonFlag = False,
) -> None:
    """Give back what a job cost, or a part of it."""
    body: dict[str, Any] = {"job_id": job_id, "reference": reference or uuid.uuid4().hex}
    if amount_usd is not None:
        body["amount_micro_usd"] = micro(amount_usd, "amount_usd")
    _tell(context, admin(context, "POST", "/admin/v1/refunds", body), json)


@books_app.command("account")
def account(context: typer.Context, tenant: str, json: JsonFlag = False) -> None:
    """Show what a tenant owes and has paid ahead."""
    found = admin(context, "GET", "/admin/v1/books/account", params={"tenant": tenant})
    if wants_json(context, json):
        emit_json(found)
        return
    console.print(f"owed    {usd(found['owed_micro_usd'])} USD")
    console.print(f"prepaid {usd(found['prepaid_micro_usd'])} USD")


@books_app.command("log")
def log(
    context: typer.Context,
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None,
    json: JsonFlag = False,
) -> None:
    """Show the transactions of the last 30 days with their entries."""
    params = {"tenant": tenant} if tenant else None
    rows = admin(context, "GET", "/admin/v1/books/transactions", params=params)["data"]
    if wants_json(context, json):
        emit_json(rows)
        return
    shown = [
        (when(row["time_s"]), row["id"], entry["account"], usd(entry["amount_micro_usd"]))
        for row in rows
        for entry in row["entries"]
    ]
    table("Transactions", ("time", "transaction", "account", "USD"), shown)


@books_app.command("check")
def check(context: typer.Context, json: JsonFlag = False) -> None:
    """Replay the whole log and compare: balances, bills, sums. Exits with 1 if they differ."""
    found = admin(context, "GET", "/admin/v1/books/check")
    if wants_json(context, json):
        emit_json(found)
    else:
        rows = [(name, usd(amount)) for name, amount in found["balances"].items()]
        table(f"Balances from {found['entries']} entries", ("account", "USD"), rows)
        for problem in found["problems"]:
            console.print(f"[red]{problem}[/]")
        if not found["problems"]:
            console.print("all agrees")
    if found["problems"]:
        raise typer.Exit(1)


def invoice(
    context: typer.Context,
    tenant: str,
    month: Annotated[str, typer.Argument(help="Such as 2026-11.")],
    out: Annotated[Path, typer.Option(help="A file that ends in .pdf, .csv or .json.")],
) -> None:
    """Write a tenant's invoice for a month."""
    kind = out.suffix.removeprefix(".")
    if kind not in ("pdf", "csv", "json"):
        raise InvalidInputError("out", "must end in .pdf, .csv or .json")
    path = f"/admin/v1/invoices/{tenant}/{month}"
    body = admin(context, "GET", path, params={"format": kind}, raw=True)
    out.write_bytes(body)
    console.print(f"{out} holds the invoice of {tenant} for {month}")


def cost(
    context: typer.Context,
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None,
    by: Annotated[
        str, typer.Option(help="tenant, project, key, model, tier; with commas.")
    ] = "tenant,model,tier",
    bucket: Annotated[
        str | None, typer.Option(help="minute, hour, day or month; else all in one.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Show what was used and billed in the last 30 days."""
    params = {"group_by": by} | ({"tenant": tenant} if tenant else {})
    if bucket is not None:
        params["bucket"] = bucket
    rows = admin(context, "GET", "/admin/v1/costs", params=params)["data"]
    if wants_json(context, json):
        emit_json(rows)
        return
    columns = [*(["start_s"] if bucket else []), *by.split(",")]
    counts = ("requests", "input_tokens", "output_tokens")
    shown = [
        (
            *(when(row[name]) if name == "start_s" else row[name] for name in columns),
            *(row[name] for name in counts),
            usd(row["amount_micro_usd"]),
        )
        for row in rows
    ]
    names = ("time" if name == "start_s" else name for name in columns)
    table("Cost", (*names, "requests", "input tokens", "output tokens", "USD"), shown)


def _receive(
    context: typer.Context, what: str, money: tuple[str, str, str | None], json: bool
) -> None:
    tenant, amount_usd, reference = money
    body = {
        "tenant": tenant,
        "amount_micro_usd": micro(amount_usd, "amount_usd"),
        "reference": reference or uuid.uuid4().hex,
    }
    _tell(context, admin(context, "POST", f"/admin/v1/{what}", body), json)


def _tell(context: typer.Context, made: dict[str, Any], json: bool) -> None:
    if wants_json(context, json):
        emit_json(made)
    else:
        console.print(f"{usd(made['amount_micro_usd'])} USD are booked as {made['id']}")
