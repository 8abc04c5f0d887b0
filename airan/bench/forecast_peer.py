"""The forecasters' peer: scikit-learn's gradient boosting at a quantile. Needs scikit-learn."""

from __future__ import annotations

import importlib.metadata
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.forecast import SiteCalendar
from orchestrator.forecast_backtest import Series
from orchestrator.forecast_model import Floats

_SETTINGS = {"max_iter": 200, "learning_rate": 0.06, "random_state": 0}


def name() -> str:
    """The peer with its version."""
    return f"scikit-learn {importlib.metadata.version('scikit-learn')} gradient boosting"


def boosting(
    series: Series, distance: int, quantile: float, first_day: int, every_days: int
) -> Floats:
    """Forecasts [bin, series] from `first_day` on, after the eighth, by one model of all series
    that learns anew every so many days from everything until then."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    day = series.bins_per_day
    n_bins, n_series = series.shares.shape
    features = _features(series, distance)
    found = np.full((n_bins, n_series), np.nan)
    for origin in range(first_day * day, n_bins, every_days * day):
        model = HistGradientBoostingRegressor(loss="quantile", quantile=quantile, **_SETTINGS)
        past = slice(day + distance, origin)
        model.fit(_flat(features[past]), series.shares[past].reshape(-1))
        future = slice(origin, min(n_bins, origin + every_days * day))
        found[future] = model.predict(_flat(features[future])).reshape(-1, n_series)
    bounded: Floats = np.clip(found, 0.0, 1.0)
    return bounded


def _features(series: Series, distance: int) -> npt.NDArray[np.float32]:
    """[bin, series, feature]: time of day, weekday, free day; the last values known, their mean
    over an hour, and the bins around the same time a day and a week before."""
    day = series.bins_per_day
    week = 7 * day
    bins = series.first_bin + np.arange(len(series.shares))
    slot, weekday = SiteCalendar(series.bin_s, series.time_zone).slots(bins)
    clock = [slot, weekday, weekday >= 5]
    lately = [distance, distance + 1, distance + 2, distance + 3]
    before = [day, day + distance, week - 1, week, week + 1, week + distance]
    if distance < day - 1:
        before += [day - 1, day + 1]
    columns: list[npt.NDArray[Any]] = [
        np.broadcast_to(one[:, None], series.shares.shape) for one in clock
    ]
    lags = {lag: _lag(series.shares, lag) for lag in (*lately, *before)}
    columns += lags.values()
    columns.append(np.mean([lags[lag] for lag in lately], axis=0))
    return np.stack(columns, axis=-1).astype(np.float32)


def _lag(shares: Floats, lag: int) -> Floats:
    found = np.full(shares.shape, np.nan)
    found[lag:] = shares[: max(0, len(shares) - lag)]
    return found


def _flat(features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return features.reshape(-1, features.shape[-1])
