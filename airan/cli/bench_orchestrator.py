"""`airan bench planner` and its like: how good and how fast the orchestrator decides."""

from __future__ import annotations

from typing import Annotated

import typer

from airan.cli.bench import JsonFlag, emit_rows
from airan.cli.output import errors


def register(app: typer.Typer) -> None:
    """Adds this module's commands."""
    app.command("planner")(planner)
    app.command("reclaim")(reclaim)


def planner(
    context: typer.Context,
    cases: Annotated[int, typer.Option(min=1, help="Small fleets of each kind.")] = 10,
    limit_s: Annotated[float, typer.Option(min=1.0, help="HiGHS's time for one of them.")] = 30.0,
    seed: Annotated[int, typer.Option(help="Of the generated fleets.")] = 0,
    json: JsonFlag = False,
) -> None:
    """Measure the fleet planner: how far from the optimum, how long, beside HiGHS."""
    from airan.bench.planner import PlannerOptions, measure

    with errors.status("measuring ...") as status:
        rows = list(measure(PlannerOptions(cases, limit_s, seed), status.update))
    emit_rows(context, "Fleet planner on this machine", rows, json)


def reclaim(
    context: typer.Context,
    alarms: Annotated[int, typer.Option(min=2, help="Slot alarms.")] = 100,
    moves: Annotated[int, typer.Option(min=1, help="Plans that move MIG instances.")] = 10,
    json: JsonFlag = False,
) -> None:
    """Measure how long the RAN waits for capacity: by the fast path, and by MIG moves."""
    from airan.bench.reclaim import ReclaimOptions, measure

    with errors.status("measuring ...") as status:
        rows = measure(ReclaimOptions(alarms, moves), status.update)
    emit_rows(context, "Capacity back to the RAN, on a simulated node", rows, json)
