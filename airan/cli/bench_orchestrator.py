"""`airan bench planner` and its like: how good and how fast the orchestrator decides."""

from __future__ import annotations

from typing import Annotated

import typer

from airan.cli.bench import JsonFlag, emit_rows
from airan.cli.output import errors


def register(app: typer.Typer) -> None:
    """Adds this module's commands."""
    app.command("planner")(planner)


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
