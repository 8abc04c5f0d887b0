"""The model: from inputs to cash flows by month and to results, for many runs at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from airan.core.errors import InvalidInputError
from sims.economics import finance, tier_prices
from sims.economics.fields import MONTH_HOURS
from sims.economics.scenario import Scenario

Floats = npt.NDArray[np.float64]
Values = Mapping[str, float | Floats]

_CHUNK = 4096
"""Runs at once: their months fit a core's cache."""


@dataclass(frozen=True)
class Results:
    """Results of runs; every array is float64[run], money in USD over the whole life."""

    ai_share: Floats
    servers: Floats
    racks: Floats
    capex_usd: Floats
    opex_usd: Floats
    tco_usd: Floats
    """CapEx and OpEx, neither discounted nor taxed."""
    ai_revenue_usd: Floats
    revenue_per_capex: Floats
    roi: Floats
    """(AI revenue - TCO) / TCO."""
    npv_usd: Floats
    """After tax."""
    irr: Floats
    """Per year, after tax; NaN: there is none, or not one."""
    payback_month: Floats
    """After tax, undiscounted; NaN: not within the life."""
    tco_usd_per_cell: Floats
    tco_usd_per_gbps: Floats
    """Per Gb/s of all cells' peaks."""
    ran_watt_per_gbps: Floats
    """Of a server all on RAN at full load, without PUE, as vendors publish it."""
    power_mwh: Floats

    def run(self, index: int) -> dict[str, float | None]:
        """One run's results by name; None where there is none."""
        values = {f.name: float(getattr(self, f.name)[index]) for f in fields(self)}
        return {name: None if np.isnan(value) else value for name, value in values.items()}


METRICS = tuple(f.name for f in fields(Results))


@dataclass(frozen=True)
class CashFlows:
    """Money by month; float64[run, month], month 0 is the investment."""

    revenue: Floats
    opex: Floats
    tax: Floats
    net: Floats


@dataclass(frozen=True)
class _Build:
    servers: Floats
    racks: Floats
    capex: Floats
    opex_month: Floats
    kwh_month: Floats
    sold_servers: Floats


def evaluate(
    scenario: Scenario,
    ai_share: float | Floats,
    changes: Values | None = None,
    with_irr: bool = True,
) -> Results:
    """Results of `scenario` at each AI share, with `changes` of values by key.

    Numbers and float64[run] arrays mix freely; arrays must be of one length. Without `with_irr`,
    which costs most of the time, `irr` is NaN.

    Raises:
        InvalidInputError: an unknown key, an AI share outside [0, 1), or lengths that differ.
    """
    values, runs = _values(scenario, ai_share, changes or {})
    parts = [
        _evaluate({k: v[start : start + _CHUNK] for k, v in values.items()}, scenario, with_irr)
        for start in range(0, runs, _CHUNK)
    ]
    return Results(*(np.concatenate([getattr(p, name) for p in parts]) for name in METRICS))


def cash_flows(
    scenario: Scenario, ai_share: float | Floats, changes: Values | None = None
) -> CashFlows:
    """Cash flows by month of what `evaluate` sums up.

    Raises:
        InvalidInputError: as `evaluate` does.
    """
    values, _ = _values(scenario, ai_share, changes or {})
    return _flows(values, _build(values, scenario.rounding))


def _values(
    scenario: Scenario, ai_share: float | Floats, changes: Values
) -> tuple[dict[str, Floats], int]:
    unknown = [key for key in changes if key not in scenario.quantities]
    if unknown:
        raise InvalidInputError(unknown[0], "there is no such input")
    if "finance.months" in changes and np.size(changes["finance.months"]) > 1:
        raise InvalidInputError("finance.months", "must be the same in all runs")
    mixed: dict[str, float | Floats] = {**scenario.values(), **changes, "ai_share": ai_share}
    lengths = {np.size(value) for value in mixed.values()} - {1}
    if len(lengths) > 1:
        raise InvalidInputError(
            "changes", f"arrays of lengths {sorted(lengths)} do not go together"
        )
    runs = lengths.pop() if lengths else 1
    arrays = {
        key: np.broadcast_to(np.asarray(value, dtype=np.float64).reshape(-1), (runs,))
        for key, value in mixed.items()
    }
    share = arrays["ai_share"]
    if not bool(np.all((share >= 0) & (share < 1))):
        raise InvalidInputError("ai_share", "must be at least 0 and under 1")
    return arrays, runs


