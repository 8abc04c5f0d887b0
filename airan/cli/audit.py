"""`airan event` and `airan audit`: what happened, and who did what."""

from __future__ import annotations

import dataclasses
import json as json_module
import time
from typing import Annotated

import typer

from airan.cli.asking import JsonFlag, Limit, ask, wants_json
from airan.cli.output import console, emit_json, table
from orchestrator.api.client import ControlClient
from orchestrator.views import Event

event_app = typer.Typer(help="What happened at the orchestrator.", no_args_is_help=True)
audit_app = typer.Typer(help="Who changed what; for admins.", no_args_is_help=True)

After = Annotated[int, typer.Option(help="Only those with a higher number.", min=0)]


@event_app.command("list")
def list_events(
    context: typer.Context, after: After = 0, limit: Limit = 200, json: JsonFlag = False
) -> None:
    """List stored events, oldest first."""
    events = ask(context, lambda client: client.events(after, limit))
    if wants_json(context, json):
        emit_json(events)
        return
    for event in events:
        console.print(_line(event), markup=False)


@event_app.command("watch")
def watch_events(
    context: typer.Context,
    after: After = 0,
    count: Annotated[int | None, typer.Option(help="End after so many.", min=1)] = None,
    json: JsonFlag = False,
) -> None:
    """Print stored events, then live ones, until Ctrl-C; with --json one a line."""
    as_json = wants_json(context, json)

    async def watch(client: ControlClient) -> None:
        left = count
        async for event in client.watch_events(after):
            if as_json:
                typer.echo(json_module.dumps(dataclasses.asdict(event)))
            else:
                console.print(_line(event), markup=False)
            if left is not None:
                left -= 1
                if left == 0:
                    return

    ask(context, watch)


@audit_app.command("list")
def list_audit(
    context: typer.Context,
    after: After = 0,
    actor: Annotated[str, typer.Option(help="Only this one's.")] = "",
    method: Annotated[str, typer.Option(help="Only this one: PolicyService/SetPolicy, say.")] = "",
    limit: Limit = 200,
    json: JsonFlag = False,
) -> None:
    """List the changes asked for, refused ones too, oldest first."""
    entries = ask(context, lambda client: client.audit(after, limit, actor=actor, method=method))
    if wants_json(context, json):
        emit_json(entries)
        return
    rows = [
        (e.seq, _clock(e.time_s), e.actor, e.role, e.method, e.outcome, e.message or e.request)
        for e in entries
    ]
    table("Audit", ("no", "time", "who", "role", "method", "outcome", "what"), rows)


def _line(event: Event) -> str:
    return (
        f"{event.seq:>6}  {_clock(event.time_s)}  {event.severity:7}  {event.kind:20}"
        f"  {event.message}"
    )


def _clock(time_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time_s))
