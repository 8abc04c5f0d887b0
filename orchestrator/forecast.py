"""What the RAN will need within minutes to days: by the season of the day and of the week.

Samples become the maxima of bins. What is forecast for a bin is a quantile that covers the
errors made so far at that distance; `orchestrator.forecast_model` holds the arithmetic. Without
a season it is carried on from the last bin; without any history it is the peak. Pure.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import numpy as np

from airan.core.clock import DAY_S
from airan.core.errors import InvalidInputError
from orchestrator.forecast_model import Ints, SeasonModel, SeasonSettings
from orchestrator.policy import zone

WEEK_S = 7 * DAY_S
_EPOCH_WEEKDAY = 3  # 1 January 1970 was a Thursday.
_LEAST_CHANGES = 8
_CACHED = 1000


@dataclass(frozen=True)
class ForecastSettings:
    """How the season is forecast. Times are seconds on the site's clock.

    Raises:
        InvalidInputError: bins that do not divide a day, no such time zone, a quantile outside
            (0, 1), or less than a week kept.
    """

    bin_s: int = 900
    time_zone: str = "UTC"
    """IANA name: whose day and week it is."""
    quantile: float = 0.95
    keep_days: int = 35
    """So much of the past is kept, and learnt from after a restart."""
    season_days: float = 2.0
    """The season counts from so much history on."""

    def __post_init__(self) -> None:
        if self.bin_s < 60 or DAY_S % self.bin_s:
            raise InvalidInputError(
                "bin_s", f"must divide a day, and be at least 60, got {self.bin_s}"
            )
        if not 0.0 < self.quantile < 1.0:
            raise InvalidInputError("quantile", f"must lie in (0, 1), got {self.quantile}")
        if self.keep_days < 8:
            raise InvalidInputError("keep_days", f"must be more than a week, got {self.keep_days}")
        zone(self.time_zone)


@dataclass(frozen=True)
class SeasonForecast:
    """The most the RAN is expected to need until the horizon."""

    share: float
    kind: str
    """`season`, `trend` or `peak`."""
    source: str
    """How it was found, in words."""


@dataclass
class SiteCalendar:
    """Slots of the day and weekdays, in a time zone with its summer time."""

    bin_s: int
    time_zone: str
    slots_per_day: int = field(init=False)
    _offsets: dict[int, int] = field(init=False, default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.slots_per_day = round(DAY_S / self.bin_s)
        self._zone = zone(self.time_zone)

    def slots(self, bins: Ints) -> tuple[Ints, Ints]:
        """Slot of the day, and weekday (Monday is 0), of each bin since 1970 UTC."""
        local = bins if self.time_zone == "UTC" else bins + self._offset_bins(bins)
        return local % self.slots_per_day, (local // self.slots_per_day + _EPOCH_WEEKDAY) % 7

    def _offset_bins(self, bins: Ints) -> Ints:
        """How many bins the zone is ahead of UTC, looked up once an hour."""
        return np.array([self._offset(int(one) * self.bin_s // 900) for one in bins], np.int64)

    def _offset(self, quarter: int) -> int:
        # No zone changes its offset but on a quarter of an hour.
        if quarter not in self._offsets:
            if len(self._offsets) > 10_000:
                self._offsets.clear()
            offset = datetime.fromtimestamp(quarter * 900, self._zone).utcoffset()
            seconds = offset.total_seconds() if offset is not None else 0.0
            self._offsets[quarter] = round(seconds / self.bin_s)
        return self._offsets[quarter]


class SeasonalForecaster:
    """Learns one series and forecasts it.

    `site_s` maps Unix seconds to seconds on the site's clock, where that runs faster.
    """

    def __init__(
        self,
        settings: ForecastSettings | None = None,
        site_s: Callable[[float], float] | None = None,
    ) -> None:
        self.settings = settings or ForecastSettings()
        self._site_s = site_s or _as_it_is
        calendar = SiteCalendar(self.settings.bin_s, self.settings.time_zone)
        per_day = calendar.slots_per_day
        learning = SeasonSettings.of(per_day, self.settings.quantile)
        self._model = SeasonModel(1, calendar, learning)
        self._bins: deque[tuple[int, float]] = deque(maxlen=self.settings.keep_days * per_day)
        self._open: tuple[int, float] | None = None
        self._cache: dict[tuple[int, int], SeasonForecast] = {}

    @property
    def last_bin(self) -> int:
        """Number of the last complete bin since 1970; -1 before any."""
        return self._bins[-1][0] if self._bins else -1

    @property
    def has_season(self) -> bool:
        """Whether there is history enough for a season."""
        return self._model.days_known >= self.settings.season_days and self._model.has_errors

    def add(self, time_s: float, share: float) -> None:
        """Takes a sample in (Unix seconds, share of the pool); one before the bin that is being
        filled is ignored.

        Raises:
            InvalidInputError: not a number.
        """
        if math.isnan(share) or not math.isfinite(time_s):
            raise InvalidInputError("share", f"must be numbers, got {share} at {time_s}")
        share = min(1.0, max(0.0, share))
        number = self._bin(time_s)
        if self._open is None or number > self._open[0]:
            if number <= self.last_bin:
                return
            self._complete()
            self._open = (number, share)
        elif number == self._open[0] and share > self._open[1]:
            self._open = (number, share)

    def forecast(self, now_s: float, horizon_s: float) -> SeasonForecast:
        """The most expected from now until the horizon; never less than the last sample's bin
        has seen.

        Raises:
            InvalidInputError: a horizon below 0 or above a week.
        """
        if not 0.0 <= horizon_s <= WEEK_S:
            raise InvalidInputError("horizon_s", f"must lie in [0, a week], got {horizon_s}")
        if self._open is None:
            return SeasonForecast(1.0, "peak", "no history: all of the pool")
        first = max(self._bin(now_s), self._open[0])
        last = max(self._bin(now_s + horizon_s), first)
        if (first, last) not in self._cache:
            if len(self._cache) >= _CACHED:
                self._cache.clear()
            self._cache[first, last] = self._forecast(first, last)
        found = self._cache[first, last]
        seen = self._open[1]
        return found if found.share >= seen else replace(found, share=seen)

    def body(self) -> dict[str, Any]:
        """What `restored` takes: the bins kept, as JSON."""
        bins = [*self._bins, *([self._open] if self._open is not None else [])]
        return {
            "bin_s": self.settings.bin_s,
            "bins": [number for number, _ in bins],
            "shares": [round(share, 6) for _, share in bins],
        }

    @staticmethod
    def restored(
        body: dict[str, Any] | None,
        settings: ForecastSettings | None = None,
        site_s: Callable[[float], float] | None = None,
    ) -> SeasonalForecaster:
        """One that has learnt from the stored bins; a new one without them."""
        forecaster = SeasonalForecaster(settings, _as_it_is)
        if body is not None:
            for number, share in zip(body["bins"], body["shares"], strict=True):
                forecaster.add(number * body["bin_s"], share)
        forecaster._site_s = site_s or _as_it_is
        return forecaster

    def _bin(self, time_s: float) -> int:
        return math.floor(self._site_s(time_s) / self.settings.bin_s)

    def _complete(self) -> None:
        if self._open is not None:
            self._model.step(self._open[0], np.array([self._open[1]]))
            self._bins.append(self._open)
            self._cache.clear()

    def _forecast(self, first: int, last: int) -> SeasonForecast:
        """From the complete bins only."""
        if self.has_season:
            found = self._model.forecast(np.arange(first, last + 1))
            season = "day and week" if self._model.knows_the_week else "day"
            words = (
                f"season of {season} from {self._model.days_known:.0f} days, corrected by the last"
                f" hours, plus the {self.settings.quantile:.0%} quantile of its errors"
            )
            return SeasonForecast(min(1.0, max(0.0, float(found.max()))), "season", words)
        changes = self._changes(last - self.last_bin)
        if len(changes) >= _LEAST_CHANGES:
            rank = math.ceil(self.settings.quantile * len(changes)) - 1
            words = f"the last bin plus the {self.settings.quantile:.0%} quantile of past rises"
            carried = self._bins[-1][1] + max(0.0, sorted(changes)[rank])
            return SeasonForecast(min(1.0, carried), "trend", words)
        peak = max((share for _, share in self._bins), default=0.0)
        return SeasonForecast(peak, "peak", "too little history: the peak seen")

    def _changes(self, distance: int) -> list[float]:
        """By how much the share rose over so many bins, each time."""
        share_of = dict(self._bins)
        return [
            share_of[number + distance] - share
            for number, share in self._bins
            if number + distance in share_of
        ]


def _as_it_is(time_s: float) -> float:
    return time_s
