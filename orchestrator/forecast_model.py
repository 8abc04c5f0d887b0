"""The season of many series at once, with its correction and its errors: the arithmetic. Pure.

All series share one clock and are fed together, bin by bin. A forecast is

    season(time of day, kind of day) + correction(what was unlike the season lately)
        + quantile of past errors at that distance * how noisy this time of day is

The correction is linear in a few residuals; its weights are learnt for each distance and each
series by recursive least squares, with forgetting.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

STEPS = (1, 2, 4, 8, 16, 32, 96)
"""Distances, in bins, whose weights and errors are learnt; one between goes by the next longer."""

_N_FEATURES = 8
_LEAST_SCALE = 0.004
_HUBER = 6.0  # times the usual error
_MARGINS = (0.7, 2.0)
_NEAR = np.arange(-2, 3)
_NEARNESS = 0.1  # of what a day weighs


class Calendar(Protocol):
    """What bins have in common with bins of other days."""

    slots_per_day: int

    def slots(self, bins: Ints) -> tuple[Ints, Ints]:
        """Slot of the day, and weekday (Monday is 0), of each bin."""
        ...


@dataclass(frozen=True)
class SeasonSettings:
    """How the season is learnt."""

    new_day_weight: float = 0.08
    """Of the newest day in a slot's mean, at least."""
    clip: float = 4.0
    """A residual counts for the season up to so many times what is usual: events are none."""
    forgetting: float = 0.999
    """Of the least squares, each bin."""
    stiffness: float = 0.02
    """Of the first weights."""
    errors_kept: int = 1344
    """Past errors of each distance: two weeks of a quarter of an hour."""
    refresh_bins: int = 4
    """So often the quantile of the errors is taken anew."""
    least_errors: int = 48
    adapting: float = 0.03
    """By so much of itself the margin grows after a miss, nearly."""
    quantile: float = 0.95

    @staticmethod
    def of(slots_per_day: int, quantile: float) -> SeasonSettings:
        """Those for bins of that length: two weeks of errors."""
        return SeasonSettings(
            quantile=quantile,
            errors_kept=max(14 * slots_per_day, 96),
            least_errors=max(20, slots_per_day // 2),
        )


class SeasonModel:
    """Learns series [series] bin by bin and forecasts them."""

    def __init__(self, n_series: int, calendar: Calendar, settings: SeasonSettings) -> None:
        self.calendar, self.settings = calendar, settings
        self.n_series, self.last_bin, self.n_bins = n_series, -1, 0
        day = calendar.slots_per_day
        self._day, self._week = day, 7 * day
        # Kinds of day: any, working, free.
        self._mean = np.zeros((3, day, n_series))
        self._spread = np.zeros((3, day, n_series))
        self._count = np.zeros((3, day), np.int64)
        # What is forecast from: working, free.
        self._season = np.zeros((2, day, n_series))
        self._noise = np.full((2, day, n_series), _LEAST_SCALE)
        self._usual_noise = np.full(n_series, 0.02)
        self._usual_share = np.full(n_series, 0.2)
        self._past = np.zeros((self._week + 1, n_series))
        self._past_bin = np.full(self._week + 1, -1)
        self._last = _Lately(n_series)
        self._steps = np.array(STEPS)
        self._pending = _Pending(max(STEPS) + 1, n_series)
        self._weights = np.zeros((len(STEPS), n_series, _N_FEATURES))
        self._weights[:, :, 0] = np.exp(-self._steps / 8.0)[:, None]
        inverse = np.eye(_N_FEATURES) / settings.stiffness
        self._inverse = np.tile(inverse, (len(STEPS), n_series, 1, 1))
        self._errors = np.full((settings.errors_kept, len(STEPS), n_series), np.inf)
        self._n_errors = np.zeros(len(STEPS), np.int64)
        self._quantile = np.zeros((len(STEPS), n_series))
        self._margin = np.ones((len(STEPS), n_series))

    @property
    def days_known(self) -> float:
        """How often the slots of the day have been seen, in the mean."""
        return float(self._count[0].mean())

    @property
    def knows_the_week(self) -> bool:
        """Whether working and free days have been seen twice each."""
        return bool((self._count[1:].mean(axis=1) >= 2.0).all())

    @property
    def has_errors(self) -> bool:
        """Whether the errors of the shortest distance say anything yet."""
        enough = self.settings.least_errors + self.settings.refresh_bins
        return bool(self._n_errors[0] >= enough)

    def step(self, number: int, shares: Floats) -> None:
        """Takes in bin `number`, later than the last one; `shares` [series]."""
        slot, kind = self._where(np.array([number]))
        base = self._season[kind[0], slot[0]].copy()
        self._learn(number, shares)
        self._settle(int(slot[0]), int(kind[0]), shares, base)
        self._past[number % len(self._past)] = shares
        self._past_bin[number % len(self._past)] = number
        self._last.add(shares, base, self.n_bins > self._day)
        self.last_bin = number
        self.n_bins += 1
        if self.n_bins > self._day:
            targets = number + self._steps
            features, bases, scales = self._looked_ahead(targets)
            self._pending.put(number, features, bases, scales)
        if self.n_bins % self.settings.refresh_bins == 0:
            self._refresh()

    def forecast(self, bins: Ints) -> Floats:
        """The quantile expected for each of the bins, all after the last one: [bin, series]."""
        which = np.minimum(np.searchsorted(self._steps, bins - self.last_bin), len(STEPS) - 1)
        features, bases, scales = self._looked_ahead(bins)
        expected: Floats = bases + (features * self._weights[which]).sum(axis=2)
        return expected + self._quantile[which] * self._margin[which] * scales

    def _where(self, bins: Ints) -> tuple[Ints, Ints]:
        slot, weekday = self.calendar.slots(bins)
        return slot, (weekday >= 5).astype(np.int64)

    def _looked_ahead(self, targets: Ints) -> tuple[Floats, Floats, Floats]:
        """What the correction looks at [bin, series, feature], season and scale [bin, series]."""
        slot, kind = self._where(targets)
        bases = self._season[kind, slot]
        features = np.empty((len(targets), self.n_series, _N_FEATURES))
        last = self._last
        features[:, :, 0] = last.residual
        features[:, :, 1] = last.hours
        features[:, :, 2] = last.day
        features[:, :, 3] = last.ratio * bases
        features[:, :, 4] = self._unlike(targets - self._day, bases)
        features[:, :, 5] = self._unlike(targets - self._week, bases)
        beside = self._season[kind, slot - 1] + self._season[kind, (slot + 1) % self._day]
        features[:, :, 6] = 0.5 * beside - bases
        features[:, :, 7] = 0.05
        return features, bases, self._noise[kind, slot]

    def _unlike(self, bins: Ints, bases: Floats) -> Floats:
        """How far those bins of the past were from `bases`; 0 where they are unknown."""
        index = bins % len(self._past)
        known = (self._past_bin[index] == bins)[:, None]
        return np.where(known, self._past[index] - bases, 0.0)

    def _learn(self, number: int, shares: Floats) -> None:
        """Compares with what was forecast for this bin, at every distance."""
        known, features, bases, scales = self._pending.take(number)
        if not known.any():
            return
        error = shares - bases - (features * self._weights).sum(axis=2)
        relative = error / scales
        self._adapt(known, relative)
        kept = self._n_errors[known] % self.settings.errors_kept
        self._errors[kept, known] = relative[known]
        self._n_errors[known] += 1
        # Huber's weight: an event must not turn the weights.
        limit = _HUBER * scales
        error *= limit / np.maximum(np.abs(error), limit) * known[:, None]
        self._turn_weights(features * known[:, None, None], error)

    def _adapt(self, known: npt.NDArray[np.bool_], relative: Floats) -> None:
        """Widens the margin a little after a miss, narrows it by less after a hit, so that in the
        long run as much is covered as was promised (after Gibbs and Candes 2021)."""
        missed = relative > self._quantile * self._margin
        change = self.settings.adapting * (missed - (1.0 - self.settings.quantile))
        # Slower at a distance: misses come in rows there, and are known late.
        counts = known & (self._n_errors > self.settings.least_errors)
        change *= (counts / self._steps)[:, None]
        least, most = _MARGINS
        self._margin = np.minimum(np.maximum(self._margin * (1.0 + change), least), most)

    def _turn_weights(self, features: Floats, error: Floats) -> None:
        """Recursive least squares; both arguments are 0 where there is nothing to learn."""
        gain = (self._inverse @ features[..., None])[..., 0]
        stretch = self.settings.forgetting + (gain * features).sum(axis=2, keepdims=True)
        learnt = gain / stretch
        self._weights += learnt * error[:, :, None]
        self._inverse -= learnt[..., None] * gain[:, :, None, :]
        # Forgetting without news would let the inverse grow beyond bounds.
        size = np.trace(self._inverse, axis1=2, axis2=3)
        tame = size < self.settings.forgetting * _N_FEATURES / self.settings.stiffness
        self._inverse *= np.where(tame, 1.0 / self.settings.forgetting, 1.0)[..., None, None]

    def _settle(self, slot: int, kind: int, shares: Floats, base: Floats) -> None:
        """Moves the season towards the bin just seen, and the noise of that time of day."""
        near = (slot + _NEAR) % self._day
        noise = np.abs(shares - base)
        for table in (0, 1 + kind):
            count = self._count[table, slot]
            weight = max(1.0 / (count + 1.0), self.settings.new_day_weight)
            residual = shares - self._mean[table, slot]
            if count == 0:
                self._spread[table, slot] = 0.02 + 0.1 * shares
            else:
                limit = self.settings.clip * np.maximum(self._spread[table, slot], 0.02)
                if count >= 3:
                    residual = np.minimum(np.maximum(residual, -limit), limit)
                spread = self._spread[table, near]
                change = np.minimum(noise, limit) - spread
                self._spread[table, near] = spread + weight * _NEARNESS * change
            self._mean[table, slot] += weight * residual
            self._count[table, slot] = count + 1
        # How noisy the series is for its load, over a week.
        self._usual_noise += (noise - self._usual_noise) / self._week
        self._usual_share += (shares - self._usual_share) / self._week
        self._blend(near)

    def _blend(self, slots: Ints) -> None:
        """The kind of day's own season and noise as far as they are known, else any day's."""
        count = self._count[1:, slots, None]
        known = np.minimum(np.maximum((count - 1) / 2.0, 0.0), 1.0)
        usual, own = self._mean[0, slots], self._mean[1:, slots]
        self._season[:, slots] = usual + known * (own - usual)
        known = np.minimum(count / 6.0, 1.0)
        usual, own = self._spread[0, slots], self._spread[1:, slots]
        seen = usual + known * (own - usual)
        # Half by what was seen at that time of day, half by the load: a few days say little.
        by_load = self._season[:, slots] * (self._usual_noise / self._usual_share)
        self._noise[:, slots] = np.maximum(0.5 * (seen + by_load), _LEAST_SCALE)

    def _refresh(self) -> None:
        """Takes the quantile of the errors anew; a distance with too few goes by the one before."""
        kept = self.settings.errors_kept
        for which, n_errors in enumerate(np.minimum(self._n_errors, kept)):
            if n_errors >= self.settings.least_errors:
                rank = min(n_errors - 1, math.ceil(self.settings.quantile * (n_errors + 1)) - 1)
                errors = self._errors[:n_errors, which]
                self._quantile[which] = np.partition(errors, rank, axis=0)[rank]
            elif which:
                self._quantile[which] = self._quantile[which - 1]


class _Lately:
    """How the last bins differed from the season, [series]."""

    def __init__(self, n_series: int) -> None:
        self.residual = np.zeros(n_series)
        self.hours = np.zeros(n_series)
        self.day = np.zeros(n_series)
        self.ratio = np.zeros(n_series)

    def add(self, shares: Floats, base: Floats, counts: bool) -> None:
        if not counts:
            return
        self.residual = shares - base
        self.hours = self.hours + (self.residual - self.hours) / 6.0
        self.day = self.day + (self.residual - self.day) / 96.0
        ratio = np.minimum(np.maximum(self.residual / np.maximum(base, 0.03), -1.0), 2.0)
        self.ratio = self.ratio + (ratio - self.ratio) / 3.0


class _Pending:
    """What was looked at for bins to come."""

    def __init__(self, n_bins: int, n_series: int) -> None:
        self._made = np.full(n_bins, -1)
        shape = (n_bins, len(STEPS), n_series)
        self._features = np.zeros((*shape, _N_FEATURES))
        self._bases, self._scales = np.zeros(shape), np.ones(shape)
        self._steps, self._which = np.array(STEPS), np.arange(len(STEPS))

    def put(self, number: int, features: Floats, bases: Floats, scales: Floats) -> None:
        row = number % len(self._made)
        self._made[row] = number
        self._features[row], self._bases[row], self._scales[row] = features, bases, scales

    def take(self, number: int) -> tuple[npt.NDArray[np.bool_], Floats, Floats, Floats]:
        made = number - self._steps
        rows = made % len(self._made)
        at = (rows, self._which)
        return (
            self._made[rows] == made,
            self._features[at],
            self._bases[at],
            self._scales[at],
        )
