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
        return [sample for sample in self._samples if sample[0] >= from_s]


def forecast(samples: Sequence[Sample], horizon_s: float, settings: DemandSettings) -> float:
    """The largest share expected within `horizon_s` after the last sample, in [0, 1].

    `samples` are in order of time, at least one.
    """
    errors = []
    for index, (time_s, share) in enumerate(samples):
        made_s = time_s - horizon_s
        before = [one for one in samples[:index] if made_s - settings.fit_s <= one[0] <= made_s]
        if len(before) >= settings.min_samples:
            errors.append(share - _carried_on(before, time_s))
    last_s = samples[-1][0]
    fitted = [one for one in samples if one[0] >= last_s - settings.fit_s]
    expected = max(_carried_on(fitted, last_s), _carried_on(fitted, last_s + horizon_s))
    return min(1.0, max(0.0, expected + max(0.0, _quantile(errors, settings.quantile))))


def _carried_on(samples: Sequence[Sample], time_s: float) -> float:
    """The least-squares line through the samples, at `time_s`."""
    mean_s = math.fsum(one[0] for one in samples) / len(samples)
    mean = math.fsum(one[1] for one in samples) / len(samples)
    spread = math.fsum((one[0] - mean_s) ** 2 for one in samples)
    if spread == 0.0:
        return mean
    slope = math.fsum((one[0] - mean_s) * (one[1] - mean) for one in samples) / spread
    return mean + slope * (time_s - mean_s)


def _quantile(values: Sequence[float], quantile: float) -> float:
    """The smallest value that at least that part of the values does not exceed; 0 for none."""
    if not values:
        return 0.0
    return sorted(values)[max(0, math.ceil(quantile * len(values)) - 1)]


def _assumed(share: float, horizon_s: float, source: str) -> Demand:
    return Demand(share, share, share, horizon_s, f"assumed: {source}", assumed=True)
