"""`airan economics`: what an AI-RAN network costs and earns."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from airan.cli import context as cli_context
from airan.cli.output import console, emit_json, table
from airan.core.errors import ConfigError, InvalidInputError
from sims.economics import analysis, calibration, measured, report
from sims.economics.scenario import Scenario, load, shipped

economics_app = typer.Typer(
    name="economics",
    help="What an AI-RAN network costs and earns.",
    no_args_is_help=True,
)

_LABEL_WIDTH, _CASE_WIDTH = 34, 14

Name = Annotated[str, typer.Argument(help="A shipped scenario (see `list`), or a YAML file.")]
Share = Annotated[
    float | None, typer.Option("--ai-share", help="Of capacity; default: the first case.")
]
Metric = Annotated[str, typer.Option(help="Result to look at.")]
JsonFile = Annotated[
    Path | None, typer.Option("--json", help="Write a list of cases to this file, as JSON.")
]
CsvFile = Annotated[Path | None, typer.Option("--csv", help="Write CSV to this file.")]
HtmlFile = Annotated[Path | None, typer.Option("--html", help="Write the report to this file.")]
Utilisation = Annotated[
    Path | None, typer.Option(help="JSON of `airan simulate`: its utilisation is taken.")
]


def register(app: typer.Typer) -> None:
    """Adds this module's commands."""
    app.add_typer(economics_app)


@economics_app.command("list")
def list_scenarios(context: typer.Context) -> None:
    """The shipped scenarios."""
    found = [load(name) for name in shipped()]
    if cli_context.of(context).json:
        emit_json([{"name": one.name, "title": one.title} for one in found])
    else:
        table("Scenarios", ["name", "title"], [[one.name, one.title] for one in found])


@economics_app.command("run")
def run(
    context: typer.Context,
    name: Name,
    json: JsonFile = None,
    csv: CsvFile = None,
    html: HtmlFile = None,
    utilisation: Utilisation = None,
) -> None:
    """Results of one scenario at each of its AI shares."""
    scenario = _loaded(name, utilisation)
    body = report.body(scenario)
    if json is not None:
        _write(json, _json(report.cases(scenario)))
    if csv is not None:
        _write(csv, report.as_csv([scenario]))
    if html is not None:
        _write(html, report.as_html(scenario))
    if cli_context.of(context).json:
        emit_json(body)
        return
    table(scenario.title, *report.rows([scenario]))
    for case in body["cases"]:
        _print_break_even(case)
    checks = calibration.checks(scenario)
    if checks:
        lines = [[c.what, c.published, c.model, f"{c.error:+.2%}", c.source] for c in checks]
        table("Published", ["result", "published", "model", "off by", "source"], lines)
        _print_slacks(calibration.slacks(scenario))


