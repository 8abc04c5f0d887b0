"""`airan simulate`: how a fleet of sites would have run, under one policy or several."""

from __future__ import annotations

import contextlib
import json as json_
import os
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

from airan.cli import context as cli_context
from airan.cli.output import console, emit_json, errors, table

simulate_app = typer.Typer(help="Simulate a fleet of sites.", no_args_is_help=True)

ScenarioArgument = Annotated[str, typer.Argument(help="A YAML file, or a shipped scenario's name.")]
DaysOption = Annotated[int | None, typer.Option(min=1, help="Instead of the scenario's.")]
SeedOption = Annotated[int | None, typer.Option(help="Instead of the scenario's.")]
FileOption = Annotated[Path | None, typer.Option("--json", help="Write the report there.")]
CsvOption = Annotated[
    Path | None, typer.Option("--csv", help="Write what each tier got under each policy there.")
]
ResumeOption = Annotated[
    Path | None,
    typer.Option(help="Keep the sites that are done there, and go on from them after a stop."),
]
WorkersOption = Annotated[int | None, typer.Option(min=1, help="Processes; default: one a core.")]
RayOption = Annotated[
    str | None, typer.Option(help="Simulate on Ray: `local`, or a cluster's HOST:PORT.")
]


def register(app: typer.Typer) -> None:
    """Adds this module's commands."""
    app.add_typer(simulate_app, name="simulate")


@simulate_app.command("run")
def run(
    context: typer.Context,
    scenario: ScenarioArgument,
    policy: Annotated[
        list[str] | None, typer.Option(help="One of the scenario's; the first by default.")
    ] = None,
    days: DaysOption = None,
    seed: SeedOption = None,
    json: FileOption = None,
    csv: CsvOption = None,
    resume: ResumeOption = None,
    workers: WorkersOption = None,
    ray: RayOption = None,
) -> None:
    """Simulate a scenario under one of its policies."""
    from sims.fleet.scenario import load

    found = load(scenario, _changes(days, seed))
    names = policy or [next(iter(found.policies))]
    _simulate(context, found, names, (json, csv, resume, workers, ray))


@simulate_app.command("compare")
def compare(
    context: typer.Context,
    scenario: ScenarioArgument,
    policy: Annotated[
        list[str] | None, typer.Option(help="Of the scenario's; all by default.")
    ] = None,
    days: DaysOption = None,
    seed: SeedOption = None,
    json: FileOption = None,
    csv: CsvOption = None,
    resume: ResumeOption = None,
    workers: WorkersOption = None,
    ray: RayOption = None,
) -> None:
    """Simulate the same cells, tenants and faults under each policy."""
    from sims.fleet.scenario import load

    found = load(scenario, _changes(days, seed))
    _simulate(context, found, policy or list(found.policies), (json, csv, resume, workers, ray))


@simulate_app.command("sweep")
def sweep(
    context: typer.Context,
    scenarios: Annotated[list[str], typer.Argument(help="YAML files, or shipped names.")],
    seeds: Annotated[int, typer.Option(min=1, help="So many, from the scenario's on.")] = 5,
    policy: Annotated[str, typer.Option(help="One that all of them have.")] = "demand",
    days: DaysOption = None,
    json: FileOption = None,
    workers: WorkersOption = None,
    ray: RayOption = None,
) -> None:
    """Simulate several scenarios, each with several seeds, side by side."""
    from sims.fleet import runner
    from sims.fleet.scenario import load

    found = [load(one, _changes(days, None)) for one in scenarios]
    drawn = [
        scenario.model_copy(update={"seed": scenario.seed + number})
        for scenario in found
        for number in range(seeds)
    ]
    with _bar() as tell:
        reports = runner.run_many(drawn, [policy], _mapper(workers, ray), tell=tell)
    if json is not None:
        json.write_text(json_.dumps(reports, indent=2) + "\n")
    if cli_context.of(context).json:
        emit_json(reports)
    else:
        _show_sweep(reports)


@simulate_app.command("list")
def list_scenarios(context: typer.Context) -> None:
    """List the shipped scenarios."""
    from sims.fleet.scenario import SHIPPED, load

    found = [load(str(path)) for path in sorted(SHIPPED.glob("*.yaml"))]
    if cli_context.of(context).json:
        emit_json([{"name": one.name, "description": one.description} for one in found])
    else:
        table("Scenarios", ("name", "what"), [(one.name, one.description) for one in found])


def _changes(days: int | None, seed: int | None) -> dict[str, Any]:
    return {name: value for name, value in (("days", days), ("seed", seed)) if value is not None}


def _simulate(
    context: typer.Context,
    scenario: Any,
    policies: list[str],
    how: tuple[Path | None, Path | None, Path | None, int | None, str | None],
) -> None:
    from sims.fleet import runner

    json, csv, resume, workers, ray = how
    with _bar() as tell:
        report = runner.run(scenario, policies, _mapper(workers, ray), resume=resume, tell=tell)
    if json is not None:
        json.write_text(json_.dumps(report, indent=2) + "\n")
    if csv is not None:
        csv.write_text(runner.tiers_csv(report))
    if cli_context.of(context).json:
        emit_json(report)
    else:
        _show(report)


