"""`airan lease`: capacity lent to the marketplace."""

from __future__ import annotations

from typing import Annotated

import typer

from airan.cli.asking import JsonFlag, ask, wants_json
from airan.cli.output import console, emit_json, table

lease_app = typer.Typer(help="Capacity lent to the marketplace.", no_args_is_help=True)


@lease_app.command("list")
def list_leases(
    context: typer.Context,
    ended: Annotated[bool, typer.Option("--ended", help="Also those that ended.")] = False,
    json: JsonFlag = False,
) -> None:
    """List the leases."""
    leases = ask(context, lambda client: client.leases(include_ended=ended))
    if wants_json(context, json):
        emit_json(leases)
        return
    rows = [
        (lease.id, lease.holder, lease.profile, lease.sm_count, lease.state, lease.end_reason)
        for lease in leases
    ]
    table("Leases", ("id", "holder", "partition", "SMs", "state", "ended by"), rows)


@lease_app.command("revoke")
def revoke_lease(
    context: typer.Context,
    lease_id: Annotated[str, typer.Argument(help="See `airan lease list`.")],
    reason: Annotated[str, typer.Option(help="Why; shown and recorded.")],
    json: JsonFlag = False,
) -> None:
    """Take a partition back; its engine pauses and its jobs go on elsewhere."""
    lease = ask(context, lambda client: client.revoke_lease(lease_id, reason))
    if wants_json(context, json):
        emit_json(lease)
    elif lease.state == "ended":
        console.print(f"{lease.id} has ended: {lease.end_reason}")
    else:
        console.print(f"{lease.id} is {lease.state}: {lease.holder} has {lease.notice_ms} ms")
