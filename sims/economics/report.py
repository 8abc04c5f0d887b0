"""One scenario's results as JSON, CSV and a page of HTML that stands by itself."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from html import escape
from typing import Any

import numpy as np

from sims.economics import analysis, calibration, plots, tier_prices
from sims.economics.fields import BY_KEY, Quantity
from sims.economics.model import METRICS, cash_flows, evaluate
from sims.economics.scenario import Scenario

_CSS = """
body{font:16px/1.5 system-ui,"DejaVu Sans",sans-serif;color:#111827;max-width:900px;
margin:2.5rem auto;padding:0 1.5rem}
h1{font-size:1.7rem;margin-bottom:.3rem}h2{font-size:1.2rem;margin-top:2.4rem;
border-bottom:1px solid #d1d5db;padding-bottom:.25rem}
table{border-collapse:collapse;width:100%;font-size:.86rem}
th,td{text-align:left;padding:.35rem .6rem;border-bottom:1px solid #e5e7eb;vertical-align:top}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.about,.note{color:#4b5563}.note{font-size:.86rem}svg{width:100%;height:auto;font-family:inherit}
.tag{display:inline-block;padding:0 .45rem;border-radius:.6rem;font-size:.78rem;background:#e5e7eb}
.tag.calibrated{background:#fde68a}.tag.assumed{background:#fed7aa}.tag.published{background:#bbf7d0}
.key{word-break:break-word}
@media print{body{margin:0;max-width:none}h2{break-after:avoid}table,svg{break-inside:avoid}}
"""

_LABELS = {
    "servers": "Servers",
    "capex_usd": "CapEx",
    "opex_usd": "OpEx over the life",
    "tco_usd": "TCO (CapEx + OpEx)",
    "ai_revenue_usd": "AI revenue over the life",
    "revenue_per_capex": "Revenue per $ of CapEx",
    "roi": "ROI",
    "npv_usd": "NPV, after tax",
    "irr": "IRR a year, after tax",
    "payback_month": "Payback month, after tax",
    "tco_usd_per_cell": "TCO per cell",
    "tco_usd_per_gbps": "TCO per Gb/s of peak",
    "ran_watt_per_gbps": "W per Gb/s, server all on RAN",
    "power_mwh": "Electricity, MWh",
}


def body(scenario: Scenario) -> dict[str, Any]:
    """Everything about a scenario, as JSON takes it."""
    cases = [
        {**evaluate(scenario, share).run(0), "break_even": analysis.break_even(scenario, share)}
        for share in scenario.cases
    ]
    published = [{**asdict(check), "error": check.error} for check in calibration.checks(scenario)]
    slack = calibration.slacks(scenario) if published else []
    return {
        "scenario": scenario.name,
        "title": scenario.title,
        "rounding": scenario.rounding,
        "cell_type": scenario.cell_type,
        "cases": cases,
        "published": published,
        "slack": [asdict(one) for one in slack],
        "inputs": [_input(quantity) for quantity in tier_prices.shown(scenario.quantities)],
    }


def cases(scenario: Scenario) -> list[dict[str, Any]]:
    """The results alone, a case each, as JSON takes them."""
    return [{"scenario": scenario.name, **case} for case in body(scenario)["cases"]]


def _input(quantity: Quantity) -> dict[str, Any]:
    return {
        "key": quantity.field.key,
        "value": quantity.value,
        "unit": quantity.field.unit,
        "kind": quantity.kind,
        "source": quantity.source,
        "note": quantity.note,
        "low": quantity.low,
        "high": quantity.high,
        "meaning": quantity.field.meaning,
    }


def as_csv(scenarios: Sequence[Scenario]) -> str:
    """One row a scenario and case, one column a result."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["scenario", *METRICS])
    for scenario in scenarios:
        for share in scenario.cases:
            run = evaluate(scenario, share).run(0)
            writer.writerow([scenario.name, *("" if run[m] is None else run[m] for m in METRICS)])
    return out.getvalue()


def shown(metric: str, value: float | None) -> str:
    """A result as people read it."""
    if value is None:
        return "none"
    if metric in ("roi", "irr", "ai_share"):
        return f"{value:.0%}"
    if metric == "revenue_per_capex":
        return f"{value:.2f}x"
    if metric.endswith("_usd"):
        return plots.money(value)
    if "_usd_per_" in metric:
        return f"${value:,.0f}"
    return f"{value:,.1f}".removesuffix(".0")


def rows(
    scenarios: Sequence[Scenario], *, several: bool = False
) -> tuple[list[str], list[list[str]]]:
    """A table: results down, scenarios and cases across; with `several` the scenarios' names."""
    several = several or len(scenarios) > 1
    heads, columns = ["result"], []
    for scenario in scenarios:
        for share in scenario.cases:
            heads.append(f"{scenario.name + ' ' if several else ''}{share:.0%} AI")
            columns.append(evaluate(scenario, share).run(0))
    types = [scenario.cell_type for scenario in scenarios for _ in scenario.cases]
    lines = [["Cell type", *types]]
    lines += [[label, *(shown(m, c[m]) for c in columns)] for m, label in _LABELS.items()]
    return heads, lines


def as_html(scenario: Scenario, runs: int = 20_000, seed: int = 1) -> str:
    """The whole report: results, plots, risk, published figures, assumptions with sources."""
    share = scenario.cases[0]
    heads, lines = rows([scenario])
    simulated = analysis.monte_carlo(scenario, share, runs, seed)
    parts = [
        f"<h1>{escape(scenario.title)}</h1><p class='about'>{escape(scenario.about)}</p>",
        f"<p>{escape(_summary(scenario))}</p>",
        "<h2>Results</h2>",
        _table(heads, lines, numbers=True),
        "<p class='note'>ROI = (AI revenue − TCO) / TCO, undiscounted and before tax. NPV, IRR "
        "and payback are after tax, by month. What the radio network itself earns is not "
        "counted.</p>",
        "<h2>What it costs</h2>",
        plots.stacked([(f"{s:.0%} AI", _cost_parts(scenario, s)) for s in scenario.cases]),
        "<h2>Money in hand, month by month</h2>",
        plots.lines(
            [(f"{s:.0%} AI", np.cumsum(cash_flows(scenario, s).net[0])) for s in scenario.cases],
            "month (cumulated, after tax, undiscounted)",
        ),
        _risk(scenario, share, simulated),
        _published(scenario),
        "<h2>Assumptions and sources</h2>",
        _assumptions(scenario),
    ]
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        f"<title>{escape(scenario.title)}</title><style>{_CSS}</style></head>"
        f"<body>{''.join(parts)}</body></html>\n"
    )


def _summary(scenario: Scenario) -> str:
    found = []
    for share in scenario.cases:
        run = evaluate(scenario, share).run(0)
        back = run["payback_month"]
        when = (
            "is not paid back within the life" if back is None else f"pays back in month {back:.0f}"
        )
        found.append(
            f"With {share:.0%} of capacity on AI the investment of "
            f"{shown('capex_usd', run['capex_usd'])} earns "
            f"{shown('revenue_per_capex', run['revenue_per_capex'])} its CapEx in revenue, "
            f"has an ROI of {shown('roi', run['roi'])} and {when}."
        )
    return " ".join(found)


def _cost_parts(scenario: Scenario, share: float) -> list[tuple[str, float]]:
    """CapEx and OpEx taken apart, by leaving each part out of the model."""

    def without(*keys: str) -> float:
        whole = evaluate(scenario, share).tco_usd[0]
        return float(whole - evaluate(scenario, share, dict.fromkeys(keys, 0.0)).tco_usd[0])

    per_cell = [key for key in scenario.quantities if key.endswith("_usd_per_cell")]
    return [
        ("servers and racks", without("capex.server_usd", "capex.rack_usd")),
        ("sites, radio, fronthaul, timing", without(*per_cell)),
        ("power", without("opex.power_price_usd_per_kwh")),
        (
            "licences, maintenance",
            without("opex.licence_usd_per_server_month", "opex.licence_usd_per_cell_month"),
        ),
        ("rent, staff", without("opex.rent_usd_per_cell_month", "opex.staff_usd_per_month")),
    ]


def _risk(scenario: Scenario, share: float, simulated: analysis.MonteCarlo) -> str:
    swings = [s for s in analysis.tornado(scenario, share, "npv_usd") if s.width > 0][:12]
    centre = float(evaluate(scenario, share).npv_usd[0])
    bars = [
        (
            BY_KEY[s.key].meaning,
            s.at_low,
            s.at_high,
            f"{_plain(s.low)} to {_plain(s.high)} {s.unit}",
        )
        for s in swings
    ]
    table = [
        [
            _LABELS[s.metric],
            *(shown(s.metric, s.quantiles[q]) for q in ("p5", "p50", "p95")),
            f"{s.defined:.0%}",
        ]
        for s in simulated.spreads
        if s.metric in _LABELS and s.quantiles and s.metric not in ("servers", "ran_watt_per_gbps")
    ]
    tornado = plots.bars(bars, centre) if bars else "<p>No input has a range.</p>"
    return (
        f"<h2>What moves the NPV, at {share:.0%} AI</h2>{tornado}"
        "<p class='note'>One input at a time, over its range; blue: more is better, orange: more "
        "is worse. Inputs without a range of their own move by a fifth each way, published ones "
        "only where sources differ.</p>"
        f"<h2>How sure it is, at {share:.0%} AI</h2>"
        f"<p>The NPV is above nought in {simulated.npv_positive:.0%} of {simulated.runs:,} runs in "
        f"which {len(simulated.drawn)} inputs were drawn from their ranges (triangular, "
        f"independent, seed {simulated.seed}).</p>"
        + plots.histogram(simulated.npv_usd, "NPV")
        + _table(["result", "5 %", "median", "95 %", "of runs"], table, numbers=True)
    )


def _plain(value: float) -> str:
    """A number without an exponent."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _published(scenario: Scenario) -> str:
    checks = calibration.checks(scenario)
    if not checks:
        return ""
    compared = [
        [c.what, f"{c.published:g}", f"{c.model:.3f}", f"{c.error + 0.0:+.2%}", c.source]
        for c in checks
    ]
    slacks = [
        [
            s.key,
            s.kind,
            f"{s.value:,.6g}",
            "any less" if s.low is None else _plain(s.low),
            "any more" if s.high is None else _plain(s.high),
            s.unit,
            s.first_lost or "none",
        ]
        for s in calibration.slacks(scenario)
    ]
    return (
        "<h2>Against what was published</h2>"
        + _table(["result", "published", "model", "off by", "source"], compared)
        + "<h2>How far what is not known may be off</h2><p class='note'>Each value alone, until "
        "one of the published results is missed by 10 %.</p>"
        + _table(["input", "kind", "value", "from", "to", "unit", "lost first"], slacks)
    )


def _assumptions(scenario: Scenario) -> str:
    out = []
    for q in tier_prices.shown(scenario.quantities):
        span = "" if q.low is None and q.high is None else f"{q.span[0]:g} to {q.span[1]:g}"
        why = "" if q.source == q.kind else escape(q.source)
        note = f" <span class='note'>{escape(q.note)}</span>" if q.note else ""
        out.append(
            f"<tr><td class='key'>{escape(q.field.meaning)}<br><code class='note'>{q.field.key}"
            f"</code></td><td class='n'>{q.value:,.6g}</td><td>{escape(q.field.unit)}</td>"
            f"<td class='n'>{span}</td>"
            f"<td><span class='tag {q.kind}'>{q.kind}</span> {why}{note}</td></tr>"
        )
    heads = (
        "<th>input</th><th class='n'>value</th><th>unit</th><th class='n'>range</th><th>source</th>"
    )
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(out)}</tbody></table>"


def _table(heads: Sequence[str], lines: Sequence[Sequence[str]], numbers: bool = False) -> str:
    kind = " class='n'" if numbers else ""
    top = "".join(f"<th{kind if i else ''}>{escape(h)}</th>" for i, h in enumerate(heads))
    drawn = "".join(
        "<tr>"
        + "".join(f"<td{kind if i else ''}>{escape(c)}</td>" for i, c in enumerate(line))
        + "</tr>"
        for line in lines
    )
    return f"<table><thead><tr>{top}</tr></thead><tbody>{drawn}</tbody></table>"
