"""What follows from a scenario: break-even, tornado, Monte Carlo, grids, goal seek."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from airan.core.errors import InvalidInputError, NotFoundError
from sims.economics import tier_prices
from sims.economics.fields import BY_KEY, Quantity
from sims.economics.model import METRICS, evaluate
from sims.economics.scenario import Scenario

Floats = npt.NDArray[np.float64]

AI_SHARE = "ai_share"
_HIGHEST_SHARE = 0.99
_SCAN = 401
_ZOOMS = 6


@dataclass(frozen=True)
class Swing:
    """What one input's range does to a metric."""

    key: str
    unit: str
    low: float
    high: float
    at_low: float
    at_high: float

    @property
    def width(self) -> float:
        """How far the metric moves."""
        return abs(self.at_high - self.at_low)


@dataclass(frozen=True)
class Spread:
    """A metric over Monte Carlo runs."""

    metric: str
    mean: float
    quantiles: Mapping[str, float]
    """By name, `p5` to `p95`, over the runs where there is a value."""
    defined: float
    """Share of runs where there is a value."""


@dataclass(frozen=True)
class MonteCarlo:
    """Monte Carlo over every input that has a range."""

    runs: int
    seed: int
    ai_share: float
    drawn: tuple[str, ...]
    spreads: tuple[Spread, ...]
    npv_positive: float
    """Share of runs with a net present value above nought."""
    npv_usd: Floats


@dataclass(frozen=True)
class Found:
    """A goal seek's answer."""

    key: str
    value: float
    unit: str
    metric: str
    reached: float


def values_of(
    scenario: Scenario, ai_share: float, metric: str, changes: Mapping[str, Floats]
) -> Floats:
    """A metric, float64[run]; `changes` may hold `ai_share` too.

    Raises:
        NotFoundError: there is no such metric.
        InvalidInputError: as `evaluate` does.
    """
    if metric not in METRICS:
        raise NotFoundError(f"there is no metric {metric!r}", remedy=f"known: {', '.join(METRICS)}")
    rest = {key: value for key, value in changes.items() if key != AI_SHARE}
    results = evaluate(scenario, changes.get(AI_SHARE, np.array([ai_share])), rest, metric == "irr")
    return np.asarray(getattr(results, metric), dtype=np.float64)


def tornado(scenario: Scenario, ai_share: float, metric: str) -> list[Swing]:
    """Each input at the ends of its range, the others as they are; widest swing first."""
    swings = []
    for quantity in _ranged(scenario):
        low, high = quantity.span
        key = quantity.field.key
        at = [
            float(values_of(scenario, ai_share, metric, {key: np.array([end])})[0])
            for end in (low, high)
        ]
        swings.append(Swing(key, quantity.field.unit, low, high, at[0], at[1]))
    return sorted(swings, key=lambda s: -np.nan_to_num(s.width, nan=np.inf))


def _ranged(scenario: Scenario) -> list[Quantity]:
    return [
        quantity
        for key, quantity in scenario.quantities.items()
        if quantity.where and quantity.span[0] < quantity.span[1] and key != "finance.months"
    ]


def monte_carlo(scenario: Scenario, ai_share: float, runs: int, seed: int) -> MonteCarlo:
    """Draws every input that has a range from a triangle (low, value, high), independently.

    The same seed gives the same runs, bit for bit.

    Raises:
        InvalidInputError: `runs` is under 1.
    """
    if runs < 1:
        raise InvalidInputError("runs", f"must be at least 1, got {runs}")
    random = np.random.default_rng(seed)
    ranged = _ranged(scenario)
    drawn = {
        q.field.key: random.triangular(q.span[0], q.value, q.span[1], size=runs) for q in ranged
    }
    results = evaluate(scenario, np.full(runs, ai_share), drawn)
    spreads = tuple(
        _spread(metric, getattr(results, metric)) for metric in METRICS if metric != AI_SHARE
    )
    positive = float(np.mean(results.npv_usd > 0))
    return MonteCarlo(runs, seed, ai_share, tuple(drawn), spreads, positive, results.npv_usd)


def _spread(metric: str, values: Floats) -> Spread:
    there = values[~np.isnan(values)]
    if not there.size:
        return Spread(metric, float("nan"), {}, 0.0)
    at = (5, 25, 50, 75, 95)
    quantiles = {f"p{q}": float(v) for q, v in zip(at, np.percentile(there, at), strict=True)}
    return Spread(metric, float(there.mean()), quantiles, there.size / values.size)


