"""`airan bench planner` and its like: how good and how fast the orchestrator decides."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from airan.cli.bench import JsonFlag, SeedOption, emit_rows
from airan.cli.output import errors


def register(app: typer.Typer) -> None:
    """Adds this module's commands."""
    app.command("planner")(planner)
    app.command("reclaim")(reclaim)
    app.command("year")(year)
    app.command("forecast")(forecast)


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


def forecast(
    context: typer.Context,
    csv: Annotated[
        Path | None, typer.Option(help="A series to forecast: columns time, share.")
    ] = None,
    days: Annotated[int, typer.Option(min=15, help="Generated days.")] = 35,
    cells: Annotated[int, typer.Option(min=1, help="Generated cells.")] = 20,
    retrain_days: Annotated[
        int, typer.Option(min=1, help="How often gradient boosting learns anew.")
    ] = 7,
    time_zone: Annotated[str, typer.Option(help="Of the day and the week.")] = "UTC",
    seed: SeedOption = 1,
    json: JsonFlag = False,
) -> None:
    """Backtest the forecast of the RAN's demand over a generated month, or a CSV file.

    Beside: the quantile of past weeks, the last value, the peak, and gradient boosting where
    scikit-learn is installed.
    """
    import numpy as np

    from airan.bench.forecast import ForecastOptions, measure
    from orchestrator.forecast import ForecastSettings
    from orchestrator.forecast_backtest import Series, binned
    from sims import ran_year

    bin_s = ForecastSettings(time_zone=time_zone).bin_s
    if csv is not None:
        times_s, shares = ran_year.read_csv(csv)
        series = binned(times_s, shares.astype(np.float64), bin_s, time_zone)
        what = f"read from {csv.name}"
    else:
        load = ran_year.shares(cells, days, bin_s, seed).astype(np.float64)
        series = Series(load, int(ran_year.START_S // bin_s), bin_s, time_zone)
        what = f"{cells} generated cells, seed {seed}"
    options = ForecastOptions(retrain_days=retrain_days)
    with errors.status("forecasting ...") as status:
        rows = list(measure(series, what, options, status.update))
    emit_rows(context, "Forecast of the RAN's demand", rows, json)


def year(
    context: typer.Context,
    days: Annotated[int, typer.Option(min=1, help="Days to play.")] = 365,
    gpus: Annotated[int, typer.Option(min=1, max=64, help="Simulated GPUs.")] = 2,
    seed: Annotated[int, typer.Option(help="Of load and faults.")] = 1,
    json: JsonFlag = False,
) -> None:
    """Play a year with random faults: floors violated, leases leaked. About a day a second.

    Exit code 1 if the RAN's floor was violated, or a lease leaked.
    """
    from airan.bench.year import timed

    with errors.status("playing ...") as status:
        rows = timed(days, seed, gpus, status.update)
    emit_rows(context, "The orchestrator through simulated days", rows, json)
    if any(row.value for row in rows[:3]):
        raise typer.Exit(1)
