"""`airan tenant policy`, `tenant peer`, `peer list`: federation, over the admin API."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import quote

import typer

from airan.cli.market import JsonFlag, admin, tenant_app, wants_json
from airan.cli.output import console, emit_json, table

peer_app = typer.Typer(help="Peers that take what overflows.", no_args_is_help=True)
Tenant = Annotated[str, typer.Argument(help="The tenant's name or id.")]


def register(app: typer.Typer) -> None:
    """Adds this module's commands."""
    app.add_typer(peer_app, name="peer")
    tenant_app.command("policy")(set_policy)
    tenant_app.command("peer")(set_peer)


def set_policy(
    context: typer.Context,
    tenant: Tenant,
    policy: Annotated[
        str, typer.Argument(help="`stay`, `regions=eu,us` or `regions=eu; needs=no-training`.")
    ],
    json: JsonFlag = False,
) -> None:
    """Set where a tenant's prompts may go when this site is full."""
    path = f"/admin/v1/tenants/{quote(tenant, safe='')}/policy"
    row = admin(context, "PUT", path, {"policy": policy})
    if wants_json(context, json):
        emit_json(row)
    else:
        console.print(f"tenant {row['name']} has the data policy: {row['data_policy']}")


def set_peer(
    context: typer.Context,
    tenant: Tenant,
    flag: Annotated[Literal["on", "off"], typer.Argument(help="Whether it is another site.")],
    json: JsonFlag = False,
) -> None:
    """Say whether a tenant is another site: its work runs in flex, while compute is free."""
    path = f"/admin/v1/tenants/{quote(tenant, safe='')}/peer"
    row = admin(context, "PUT", path, {"peer": flag == "on"})
    if wants_json(context, json):
        emit_json(row)
    else:
        console.print(f"tenant {row['name']} is {'a' if row['peer'] else 'no'} peer")


@peer_app.command("list")
def list_peers(context: typer.Context, json: JsonFlag = False) -> None:
    """List the peers, how they are, and what they have cost."""
    found = admin(context, "GET", "/admin/v1/peers")
    if wants_json(context, json):
        emit_json(found)
        return
    columns = ("peer", "model", "region", "data_policy", "phase", "running", "max_concurrent")
    rows = [
        [" ".join(one[key]) if key == "data_policy" else one[key] for key in columns]
        for one in found["data"]
    ]
    table(f"Peers of {found['site']}", columns, [tuple(row) for row in rows])
    costs = ("peer", "model", "requests", "unheard", "input_tokens", "output_tokens", "cost_usd")
    table("What they cost", costs, [tuple(one[key] for key in costs) for one in found["costs"]])