@economics_app.command("compare")
def compare(
    context: typer.Context,
    names: Annotated[list[str] | None, typer.Argument(help="Default: all shipped.")] = None,
    json: JsonFile = None,
    csv: CsvFile = None,
) -> None:
    """Platforms side by side."""
    scenarios = [load(name) for name in names or shipped()]
    bodies = [report.body(one) for one in scenarios]
    if json is not None:
        _write(json, _json(bodies))
    if csv is not None:
        _write(csv, report.as_csv(scenarios))
    if cli_context.of(context).json:
        emit_json(bodies)
        return
    # As many splits side by side as the terminal has room for.
    room = max(1, (console.width - _LABEL_WIDTH) // _CASE_WIDTH)
    group: list[Scenario] = []
    for one in scenarios:
        if group and sum(len(other.cases) for other in (*group, one)) > room:
            table("Side by side", *report.rows(group, several=True))
            group = []
        group.append(one)
    table("Side by side", *report.rows(group, several=True))


@economics_app.command("sensitivity")
def sensitivity(
    context: typer.Context, name: Name, metric: Metric = "npv_usd", ai_share: Share = None
) -> None:
    """Which input moves a result most, each over its range (a tornado)."""
    scenario = load(name)
    share = _share(scenario, ai_share)
    swings = analysis.tornado(scenario, share, metric)
    if cli_context.of(context).json:
        emit_json(_plain([vars(s) for s in swings]))
        return
    lines = [[s.key, s.low, s.high, s.unit, s.at_low, s.at_high] for s in swings]
    heads = ["input", "low", "high", "unit", f"{metric} at low", "at high"]
    table(f"{metric} at {share:.0%} AI", heads, lines)


@economics_app.command("montecarlo")
def montecarlo(
    context: typer.Context,
    name: Name,
    runs: Annotated[int, typer.Option(min=1, max=10_000_000)] = 100_000,
    seed: Annotated[int, typer.Option(min=0)] = 1,
    ai_share: Share = None,
) -> None:
    """Results over random draws of every input that has a range."""
    scenario = load(name)
    share = _share(scenario, ai_share)
    found = analysis.monte_carlo(scenario, share, runs, seed)
    if cli_context.of(context).json:
        body = {k: v for k, v in vars(found).items() if k not in ("npv_usd", "spreads")}
        emit_json(_plain({**body, "spreads": [vars(s) for s in found.spreads]}))
        return
    quantiles = ("p5", "p25", "p50", "p75", "p95")
    lines = [
        [s.metric, *(report.shown(s.metric, s.quantiles[q]) for q in quantiles), f"{s.defined:.1%}"]
        for s in found.spreads
        if s.quantiles
    ]
    title = f"{runs:,} runs, seed {seed}, {share:.0%} AI, {len(found.drawn)} inputs drawn"
    table(title, ["result", *quantiles, "defined in"], lines)
    console.print(f"NPV above nought in {found.npv_positive:.1%} of runs")


@economics_app.command("grid")
def grid(
    context: typer.Context,
    name: Name,
    first: Annotated[str, typer.Argument(help="INPUT=LOW:HIGH:STEPS; an input or ai_share.")],
    second: Annotated[str, typer.Argument(help="Likewise.")],
    metric: Metric = "roi",
    ai_share: Share = None,
) -> None:
    """A result over two inputs."""
    scenario = load(name)
    axes = dict([_axis(first), _axis(second)])
    found = analysis.grid(scenario, _share(scenario, ai_share), metric, axes)
    (down, a), (across, b) = axes.items()
    if cli_context.of(context).json:
        body = {"metric": metric, "axes": {k: v.tolist() for k, v in axes.items()}}
        emit_json(_plain({**body, "values": found.tolist()}))
        return
    lines = [
        [f"{x:,.4g}", *(report.shown(metric, None if np.isnan(v) else float(v)) for v in row)]
        for x, row in zip(a, found, strict=True)
    ]
    table(f"{metric}: {down} down, {across} across", ["", *(f"{x:,.4g}" for x in b)], lines)


@economics_app.command("goal-seek")
def goal_seek(
    context: typer.Context,
    name: Name,
    goal: Annotated[str, typer.Argument(help="RESULT=VALUE, such as payback_month=24.")],
    by: Annotated[str, typer.Option(help="The input to move; default: the price of AI.")] = "",
    ai_share: Share = None,
) -> None:
    """The value of an input that gives a result: what price gives payback in 24 months?"""
    scenario = load(name)
    share = _share(scenario, ai_share)
    metric, _, wanted = goal.partition("=")
    target = (metric, _number("goal", wanted))
    found = analysis.goal_seek(scenario, share, target, by or analysis.price_key(scenario))
    if cli_context.of(context).json:
        emit_json(found)
        return
    console.print(
        f"{found.key} = {found.value:,.6g} {found.unit} gives {metric} {found.reached:,.6g} "
        f"at {share:.0%} AI"
    )


def _loaded(name: str, utilisation: Path | None) -> Scenario:
    scenario = load(name)
    return scenario if utilisation is None else measured.with_utilisation(scenario, utilisation)


def _share(scenario: Scenario, ai_share: float | None) -> float:
    return scenario.cases[0] if ai_share is None else ai_share


def _axis(text: str) -> tuple[str, analysis.Floats]:
    key, _, rest = text.partition("=")
    parts = rest.split(":")
    if len(parts) != 3:
        raise InvalidInputError(key or "axis", f"must be INPUT=LOW:HIGH:STEPS, got {text!r}")
    low, high, steps = (_number(key, part) for part in parts)
    if not 2 <= steps <= 100:
        raise InvalidInputError(key, f"must have 2 to 100 steps, got {steps:g}")
    return key, np.linspace(low, high, int(steps))


def _number(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise InvalidInputError(name, f"must be a number, got {text!r}") from error
    if not np.isfinite(value):
        raise InvalidInputError(name, f"must be finite, got {text!r}")
    return value


def _print_break_even(case: dict[str, Any]) -> None:
    even = {k: "none" if v is None else f"{v:,.4g}" for k, v in case["break_even"].items()}
    console.print(
        f"Break-even from {case['ai_share']:.0%} AI: ROI is nought at share "
        f"{even['ai_share_at_roi_0']} or price {even['price_at_roi_0']}; NPV at share "
        f"{even['ai_share_at_npv_usd_0']} or price {even['price_at_npv_usd_0']}"
    )


def _print_slacks(slacks: list[calibration.Slack]) -> None:
    lines = [
        [s.key, s.kind, f"{s.value:,.6g}", _edge(s.low), _edge(s.high), s.unit, s.first_lost]
        for s in slacks
    ]
    heads = ["input", "kind", "value", "from", "to", "unit", "lost first"]
    table("How far each may be off before a published result is missed by 10 %", heads, lines)


def _edge(value: float | None) -> str:
    return "any" if value is None else f"{value:,.4g}"


def _plain(value: Any) -> Any:
    """JSON knows no NaN: null instead."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and np.isnan(value) else value


def _json(body: Any) -> str:
    return json_module.dumps(_plain(body), indent=2) + "\n"


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error}") from error