def _mapper(workers: int | None, ray: str | None) -> Any:
    from sims.fleet import runner

    if ray is None:
        return runner.in_processes(workers or len(os.sched_getaffinity(0)))
    from airan.site.fleet_on_ray import on_ray

    return on_ray(ray)


@contextlib.contextmanager
def _bar() -> Iterator[Callable[[int, int], None]]:
    """Draws how many sites are done; yields what moves it."""
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors, transient=True) as progress:
        task = progress.add_task("sites", total=None)
        yield lambda done, of: progress.update(task, completed=done, total=of)


def _show_sweep(reports: list[dict[str, Any]]) -> None:
    """A scenario a row: the mean over its seeds, and how far the seeds are apart."""
    rows = []
    for name in dict.fromkeys(report["scenario"] for report in reports):
        mine = [one["policies"][0] for one in reports if one["scenario"] == name]
        used = [100.0 * one["utilisation"]["total"] for one in mine]
        rows.append(
            (
                name,
                len(mine),
                statistics.fmean(used),
                min(used),
                max(used),
                max(one["ran"]["floor_broken_s"] for one in mine),
                max(one["ran"]["short_s"] for one in mine),
                statistics.fmean(one["revenue_usd"] for one in mine),
            )
        )
    columns = ("scenario", "seeds", "used %", "least", "most", "floor s", "short s", "USD")
    table("Mean over the seeds; the RAN's seconds below floor and need: the worst", columns, rows)


def _show(report: dict[str, Any]) -> None:
    console.print(
        f"{report['scenario']}, simulated: {report['cells']} cells at {report['sites']} sites,"
        f" {report['gpus']} {report['gpu']} divided by {report['partition']},"
        f" {report['days']} days, seed {report['seed']}"
    )
    _show_use(report["policies"])
    _show_waits(report["policies"])
    console.print(f"engine: {report['engine']['model']}; {report['engine']['hardware']}")


_MEASURES: tuple[tuple[str, Callable[[dict[str, Any]], float | None]], ...] = (
    ("used %", lambda one: 100.0 * one["utilisation"]["total"]),
    ("  by the RAN %", lambda one: 100.0 * one["utilisation"]["ran"]),
    ("  by the AI %", lambda one: 100.0 * one["utilisation"]["ai"]),
    ("points below the oracle", lambda one: _times(100.0, one.get("below_oracle"))),
    ("RAN below its floor, s", lambda one: one["ran"]["floor_broken_s"]),
    ("RAN below its need, s", lambda one: one["ran"]["short_s"]),
    ("late slots, ppm", lambda one: 1e6 * one["ran"]["late_share"]),
    ("alarms", lambda one: one["ran"]["alarms"]),
    ("tokens, millions", lambda one: one["ai"]["tokens"] / 1e6),
    ("requests preempted by the RAN", lambda one: one["ai"]["preemptions"]),
    ("  by priority", lambda one: one["ai"]["preempted_for_priority"]),
    ("requests moved to peers", lambda one: one["ai"]["moved"]),
    ("energy, kWh", lambda one: one["energy_kwh"]),
    ("revenue, USD", lambda one: one["revenue_usd"]),
    ("paid to clouds, USD", lambda one: one["overflow"]["clouds_cost_usd"]),
)


def _show_use(found: list[dict[str, Any]]) -> None:
    rows = [(name, *(measure(one) for one in found)) for name, measure in _MEASURES]
    table("What the policies made of the GPUs", ("", *(one["policy"] for one in found)), rows)


def _times(factor: float, value: float | None) -> float | None:
    return None if value is None else factor * value


def _show_waits(found: list[dict[str, Any]]) -> None:
    served = [
        (one["policy"], tier, counts)
        for one in found
        for tier, counts in one["ai"]["tiers"].items()
        if counts["completed"]
    ]
    if not served:
        return
    columns = ("policy", "tier", "asked", "done %", "refused %", "TTFT p50 s", "p95 s", "p99 s")
    rows = [
        (
            policy,
            tier,
            _short(counts["arrived"]),
            _short(100.0 * counts["completed"] / counts["arrived"]),
            _short(100.0 * counts["refused"] / counts["arrived"]),
            *(_short(counts[f"ttft_p{percent}_s"]) for percent in (50, 95, 99)),
        )
        for policy, tier, counts in served
    ]
    table("What tenants got", columns, rows)
    ends = ("policy", "tier", "too late", "too many", "again", "moved", "cut off", "USD")
    names = ("refused_late", "refused_full", "retried", "moved", "preempted", "revenue_usd")
    counted = [
        (policy, tier, *(_short(counts[name]) for name in names)) for policy, tier, counts in served
    ]
    title = "Refused as too late or too many, tries of those refused, moved, cut off for priority"
    table(title, ends, counted)


def _short(value: float | None) -> str:
    """Three digits; thousands and millions by letter."""
    if value is None:
        return "-"
    for factor, letter in ((1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g}{letter}"
    return f"{value:.3g}"
