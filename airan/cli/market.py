"""`airan tenant`, `key`, `usage`: the marketplace's side, over its admin API."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import httpx
import typer

from airan.cli import context as cli_context
from airan.cli.output import console, emit_json, table
from airan.core.errors import AuthError, InvalidInputError, NotFoundError, UnavailableError

_DAY_S = 86_400.0
_TIMEOUT_S = 15.0
_FILE_TIMEOUT_S = 600.0
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON.")]

tenant_app = typer.Typer(help="Tenants: who pays.", no_args_is_help=True)
key_app = typer.Typer(help="API keys: shown once, stored hashed.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Adds this module's commands."""
    app.add_typer(tenant_app, name="tenant")
    app.add_typer(key_app, name="key")
    app.command()(usage)


@tenant_app.command("create")
def create_tenant(
    context: typer.Context,
    name: str,
    terms: Annotated[str, typer.Option(help="postpaid or prepaid.")] = "postpaid",
    json: JsonFlag = False,
) -> None:
    """Add a tenant."""
    made = admin(context, "POST", "/admin/v1/tenants", {"name": name, "terms": terms})
    if wants_json(context, json):
        emit_json(made)
    else:
        console.print(f"tenant {made['name']} has the id {made['id']}")


@tenant_app.command("list")
def list_tenants(context: typer.Context, json: JsonFlag = False) -> None:
    """List the tenants."""
    tenants = admin(context, "GET", "/admin/v1/tenants")["data"]
    if wants_json(context, json):
        emit_json(tenants)
    else:
        rows = [(t["id"], t["name"], t["terms"], t["weight"], t["data_policy"]) for t in tenants]
        table("Tenants", ("id", "name", "terms", "weight", "data policy"), rows)


@tenant_app.command("weight")
def set_weight(
    context: typer.Context,
    tenant: Annotated[str, typer.Argument(help="The tenant's name or id.")],
    weight: Annotated[int, typer.Argument(help="1 to 1000; every tenant begins with 1.")],
    json: JsonFlag = False,
) -> None:
    """Set a tenant's part of the engines while several tenants wait."""
    path = f"/admin/v1/tenants/{quote(tenant, safe='')}/weight"
    row = admin(context, "PUT", path, {"weight": weight})
    if wants_json(context, json):
        emit_json(row)
    else:
        console.print(f"tenant {row['name']} has the weight {row['weight']}")


@key_app.command("create")
def create_key(
    context: typer.Context,
    tenant: Annotated[str, typer.Argument(help="The tenant's name or id; made if new.")],
    name: Annotated[str, typer.Option(help="What the key is for.")] = "default",
    project: Annotated[str | None, typer.Option(help="Name or id of a project.")] = None,
    scope: Annotated[
        list[str] | None,
        typer.Option(help="inference, files, billing:read or keys:write; repeatable."),
    ] = None,
    model: Annotated[list[str] | None, typer.Option(help="Only this model; repeatable.")] = None,
    days: Annotated[float | None, typer.Option(min=0.0, help="Days until its end.")] = None,
    json: JsonFlag = False,
) -> None:
    """Make an API key. It is shown now and never again."""
    body: dict[str, Any] = {"name": name, "project": project, "models": model or None}
    if scope:
        body["scopes"] = scope
    if days is not None:
        body["expires_s"] = time.time() + days * _DAY_S
    tenants = admin(context, "GET", "/admin/v1/tenants")["data"]
    known = [t["id"] for t in tenants if tenant in (t["id"], t["name"])]
    if not known:
        known = [admin(context, "POST", "/admin/v1/tenants", {"name": tenant})["id"]]
    made = admin(context, "POST", "/admin/v1/keys", body | {"tenant": known[0]})
    if wants_json(context, json):
        emit_json(made)
        return
    _show_key(context, made)


@key_app.command("list")
def list_keys(context: typer.Context, json: JsonFlag = False) -> None:
    """List the keys by their first letters."""
    keys = admin(context, "GET", "/admin/v1/keys")["data"]
    if wants_json(context, json):
        emit_json(keys)
        return
    rows = [
        (
            k["id"],
            k["tenant"],
            k["name"],
            k["prefix"],
            " ".join(k["scopes"]),
            _state(k),
            when(k["last_used_s"]),
        )
        for k in keys
    ]
    columns = ("id", "tenant", "name", "starts with", "scopes", "state", "last used")
    table("API keys", columns, rows)


