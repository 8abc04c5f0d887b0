"""`airan webhook`: where the marketplace tells tenants what happened."""

from __future__ import annotations

import time
from typing import Annotated, Any
from urllib.parse import quote

import typer

from airan.cli import context as cli_context
from airan.cli.market import admin
from airan.cli.output import console, emit_json, table

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Tenant = Annotated[str, typer.Argument(help="The tenant's name or id.")]

webhook_app = typer.Typer(
    help="Webhooks: signed by the Standard Webhooks rules.", no_args_is_help=True
)


def register(app: typer.Typer) -> None:
    """Adds this module's commands."""
    app.add_typer(webhook_app, name="webhook")


@webhook_app.command("create")
def create(
    context: typer.Context,
    tenant: Tenant,
    url: Annotated[str, typer.Argument(help="Where messages are posted to: https.")],
    event: Annotated[
        list[str] | None, typer.Option(help="A type of event; repeat it. Default: all.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Add an endpoint. Its signing secret is shown now and never again."""
    body: dict[str, Any] = {"url": url}
    if event:
        body["events"] = event
    made = admin(context, "POST", _path(tenant), body)
    if _wants_json(context, json):
        emit_json(made)
        return
    console.print(f"webhook {made['id']} gets {', '.join(made['events'])}")
    _print_secret(made)


@webhook_app.command("list")
def list_endpoints(context: typer.Context, tenant: Tenant, json: JsonFlag = False) -> None:
    """List a tenant's endpoints."""
    found = admin(context, "GET", _path(tenant))["data"]
    if _wants_json(context, json):
        emit_json(found)
        return
    rows = [(one["id"], one["url"], _state(one), " ".join(one["events"])) for one in found]
    table("Webhooks", ("id", "url", "state", "events"), rows)


@webhook_app.command("delete")
def delete(context: typer.Context, tenant: Tenant, endpoint: str, json: JsonFlag = False) -> None:
    """Delete an endpoint with what waits for it."""
    done = admin(context, "DELETE", _path(tenant, endpoint))
    _report(context, json, done, f"webhook {endpoint} is deleted")


@webhook_app.command("rotate")
def rotate(
    context: typer.Context,
    tenant: Tenant,
    endpoint: str,
    grace_s: Annotated[float, typer.Option(help="How long the old secret signs too.")] = 86_400.0,
    json: JsonFlag = False,
) -> None:
    """Give an endpoint a new secret; for a while messages are signed with both."""
    made = admin(context, "POST", _path(tenant, endpoint, "rotate"), {"grace_s": grace_s})
    if _wants_json(context, json):
        emit_json(made)
    else:
        _print_secret(made)


@webhook_app.command("enable")
def enable(context: typer.Context, tenant: Tenant, endpoint: str, json: JsonFlag = False) -> None:
    """Let an endpoint that was disabled have messages again."""
    done = admin(context, "POST", _path(tenant, endpoint, "enable"))
    _report(context, json, done, f"webhook {endpoint} is enabled")


@webhook_app.command("test")
def send_test(
    context: typer.Context, tenant: Tenant, endpoint: str, json: JsonFlag = False
) -> None:
    """Send an endpoint a message of the type webhook.test."""
    done = admin(context, "POST", _path(tenant, endpoint, "test"))
    _report(context, json, done, f"message {done['message_id']} is on its way")


@webhook_app.command("deliveries")
def list_deliveries(
    context: typer.Context, tenant: Tenant, endpoint: str, json: JsonFlag = False
) -> None:
    """Show what was sent to an endpoint, and what came of it."""
    found = admin(context, "GET", _path(tenant, endpoint, "deliveries"))["data"]
    if _wants_json(context, json):
        emit_json(found)
        return
    rows = [
        (one["message_id"], one["type"], one["state"], str(one["attempts"]), _last(one))
        for one in found
    ]
    table("Deliveries", ("message", "type", "state", "attempts", "last"), rows)


@webhook_app.command("resend")
def resend(
    context: typer.Context, tenant: Tenant, endpoint: str, message: str, json: JsonFlag = False
) -> None:
    """Send a message anew."""
    done = admin(context, "POST", _path(tenant, endpoint, "deliveries", message, "resend"))
    _report(context, json, done, f"message {message} is on its way")


def _path(tenant: str, *parts: str) -> str:
    return "/".join(
        [
            f"/admin/v1/tenants/{quote(tenant, safe='')}/webhooks",
            *(quote(p, safe="") for p in parts),
        ]
    )


def _state(endpoint: dict[str, Any]) -> str:
    reason = endpoint["reason"]
    return str(endpoint["state"]) + (f": {reason}" if reason else "")


def _last(delivery: dict[str, Any]) -> str:
    if not delivery["log"]:
        return ""
    last = delivery["log"][-1]
    moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(last["time_s"]))
    return f"{moment} {last['status'] or last['error']}"


def _print_secret(made: dict[str, Any]) -> None:
    console.print(f"{made['secret']}\n")
    console.print("[dim]It is shown this once. Receivers check signatures with it.[/]")


def _report(context: typer.Context, json: bool, done: Any, text: str) -> None:
    if _wants_json(context, json):
        emit_json(done)
    else:
        console.print(text)


def _wants_json(context: typer.Context, json: bool) -> bool:
    return json or cli_context.of(context).json
