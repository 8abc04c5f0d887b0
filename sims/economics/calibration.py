"""Finds unpublished inputs from published results, and how far they may be off."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from airan.core.errors import InvalidInputError
from sims.economics.fields import BY_KEY, Quantity
from sims.economics.model import evaluate
from sims.economics.scenario import Scenario, load

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

TOLERANCE = 0.10
_WIDEST = 4.0
_POINTS = 801


@dataclass(frozen=True)
class Check:
    """A published result beside the model's."""

    what: str
    published: float
    model: float
    source: str

    @property
    def error(self) -> float:
        """The model's relative distance from what was published."""
        return self.model / self.published - 1.0


@dataclass(frozen=True)
class Slack:
    """How far an input can move, alone, before a published result is left by `TOLERANCE`."""

    key: str
    unit: str
    kind: str
    value: float
    low: float | None
    """None: as low as the input may be."""
    high: float | None
    """None: up to four times the value, or to the input's bound."""
    first_lost: str
    """The published result that is lost first, on either side; empty: none."""


@dataclass(frozen=True)
class Solution:
    """Calibrated inputs as the published results demand them."""

    values: dict[str, float]
    rank: int
    """Independent equations among the published results; as many unknowns are determined."""
    worst_residual: float
    """Relative to the money of its equation."""


def checks(scenario: Scenario) -> list[Check]:
    """Every published result of the scenario beside the model's."""
    found = []
    for claim in scenario.published:
        results = evaluate(scenario, claim.ai_share)
        at = f"at {claim.ai_share:.0%} AI"
        if claim.revenue_per_capex is not None:
            model = float(results.revenue_per_capex[0])
            found.append(
                Check(f"revenue per CapEx {at}", claim.revenue_per_capex, model, claim.source)
            )
        if claim.roi is not None:
            found.append(Check(f"ROI {at}", claim.roi, float(results.roi[0]), claim.source))
    ours = watt_per_gbps(scenario)
    for watts in scenario.watt_claims:
        model = 1.0 - ours / watt_per_gbps(load(watts.against))
        what = f"W per Gb/s under {watts.against}"
        found.append(Check(what, watts.reduction, model, watts.source))
    return found


def watt_per_gbps(scenario: Scenario) -> float:
    """Of a server all on RAN at full load."""
    values = scenario.values()
    return values["platform.power_w"] / values["platform.ran_gbps_per_server"]


def solve(scenario: Scenario) -> Solution:
    """Solves the published results for the calibrated inputs, in which they are linear.

    Revenue = ratio x CapEx and revenue = (1 + ROI) x TCO, one equation each; least squares.

    Raises:
        InvalidInputError: nothing is calibrated, or nothing was published.
    """
    keys = [q.field.key for q in scenario.of_kind("calibrated")]
    claims = [
        c for c in scenario.published if c.revenue_per_capex is not None and c.roi is not None
    ]
    if not keys or not claims:
        raise InvalidInputError("scenario", "needs calibrated inputs and published results")
    shares = np.array([claim.ai_share for claim in claims])
    ratios = np.array([claim.revenue_per_capex for claim in claims], dtype=np.float64)
    gains = 1.0 + np.array([claim.roi for claim in claims], dtype=np.float64)

    def money(changes: dict[str, float]) -> Floats:
        results = evaluate(scenario, shares, changes, with_irr=False)
        return np.concatenate([results.capex_usd, results.tco_usd])

    revenue = evaluate(scenario, shares).ai_revenue_usd
    wanted = np.concatenate([revenue / ratios, revenue / gains])
    nothing = money(dict.fromkeys(keys, 0.0))
    columns = [money({**dict.fromkeys(keys, 0.0), key: 1.0}) - nothing for key in keys]
    matrix = np.stack(columns, axis=1) / wanted[:, None]
    right = (wanted - nothing) / wanted
    solved, _, rank, _ = np.linalg.lstsq(matrix, right, rcond=None)
    worst = float(np.max(np.abs(matrix @ solved - right)))
    return Solution(dict(zip(keys, map(float, solved), strict=True)), int(rank), worst)


def slacks(scenario: Scenario) -> list[Slack]:
    """How far each input that is not published can move before a result leaves 10 %.

    The inputs of the platforms that watt claims compare with are among them.
    """
    names = [check.what for check in checks(scenario)]
    quantities = scenario.of_kind("assumed", "calibrated")
    money = [_slack(q, q.field.key, _money(scenario, q.field.key), names) for q in quantities]
    watts = [_watt_slack(scenario, claim.against) for claim in scenario.watt_claims]
    return [*money, *watts]


def _money(scenario: Scenario, key: str) -> Callable[[Floats], Bools]:
    def kept(points: Floats) -> Bools:
        rows = []
        for claim in scenario.published:
            results = evaluate(scenario, claim.ai_share, {key: points}, with_irr=False)
            for wanted, got in (
                (claim.revenue_per_capex, results.revenue_per_capex),
                (claim.roi, results.roi),
            ):
                if wanted is not None:
                    rows.append(np.abs(got / wanted - 1.0) <= TOLERANCE)
        return np.array(rows)

    return kept


def _watt_slack(scenario: Scenario, against: str) -> Slack:
    other = load(against)
    gbps = other.quantities["platform.ran_gbps_per_server"].value
    claim = next(c for c in scenario.watt_claims if c.against == against)

    def kept(points: Floats) -> Bools:
        reduction = 1.0 - watt_per_gbps(scenario) / (points / gbps)
        return np.abs(reduction / claim.reduction - 1.0)[None, :] <= TOLERANCE

    quantity = other.quantities["platform.power_w"]
    return _slack(quantity, f"{against}: platform.power_w", kept, [f"W per Gb/s under {against}"])


def _slack(
    quantity: Quantity, key: str, kept: Callable[[Floats], Bools], names: list[str]
) -> Slack:
    field = BY_KEY[quantity.field.key]
    least = max(field.low, quantity.value * 1e-6 if field.above_low else field.low)
    most = min(field.high, quantity.value * _WIDEST)
    low, lost_low = _edge(quantity.value, least, kept)
    high, lost_high = _edge(quantity.value, most, kept)
    lost = [names[i] for i in (lost_low, lost_high) if i is not None]
    return Slack(
        key, field.unit, quantity.kind, quantity.value, low, high, ", ".join(dict.fromkeys(lost))
    )


def _edge(
    value: float, end: float, kept: Callable[[Floats], Bools]
) -> tuple[float | None, int | None]:
    """The first point from `value` towards `end` where a result is lost, and which."""
    near, far = value, end
    lost: int | None = None
    for _ in range(3):
        points = np.linspace(near, far, _POINTS)
        rows = kept(points)
        bad = np.flatnonzero(~rows.all(axis=0))
        if not bad.size or near == far:
            return None, None
        at = int(bad[0])
        if at == 0:
            return value, int(np.flatnonzero(~rows[:, 0])[0])
        lost = int(np.flatnonzero(~rows[:, at])[0])
        near, far = float(points[at - 1]), float(points[at])
    return near, lost
