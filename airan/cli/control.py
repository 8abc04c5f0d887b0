"""`airan gpu`, `cell`, `policy`, `plan`, `lease`: the orchestrator's side, over gRPC."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Annotated, Any, TypeVar

import typer

from airan.cli import context as cli_context
from airan.cli.output import console, emit_json, table
from orchestrator.api.client import ControlClient
from orchestrator.views import PlanView, PolicyChange

Result = TypeVar("Result")
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON.")]


policy_app = typer.Typer(help="How the GPUs are divided.", no_args_is_help=True)
plan_app = typer.Typer(help="Stored plans.", no_args_is_help=True)
lease_app = typer.Typer(help="Capacity lent to the marketplace.", no_args_is_help=True)
cell_app = typer.Typer(help="Radio cells.", no_args_is_help=True)
gpu_app = typer.Typer(help="GPUs and their partitions.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Adds this module's commands."""
    app.add_typer(gpu_app, name="gpu")
    app.add_typer(cell_app, name="cell")
    app.add_typer(policy_app, name="policy")
    app.add_typer(plan_app, name="plan")
    app.add_typer(lease_app, name="lease")


@gpu_app.command("list")
def list_gpus(context: typer.Context, json: JsonFlag = False) -> None:
    """List every GPU with its partitions."""
    status = ask(context, lambda client: client.status())
    if _wants_json(context, json):
        emit_json(status.gpus)
        return
    for gpu in status.gpus:
        label = "SIMULATED " if gpu.simulated else ""
        rows = [
            (p.profile, p.role, f"{p.start}..{p.start + p.size - 1}", p.sm_count, p.state)
            for p in gpu.partitions
        ]
        title = f"{label}{gpu.name} {gpu.uuid}, {gpu.sm_count} SMs"
        table(title, ("partition", "role", "memory slices", "SMs", "state"), rows)


@cell_app.command("list")
def list_cells(context: typer.Context, json: JsonFlag = False) -> None:
    """List the cells with their load."""
    cells = ask(context, lambda client: client.cells())
    if _wants_json(context, json):
        emit_json(cells)
        return
    rows = [
        (c.id, c.load, c.n_prb, "decoded on this machine" if c.live else "simulated load")
        for c in cells
    ]
    table("Cells", ("id", "load", "PRBs", "slots"), rows)


@policy_app.command("get")
def get_policy(context: typer.Context, json: JsonFlag = False) -> None:
    """Show the policy in force."""
    policy = ask(context, lambda client: client.get_policy())
    if _wants_json(context, json):
        emit_json(policy)
    else:
        table("Policy", ("key", "value"), list(vars(policy).items()))


@policy_app.command("set")
def set_policy(
    context: typer.Context,
    kind: Annotated[str, typer.Argument(help="static or demand.")],
    ran_share: Annotated[float | None, typer.Option(help="static: RAN's part.")] = None,
    headroom: Annotated[float | None, typer.Option(help="demand: kept above forecast.")] = None,
    min_ran_share: Annotated[float | None, typer.Option(help="RAN never gets less.")] = None,
    min_lease_s: Annotated[float | None, typer.Option(help="demand: shortest lease.")] = None,
    notice_ms: Annotated[int | None, typer.Option(help="Time a holder gets to pause.")] = None,
    dry_run: Annotated[bool, typer.Option(help="Only show what it would lead to.")] = False,
    json: JsonFlag = False,
) -> None:
    """Put a policy in force; options that are left out keep their value."""
    given = {
        "ran_share": ran_share,
        "headroom": headroom,
        "min_ran_share": min_ran_share,
        "min_lease_s": min_lease_s,
        "notice_ms": notice_ms,
    }
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}

    async def change(client: ControlClient) -> PolicyChange:
        policy = replace(await client.get_policy(), kind=kind, **changes)
        return await client.set_policy(policy, dry_run=dry_run)

    done = ask(context, change)
    if _wants_json(context, json):
        emit_json(done)
        return
    console.print("would lead to" if dry_run else "in force; leads to")
    console.print(f"  {done.plan.reason}")
    for move in done.moves:
        console.print(f"  - {move}")
    if not done.moves:
        console.print("  no moves")


@plan_app.command("list")
def list_plans(
    context: typer.Context,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 10,
    json: JsonFlag = False,
) -> None:
    """List the newest plans."""
    plans: list[PlanView] = ask(context, lambda client: client.list_plans(limit))
    if _wants_json(context, json):
        emit_json(plans)
        return
    rows = [(p.generation, p.state, p.ran_share, p.ai_share, p.reason) for p in plans]
    table("Plans", ("generation", "state", "RAN", "AI", "reason"), rows)


@lease_app.command("list")
def list_leases(
    context: typer.Context,
    ended: Annotated[bool, typer.Option("--ended", help="Also those that ended.")] = False,
    json: JsonFlag = False,
) -> None:
    """List the leases."""
    leases = ask(context, lambda client: client.leases(include_ended=ended))
    if _wants_json(context, json):
        emit_json(leases)
        return
    rows = [
        (lease.id, lease.holder, lease.profile, lease.sm_count, lease.state, lease.end_reason)
        for lease in leases
    ]
    table("Leases", ("id", "holder", "partition", "SMs", "state", "ended by"), rows)


def ask(context: typer.Context, question: Callable[[ControlClient], Awaitable[Result]]) -> Result:
    """One question to the running site's control plane."""
    runtime = cli_context.of(context).site()

    async def talk() -> Result:
        async with ControlClient(runtime.control_address) as client:
            return await question(client)

    return cli_context.run(talk())


def _wants_json(context: typer.Context, json: bool) -> bool:
    return json or cli_context.of(context).json