@key_app.command("rotate")
def rotate_key(
    context: typer.Context,
    key_id: str,
    grace_h: Annotated[
        float, typer.Option("--grace-hours", min=0.0, help="How long the old one stays valid.")
    ] = 24.0,
    json: JsonFlag = False,
) -> None:
    """Make a key that replaces another, which stays valid for a grace time."""
    made = admin(context, "POST", f"/admin/v1/keys/{key_id}/rotate", {"grace_s": grace_h * 3600})
    if wants_json(context, json):
        emit_json(made)
        return
    _show_key(context, made)
    console.print(f"\n[dim]The old one is valid until {when(made['old_expires_s'])}.[/]")


@key_app.command("revoke")
def revoke_key(context: typer.Context, key_id: str, json: JsonFlag = False) -> None:
    """Make a key invalid at once."""
    done = admin(context, "DELETE", f"/admin/v1/keys/{key_id}")
    if wants_json(context, json):
        emit_json(done)
    else:
        console.print(f"key {key_id} is revoked")


def usage(
    context: typer.Context,
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None,
    json: JsonFlag = False,
) -> None:
    """Show what tenants used and owe."""
    params = {"tenant": tenant} if tenant else None
    rows = admin(context, "GET", "/admin/v1/usage", params=params)["data"]
    if wants_json(context, json):
        emit_json(rows)
        return
    table(
        "Usage",
        ("tenant", "requests", "input tokens", "output tokens", "USD"),
        [
            (r["tenant"], r["requests"], r["input_tokens"], r["output_tokens"], r["usd"])
            for r in rows
        ],
    )


def admin(
    context: typer.Context,
    method: str,
    path: str,
    body: dict[str, Any] | None = None,
    params: dict[str, str] | None = None,
    *,
    raw: bool = False,
) -> Any:
    """Calls the gateway's admin API; gives the JSON decoded, or with `raw` the bytes.

    Raises:
        UnavailableError: the gateway does not answer.
        AuthError, NotFoundError, InvalidInputError: it refused, as its message says.
    """
    response = _asked(context, method, path, json=body, params=params)
    return response.content if raw else response.json()


def send_file(context: typer.Context, path: str, file: Path) -> Any:
    """Sends a file to the gateway's admin API, as it is; gives the JSON decoded.

    Raises:
        UnavailableError: the gateway does not answer.
        AuthError, NotFoundError, InvalidInputError: it refused, as its message says.
    """
    with file.open("rb") as content:
        return _asked(context, "PUT", path, content=content, timeout=_FILE_TIMEOUT_S).json()


def _asked(context: typer.Context, method: str, path: str, **asked: Any) -> httpx.Response:
    runtime = cli_context.of(context).site()
    headers = {"Authorization": f"Bearer {runtime.admin_key}"}
    asked = {"timeout": _TIMEOUT_S, "trust_env": False} | asked
    try:
        response = httpx.request(method, runtime.gateway_url + path, headers=headers, **asked)
    except httpx.HTTPError as error:
        raise UnavailableError(
            f"the gateway at {runtime.gateway_url} does not answer: {error}",
            remedy="it may be restarting; see `airan status`",
        ) from error
    if response.is_success:
        return response
    message = _message(response)
    if response.status_code in (401, 403):
        raise AuthError(message, remedy="run as the user that started the site")
    if response.status_code == 404:
        raise NotFoundError(message)
    if response.status_code >= 500:
        raise UnavailableError(message, remedy="try again; see `airan status`")
    raise InvalidInputError(path.rsplit("/", 1)[-1], message)


def _message(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {response.status_code}: {response.text[:200]}"


def wants_json(context: typer.Context, json: bool) -> bool:
    return json or cli_context.of(context).json


def when(time_s: float | None) -> str:
    """A Unix time for people, in UTC; `-` for none."""
    if time_s is None:
        return "-"
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _show_key(context: typer.Context, made: dict[str, Any]) -> None:
    runtime = cli_context.of(context).site()
    console.print(f"{made['key']}\n")
    console.print("[dim]It is shown this once. Use it so:[/]")
    console.print(f"  export OPENAI_BASE_URL={runtime.gateway_url}/v1 OPENAI_API_KEY=…")


def _state(key: dict[str, Any]) -> str:
    if key["revoked_s"] is not None:
        return "revoked"
    if key["expires_s"] is None:
        return "valid"
    over = key["expires_s"] <= time.time()
    return "over" if over else f"valid until {when(key['expires_s'])}"