def grid(scenario: Scenario, ai_share: float, metric: str, axes: Mapping[str, Floats]) -> Floats:
    """A metric over two inputs; float64[first axis, second axis].

    Raises:
        InvalidInputError: not two axes, or a value out of bounds.
        NotFoundError: there is no such metric or input.
    """
    if len(axes) != 2:
        raise InvalidInputError("axes", f"must be two different inputs, got {len(axes)}")
    for key, values in axes.items():
        low, high = bounds(key)
        if not bool(np.all((values >= low) & (values <= high))):
            raise InvalidInputError(key, f"must lie in {low:g} to {high:g}")
    (first, a), (second, b) = axes.items()
    mesh = np.meshgrid(a, b, indexing="ij")
    flat = {first: mesh[0].ravel(), second: mesh[1].ravel()}
    return values_of(scenario, ai_share, metric, flat).reshape(len(a), len(b))


def bounds(key: str) -> tuple[float, float]:
    """What an input may be.

    Raises:
        NotFoundError: there is no such input.
    """
    if key == AI_SHARE:
        return 0.0, _HIGHEST_SHARE
    if key not in BY_KEY:
        raise NotFoundError(
            f"there is no input {key!r}", remedy=f"known: ai_share, {', '.join(BY_KEY)}"
        )
    return BY_KEY[key].low, BY_KEY[key].high


def goal_seek(scenario: Scenario, ai_share: float, goal: tuple[str, float], key: str) -> Found:
    """The value of one input at which a metric meets `goal` (metric, wanted value).

    Looks from the input's least value up to ten times what it is (shares: up to the highest), and
    takes the crossing nearest to the present value. A payback month is met by any up to it.

    Raises:
        NotFoundError: no value in that range meets it, or an unknown metric or input.
    """
    metric, wanted = goal
    low, high = bounds(key)
    now = ai_share if key == AI_SHARE else scenario.quantities[key].value
    low += 1e-9 if key != AI_SHARE and BY_KEY[key].above_low else 0.0
    high = min(high, max(10.0 * now, low + 1.0) if key != AI_SHARE else high)

    def over(points: Floats) -> npt.NDArray[np.bool_]:
        got = values_of(scenario, ai_share, metric, {key: points})
        if metric == "payback_month":
            return np.nan_to_num(got, nan=np.inf) > wanted
        return np.asarray(got >= wanted)

    points = np.linspace(low, high, _SCAN)
    flips = np.flatnonzero(np.diff(over(points)))
    if not flips.size:
        raise NotFoundError(
            f"no {key} from {low:g} to {high:g} gives {metric} {wanted:g}",
            remedy="ask for another value, or change another input",
        )
    at = int(flips[np.argmin(np.abs(points[flips] - now))])
    for _ in range(_ZOOMS):
        points = np.linspace(points[at], points[at + 1], 33)
        at = int(np.flatnonzero(np.diff(over(points)))[0])
    ends = points[at : at + 2]
    flags = over(ends)
    value = float(ends[0] if flags[1] and metric == "payback_month" else ends[1])
    reached = float(values_of(scenario, ai_share, metric, {key: np.array([value])})[0])
    unit = "share" if key == AI_SHARE else BY_KEY[key].unit
    return Found(key, value, unit, metric, reached)


def price_key(scenario: Scenario) -> str:
    """The input that is the price of AI."""
    if tier_prices.are_given(scenario.quantities):
        return tier_prices.LEVEL
    by_token = scenario.quantities["ai.usd_per_million_tokens"].value > 0
    return "ai.usd_per_million_tokens" if by_token else "ai.usd_per_server_hour"


def break_even(scenario: Scenario, ai_share: float) -> dict[str, float | None]:
    """AI share and price of AI at which ROI, and at which NPV, is nought; None: nowhere."""
    found: dict[str, float | None] = {}
    for metric in ("roi", "npv_usd"):
        for name, key in ((AI_SHARE, AI_SHARE), ("price", price_key(scenario))):
            try:
                found[f"{name}_at_{metric}_0"] = goal_seek(
                    scenario, ai_share, (metric, 0), key
                ).value
            except NotFoundError:
                found[f"{name}_at_{metric}_0"] = None
    return found
