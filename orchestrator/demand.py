"""What the RAN needs: its measured demand now, and a forecast that errs on the safe side.

The forecast carries the recent trend on and adds the upper quantile of the errors that the same
rule made lately. Without history it is the peak: the RAN keeps everything until it has spoken.
Where there are days of history, what is needed beyond the horizon is at least what the season of
the day and week says.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

import numpy as np
import numpy.typing as npt

from orchestrator.forecast import WEEK_S, ForecastSettings, SeasonalForecaster
from orchestrator.plan import Demand

Sample = tuple[float, float]
"""Unix seconds, share of the pool."""


@dataclass(frozen=True)
class DemandSettings:
    """How demand is forecast. Times are wall seconds."""

    fit_s: float = 4.0
    """The trend is the straight line through this much of the past."""
    residual_s: float = 30.0
    """The errors of this much of the past count."""
    quantile: float = 0.95
    min_samples: int = 4
    stale_s: float = 5.0
    """Reports older than this say nothing about now."""
    keep_s: float = 3600.0
    """How far back the peak is looked for."""
    season: ForecastSettings = field(default_factory=ForecastSettings)
    """How the season is learnt."""


class DemandEstimator:
    """Collects the reported demand and forecasts it."""

    def __init__(
        self,
        settings: DemandSettings | None = None,
        history: Iterable[Sample] = (),
        season: SeasonalForecaster | None = None,
    ) -> None:
        self.settings = settings or DemandSettings()
        self.season = season or SeasonalForecaster(self.settings.season)
        self._samples: deque[Sample] = deque(history)
        for time_s, share in self._samples:
            self.season.add(time_s, share)

    def add(self, time_s: float, share: float) -> None:
        """Takes a measured demand in; one that is not newer than the last is ignored."""
        if self._samples and time_s <= self._samples[-1][0]:
            return
        share = min(1.0, max(0.0, share))
        self._samples.append((time_s, share))
        self.season.add(time_s, share)
        while self._samples[0][0] < time_s - self.settings.keep_s:
            self._samples.popleft()

    def is_fresh(self, now_s: float) -> bool:
        """Whether the RAN has reported within `stale_s`."""
        return bool(self._samples) and now_s - self._samples[-1][0] <= self.settings.stale_s

    @property
    def last_share(self) -> float:
        """The demand last reported; 0 before any."""
        return self._samples[-1][1] if self._samples else 0.0

    def demand(self, now_s: float, horizon_s: float, sustain_s: float, safe_share: float) -> Demand:
        """Demand now, within `horizon_s`, and within `horizon_s + sustain_s`.

        `safe_share` is the least assumed while reports are stale.
        """
        if not self._samples:
            return _assumed(1.0, horizon_s, "no report yet: all of the GPU")
        if not self.is_fresh(now_s):
            peak = max(share for _, share in self._samples)
            age_s = now_s - self._samples[-1][0]
            source = f"last report {age_s:.0f} s old: the peak seen, at least {safe_share:.0%}"
            return _assumed(max(peak, safe_share), horizon_s, source)
        recent = self._recent(self.settings.residual_s + self.settings.fit_s + horizon_s)
        if len(recent) < self.settings.min_samples:
            return _assumed(1.0, horizon_s, "too few reports for a forecast: all of the GPU")
        now = recent[-1][1]
        source = (
            f"trend of {self.settings.fit_s:g} s of slot reports plus the"
            f" {self.settings.quantile:.0%} quantile of its recent errors"
        )
        sustained = max(now, forecast(recent, horizon_s + sustain_s, self.settings))
        if self.season.has_season:
            expected = self.season.forecast(now_s, min(WEEK_S, horizon_s + sustain_s))
            sustained = max(sustained, expected.share)
            source = f"{source}; beyond {horizon_s:.0f} s at least the {expected.source}"
        return Demand(
            now_share=now,
            forecast_share=max(now, forecast(recent, horizon_s, self.settings)),
            sustained_share=sustained,
            horizon_s=horizon_s,
            source=source,
        )

    def _recent(self, seconds: float) -> list[Sample]:
        from_s = self._samples[-1][0] - seconds
        newest_first = takewhile(lambda sample: sample[0] >= from_s, reversed(self._samples))
        return list(newest_first)[::-1]


def forecast(samples: Sequence[Sample], horizon_s: float, settings: DemandSettings) -> float:
    """The largest share expected within `horizon_s` after the last sample, in [0, 1].

    `samples` are in order of time, at least one.
    """
    errors = _errors(samples, horizon_s, settings)
    last_s = samples[-1][0]
    fitted = [one for one in samples if one[0] >= last_s - settings.fit_s]
    expected = max(_carried_on(fitted, last_s), _carried_on(fitted, last_s + horizon_s))
    return min(1.0, max(0.0, expected + max(0.0, _quantile(errors, settings.quantile))))


def _errors(
    samples: Sequence[Sample], horizon_s: float, settings: DemandSettings
) -> npt.NDArray[np.float64]:
    """By how much each sample was above what the same rule had said `horizon_s` before it.

    Samples with fewer than `min_samples` to go by are left out. All lines are fitted at once:
    the windows lie one after the other in flat arrays.
    """
    times_s, shares = np.array(samples, np.float64).T
    made_s = times_s - horizon_s
    first = np.searchsorted(times_s, made_s - settings.fit_s, "left")
    after = np.minimum(np.searchsorted(times_s, made_s, "right"), np.arange(len(samples)))
    (judged,) = np.nonzero(after - first >= max(1, settings.min_samples))
    if not len(judged):
        return np.zeros(0)
    first, n_before = first[judged], (after - first)[judged]
    start = np.cumsum(n_before) - n_before
    which = np.repeat(np.arange(len(judged)), n_before)
    at = np.arange(len(which)) + (first - start)[which]
    # Counted from the first of each window, so that no digits are lost to the date.
    x, y = times_s[at] - times_s[first][which], shares[at]
    mean_x, mean_y = np.add.reduceat(x, start) / n_before, np.add.reduceat(y, start) / n_before
    x -= mean_x[which]
    y -= mean_y[which]
    spread = np.add.reduceat(x * x, start)
    slope = np.add.reduceat(x * y, start) / np.where(spread > 0.0, spread, np.inf)
    carried_on = mean_y + slope * (times_s[judged] - times_s[first] - mean_x)
    found: npt.NDArray[np.float64] = shares[judged] - carried_on
    return found


def _carried_on(samples: Sequence[Sample], time_s: float) -> float:
    """The least-squares line through the samples, at `time_s`."""
    mean_s = math.fsum(one[0] for one in samples) / len(samples)
    mean = math.fsum(one[1] for one in samples) / len(samples)
    spread = math.fsum((one[0] - mean_s) ** 2 for one in samples)
    if spread == 0.0:
        return mean
    slope = math.fsum((one[0] - mean_s) * (one[1] - mean) for one in samples) / spread
    return mean + slope * (time_s - mean_s)


def _quantile(values: npt.NDArray[np.float64], quantile: float) -> float:
    """The smallest value that at least that part of the values does not exceed; 0 for none."""
    if not len(values):
        return 0.0
    rank = max(0, math.ceil(quantile * len(values)) - 1)
    return float(np.partition(values, rank)[rank])


def _assumed(share: float, horizon_s: float, source: str) -> Demand:
    return Demand(share, share, share, horizon_s, f"assumed: {source}", assumed=True)
