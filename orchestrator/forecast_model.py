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


class Calendar(Protocol):
    """What bins have in common with bins of other days."""

    slots_per_day: int

    def slots(self, bins: Ints) -> tuple[Ints, Ints]:
        """Slot of the day, and weekday (Monday is 0), of each bin."""
        ...


@dataclass(frozen=True)
class SeasonSettings:
    """How the season is learnt."""

    new_day_weight: float = 0.12
    """Of the newest day in a slot's mean, at least."""
    clip: float = 4.0
    """A residual counts for the season up to so many times what is usual: events are none."""
    forgetting: float = 0.9995
    """Of the least squares, each bin."""
    stiffness: float = 0.02
    """Of the first weights."""
    errors_kept: int = 1344
    """Past errors of each distance: two weeks of a quarter of an hour."""
    refresh_bins: int = 4
    """So often the quantile of the errors is taken anew."""
    least_errors: int = 48
    quantile: float = 0.95


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
        base = self._base(slot, kind)[0]
        self._learn(number, shares)
        self._settle(int(slot[0]), int(kind[0]), shares)
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
        return expected + self._quantile[which] * scales

    def _where(self, bins: Ints) -> tuple[Ints, Ints]:
        slot, weekday = self.calendar.slots(bins)
        return slot, np.where(weekday >= 5, 2, 1)

    def _base(self, slot: Ints, kind: Ints) -> Floats:
        """The season, [bin, series]: the kind of day's own as far as it is known."""
        count = self._count[kind, slot][:, None]
        own = np.clip(count - 1.0, 0.0, 2.0) / 2.0
        return own * self._mean[kind, slot] + (1.0 - own) * self._mean[0, slot]

    def _scale(self, slot: Ints, kind: Ints) -> Floats:
        """How noisy that time of day is, [bin, series], beside its neighbours."""
        near = (slot[:, None] + np.arange(-2, 3)) % self._day
        usual = self._spread[0, near].mean(axis=1)
        own = self._spread[kind[:, None], near].mean(axis=1)
        known = np.clip(self._count[kind, slot] / 6.0, 0.0, 1.0)[:, None]
        return np.maximum(known * own + (1.0 - known) * usual, _LEAST_SCALE)

    def _looked_ahead(self, targets: Ints) -> tuple[Floats, Floats, Floats]:
        """What the correction looks at [bin, series, feature], season and scale [bin, series]."""
        slot, kind = self._where(targets)
        bases = self._base(slot, kind)
        features = np.empty((len(targets), self.n_series, _N_FEATURES))
        last = self._last
        features[:, :, 0] = last.residual
        features[:, :, 1] = last.hours
        features[:, :, 2] = last.day
        features[:, :, 3] = last.ratio * bases
        features[:, :, 4] = self._unlike(targets - self._day, bases)
        features[:, :, 5] = self._unlike(targets - self._week, bases)
        near = (slot[:, None] + np.array([-1, 1])) % self._day
        features[:, :, 6] = self._mean[kind[:, None], near].mean(axis=1) - self._mean[kind, slot]
        features[:, :, 7] = 0.05
        return features, bases, self._scale(slot, kind)

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
        kept = self._n_errors[known] % self.settings.errors_kept
        self._errors[kept, known] = (error / scales)[known]
        self._n_errors[known] += 1
        # Huber's weight: an event must not turn the weights.
        limit = _HUBER * scales
        error *= limit / np.maximum(np.abs(error), limit) * known[:, None]
        self._turn_weights(features * known[:, None, None], error)

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

    def _settle(self, slot: int, kind: int, shares: Floats) -> None:
        """Moves the season towards the bin just seen."""
        for table in (0, kind):
            count = self._count[table, slot]
            weight = max(1.0 / (count + 1.0), self.settings.new_day_weight)
            mean, spread = self._mean[table, slot], self._spread[table, slot]
            residual = shares - mean
            if count >= 3:
                limit = self.settings.clip * np.maximum(spread, 0.02)
                residual = np.clip(residual, -limit, limit)
            if count == 0:
                spread[:] = 0.02 + 0.1 * shares
            else:
                spread += weight * (np.abs(residual) - spread)
            mean += weight * residual
            self._count[table, slot] = count + 1

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
        ratio = np.clip(self.residual / np.maximum(base, 0.03), -1.0, 2.0)
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
