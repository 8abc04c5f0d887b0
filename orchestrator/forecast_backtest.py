"""How good forecasts would have been: from a rolling origin over a series, beside plain rules.

A contender answers for every bin what it would have forecast a given number of bins before,
knowing nothing later. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from airan.core.errors import InvalidInputError
from orchestrator.forecast import SiteCalendar
from orchestrator.forecast_model import Floats, SeasonModel, SeasonSettings

_WEEKS = 8
_MOST_BINS = 10_000_000


@dataclass(frozen=True)
class Series:
    """Series on one clock: `shares` float64[bin, series] in [0, 1]; bin 0 is `first_bin` since
    1970 UTC."""

    shares: Floats
    first_bin: int
    bin_s: int = 900
    time_zone: str = "UTC"

    @property
    def bins_per_day(self) -> int:
        """Bins of a day."""
        return 86_400 // self.bin_s

    def together(self) -> Series:
        """The mean of all series: what the whole pool needs."""
        mean = self.shares.mean(axis=1, keepdims=True)
        return Series(mean, self.first_bin, self.bin_s, self.time_zone)


@dataclass(frozen=True)
class Score:
    """How good the forecasts of one contender were at one distance, over all series."""

    pinball: float
    """Mean pinball loss at the quantile, in shares: what too much and too little cost together."""
    coverage: float
    """Share of the bins whose truth was at or below the forecast."""
    over_share: float
    """Mean of what was forecast above the truth."""
    worst_shortfall: float
    """The most the truth was above the forecast; 0 if it never was."""
    n_forecasts: int


Contender = Callable[[Series, int, float], Floats]
"""(series, distance in bins, quantile) -> forecasts [bin, series]; NaN where there was none."""


def binned(
    times_s: npt.NDArray[np.float64], shares: Floats, bin_s: int = 900, time_zone: str = "UTC"
) -> Series:
    """One series from samples [sample] in order of time: the maxima of bins; a bin without samples
    is as the one before.

    Raises:
        InvalidInputError: no samples, or spread over more bins than anyone has.
    """
    if not len(times_s):
        raise InvalidInputError("times_s", "no samples")
    numbers = np.floor_divide(times_s, bin_s).astype(np.int64)
    n_bins = int(numbers[-1] - numbers[0]) + 1
    if n_bins > _MOST_BINS:
        raise InvalidInputError(
            "times_s",
            f"{n_bins} bins from the first to the last sample",
            remedy="give times in seconds, not in milliseconds",
        )
    found = np.full(n_bins, -np.inf)
    np.maximum.at(found, numbers - numbers[0], shares)
    newest = np.maximum.accumulate(np.where(np.isfinite(found), np.arange(n_bins), 0))
    return Series(found[newest][:, None], int(numbers[0]), bin_s, time_zone)


def score(series: Series, forecasts: Floats, quantile: float, from_bin: int) -> Score:
    """Scores the forecasts of the bins from `from_bin` on, wherever there is one.

    Raises:
        InvalidInputError: there is none.
    """
    truth, given = series.shares[from_bin:], forecasts[from_bin:]
    there = np.isfinite(given)
    if not there.any():
        raise InvalidInputError("forecasts", f"none from bin {from_bin} on")
    short = (truth - given)[there]
    return Score(
        pinball=float(np.maximum(quantile * short, (quantile - 1.0) * short).mean()),
        coverage=float((short <= 1e-9).mean()),
        over_share=float(np.maximum(-short, 0.0).mean()),
        worst_shortfall=max(0.0, float(short.max())),
        n_forecasts=int(there.sum()),
    )


def seasonal(series: Series, distances: tuple[int, ...], quantile: float) -> dict[int, Floats]:
    """Ours, at several distances in one pass: forecasts [bin, series] of each."""
    settings = SeasonSettings.of(series.bins_per_day, quantile)
    calendar = SiteCalendar(series.bin_s, series.time_zone)
    n_bins, n_series = series.shares.shape
    model = SeasonModel(n_series, calendar, settings)
    found = {distance: np.full((n_bins, n_series), np.nan) for distance in distances}
    ahead = np.array(distances)
    for index, shares in enumerate(series.shares):
        model.step(series.first_bin + index, shares)
        if model.has_errors:
            made = np.clip(model.forecast(series.first_bin + index + ahead), 0.0, 1.0)
            for distance, forecast in zip(distances, made, strict=True):
                if index + distance < n_bins:
                    found[distance][index + distance] = forecast
    return found


def plain_seasonal(series: Series, distance: int, quantile: float) -> Floats:
    """The quantile of the same time of the week, over the past weeks (eight at most)."""
    week = 7 * series.bins_per_day
    found = np.full(series.shares.shape, np.nan)
    for index in range(week, len(found)):
        past = series.shares[index % week : index - distance + 1 : week][-_WEEKS:]
        if len(past):
            found[index] = np.quantile(past, quantile, axis=0)
    return found


def last_value(series: Series, distance: int, quantile: float) -> Floats:  # noqa: ARG001
    """What was there when the forecast was made."""
    return _later(series.shares, distance)


def peak_so_far(series: Series, distance: int, quantile: float) -> Floats:  # noqa: ARG001
    """The most there has been until then: what one does without a forecast."""
    return _later(np.maximum.accumulate(series.shares, axis=0), distance)


def _later(values: Floats, distance: int) -> Floats:
    found = np.full(values.shape, np.nan)
    found[distance:] = values[: max(0, len(values) - distance)]
    return found


def bins_of(horizon_s: float, bin_s: int) -> int:
    """How many bins a horizon is, at least one."""
    return max(1, math.ceil(horizon_s / bin_s))