def _build(v: Mapping[str, Floats], rounding: str) -> _Build:
    """What is bought, and what it costs a month."""
    share, cells = v["ai_share"], v["network.cells"]
    servers = cells / v["platform.cells_per_server"] / (1.0 - share)
    if rounding == "whole":
        servers = np.ceil(servers - 1e-9)
    racks = np.ceil(servers / v["platform.servers_per_rack"] - 1e-9)
    per_cell = sum(v[f"capex.{part}_usd_per_cell"] for part in _CELL_PARTS)
    capex = servers * v["capex.server_usd"] + racks * v["capex.rack_usd"] + cells * per_cell
    sold = share * v["ai.utilisation"] + (1.0 - share) * v["ai.borrowed_share"]
    load = np.minimum(1.0, (1.0 - share) * v["ran.utilisation"] + sold)
    idle = v["platform.idle_power_share"]
    watts = servers * v["platform.power_w"] * (idle + (1.0 - idle) * load)
    kwh_month = watts / 1000.0 * MONTH_HOURS * v["opex.pue"]
    opex_month = (
        kwh_month * v["opex.power_price_usd_per_kwh"]
        + servers * v["opex.licence_usd_per_server_month"]
        + cells * (v["opex.licence_usd_per_cell_month"] + v["opex.rent_usd_per_cell_month"])
        + v["opex.staff_usd_per_month"]
    )
    return _Build(servers, racks, capex, opex_month, kwh_month, servers * sold)


_CELL_PARTS = ("site", "radio", "fronthaul", "timing")


def _flows(v: Mapping[str, Floats], build: _Build) -> CashFlows:
    months = round(float(v["finance.months"][0]))
    month = np.arange(1, months + 1, dtype=np.float64)[None, :]
    hour_usd = v["ai.usd_per_server_hour"] + (
        v["ai.tokens_per_s_per_server"] * 3600.0 / 1e6 * v["ai.usd_per_million_tokens"]
    )
    hour_usd = hour_usd + tier_prices.usd_per_hour(v)
    full = build.sold_servers * hour_usd * MONTH_HOURS
    ramp = np.minimum(1.0, month / np.maximum(v["ai.ramp_months"], 1.0)[:, None])
    price = (1.0 - v["ai.price_decline_per_year"])[:, None] ** ((month - 1.0) / 12.0)
    earned = full[:, None] * ramp * price
    taxable = earned - (build.opex_month + build.capex / months)[:, None]
    # Losses are carried forward: tax is due only on what exceeds the best cumulated profit so far.
    best = np.maximum.accumulate(np.maximum(np.cumsum(taxable, axis=1), 0.0), axis=1)
    tax = np.diff(best, axis=1, prepend=0.0) * v["finance.tax_share"][:, None]
    nothing = np.zeros((len(full), 1))
    revenue = np.hstack([nothing, earned])
    opex = np.hstack([nothing, np.broadcast_to(build.opex_month[:, None], earned.shape)])
    taxes = np.hstack([nothing, tax])
    net = revenue - opex - taxes
    net[:, 0] = -build.capex
    return CashFlows(revenue, opex, taxes, net)


def _evaluate(v: Mapping[str, Floats], scenario: Scenario, with_irr: bool) -> Results:
    build = _build(v, scenario.rounding)
    flows = _flows(v, build)
    months = flows.net.shape[1] - 1
    revenue = flows.revenue.sum(axis=1)
    opex = build.opex_month * months
    tco = build.capex + opex
    cells = v["network.cells"]
    with np.errstate(divide="ignore", invalid="ignore"):
        per_capex = np.where(build.capex > 0, revenue / build.capex, np.nan)
        roi = np.where(tco > 0, (revenue - tco) / tco, np.nan)
    return Results(
        ai_share=v["ai_share"],
        servers=build.servers,
        racks=build.racks,
        capex_usd=build.capex,
        opex_usd=opex,
        tco_usd=tco,
        ai_revenue_usd=revenue,
        revenue_per_capex=per_capex,
        roi=roi,
        npv_usd=finance.npv(finance.monthly(v["finance.discount_per_year"]), flows.net),
        irr=finance.irr_per_year(flows.net) if with_irr else np.full(len(tco), np.nan),
        payback_month=finance.payback_month(flows.net),
        tco_usd_per_cell=tco / cells,
        tco_usd_per_gbps=tco / (cells * v["network.cell_gbps"]),
        ran_watt_per_gbps=v["platform.power_w"] / v["platform.ran_gbps_per_server"],
        power_mwh=build.kwh_month * months / 1000.0,
    )
