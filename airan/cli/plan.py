"""`airan plan`: what the orchestrator has decided."""

from __future__ import annotations

from typing import Annotated

import typer

from airan.cli.asking import JsonFlag, Limit, ask, wants_json
from airan.cli.output import emit_json, table

plan_app = typer.Typer(help="Stored plans.", no_args_is_help=True)


@plan_app.command("list")
def list_plans(context: typer.Context, limit: Limit = 10, json: JsonFlag = False) -> None:
    """List the newest plans."""
    plans = ask(context, lambda client: client.list_plans(limit))
    if wants_json(context, json):
        emit_json(plans)
        return
    rows = [(p.generation, p.state, p.ran_share, p.ai_share, p.reason) for p in plans]
    table("Plans", ("generation", "state", "RAN", "AI", "reason"), rows)


@plan_app.command("show")
def show_plan(
    context: typer.Context,
    generation: Annotated[int, typer.Argument(help="Which; 0: the newest.", min=0)] = 0,
    json: JsonFlag = False,
) -> None:
    """Show one plan with the partitions it wants."""
    plan = ask(context, lambda client: client.plan(generation))
    if wants_json(context, json):
        emit_json(plan)
        return
    rows = [
        (p.profile, p.role, f"{p.start}..{p.start + p.size - 1}", p.sm_count)
        for p in plan.partitions
    ]
    title = f"Plan {plan.generation} (after {plan.parent}), {plan.state}: {plan.reason}"
    table(title, ("partition", "role", "place", "SMs"), rows)
