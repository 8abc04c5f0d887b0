"""How well the RAN's demand is forecast, beside plain rules and gradient boosting."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec

import numpy as np

from airan.bench import forecast_peer
from airan.bench.rows import Row, hardware, row
from airan.core.errors import InvalidInputError
from orchestrator.forecast import SeasonalForecaster, SiteCalendar
from orchestrator.forecast_backtest import (
    Score,
    Series,
    bins_of,
    last_value,
    peak_so_far,
    plain_seasonal,
    score,
    seasonal,
)
from orchestrator.forecast_model import Floats, SeasonModel, SeasonSettings

HORIZONS_S = {"15min": 900.0, "1h": 3600.0, "4h": 14_400.0}
_GPUS = 100


@dataclass(frozen=True)
class ForecastOptions:
    """What is measured."""

    quantile: float = 0.95
    start_days: int = 14
    """Scored from then on: plain rules and ours have seen as much."""
    retrain_days: int = 7
    """So often gradient boosting learns anew."""
    boosting: bool | None = None
    """Whether to compare with scikit-learn; None: if it is installed."""


@dataclass(frozen=True)
class _Run:
    peer: str
    forecasts: dict[str, Floats]
    seconds: float


def measure(
    series: Series, what: str, options: ForecastOptions, say: Callable[[str], None]
) -> Iterator[Row]:
    """Every row: of the series one by one, and, if there are several, of the pool they share.

    `what` says what the series are and where they come from.

    Raises:
        InvalidInputError: series too short, or no scikit-learn where it is asked for.
    """
    least = (options.start_days + 1) * series.bins_per_day
    if len(series.shares) < least:
        raise InvalidInputError(
            "days", f"needs at least {options.start_days + 1} days", remedy="give a longer series"
        )
    yield from _rows("forecast", series, f"{hardware()}; {what}", options, say)
    if series.shares.shape[1] > 1:
        where = f"{hardware()}; the mean of {what}"
        yield from _rows("forecast_pool", series.together(), where, options, say)
    say("the time it takes")
    yield from _times(series)


def _rows(
    name: str, series: Series, where: str, options: ForecastOptions, say: Callable[[str], None]
) -> Iterator[Row]:
    ours = _ours(series, options, say)
    runs = [_plain(peer, series, options, say) for peer in _PLAIN]
    if _wants_boosting(options):
        runs.append(_boosting(series, options, say))
    start = options.start_days * series.bins_per_day
    n_days = len(series.shares) // series.bins_per_day - options.start_days
    where = f"{where}; {options.quantile:.0%} quantile, {n_days} days after {options.start_days}"
    for horizon in HORIZONS_S:
        mine = score(series, ours.forecasts[horizon], options.quantile, start)
        for run in runs:
            theirs = score(series, run.forecasts[horizon], options.quantile, start)
            yield from _compared(f"{name}_{{}}_{horizon}", mine, theirs, run.peer, where)
    for run in runs:
        if run.peer.startswith("scikit-learn"):
            peer = (run.peer, run.seconds)
            yield row(f"{name}_backtest_s", ours.seconds, "s", where, peer=peer)


def _compared(name: str, mine: Score, theirs: Score, peer: str, where: str) -> Iterator[Row]:
    yield row(name.format("pinball"), mine.pinball, "share", where, peer=(peer, theirs.pinball))
    # Without a ratio: more of one is less of another.
    for measure_name in ("coverage", "over_share", "worst_shortfall"):
        pair = getattr(mine, measure_name), getattr(theirs, measure_name)
        yield Row(name.format(measure_name), pair[0], "share", peer, pair[1], None, where)


def _ours(series: Series, options: ForecastOptions, say: Callable[[str], None]) -> _Run:
    say("ours")
    begun_s = time.perf_counter()
    distances = {name: bins_of(seconds, series.bin_s) for name, seconds in HORIZONS_S.items()}
    found = seasonal(series, tuple(distances.values()), options.quantile)
    seconds = time.perf_counter() - begun_s
    return _Run("", {name: found[distance] for name, distance in distances.items()}, seconds)


def _plain(peer: str, series: Series, options: ForecastOptions, say: Callable[[str], None]) -> _Run:
    say(peer)
    begun_s = time.perf_counter()
    found = {
        name: _PLAIN[peer](series, bins_of(seconds, series.bin_s), options.quantile)
        for name, seconds in HORIZONS_S.items()
    }
    return _Run(peer, found, time.perf_counter() - begun_s)


_PLAIN = {
    "plain seasonal quantile": plain_seasonal,
    "last value": last_value,
    "peak so far": peak_so_far,
}


def _wants_boosting(options: ForecastOptions) -> bool:
    there = find_spec("sklearn") is not None
    if options.boosting and not there:
        raise InvalidInputError(
            "boosting", "scikit-learn is not installed", remedy="pip install scikit-learn"
        )
    return there if options.boosting is None else options.boosting


def _boosting(series: Series, options: ForecastOptions, say: Callable[[str], None]) -> _Run:
    peer = f"{forecast_peer.name()}, every {options.retrain_days} days"
    say(peer)
    forecast = partial(
        forecast_peer.boosting, first_day=options.start_days, every_days=options.retrain_days
    )
    begun_s = time.perf_counter()
    found = {
        name: forecast(series, bins_of(seconds, series.bin_s), options.quantile)
        for name, seconds in HORIZONS_S.items()
    }
    return _Run(peer, found, time.perf_counter() - begun_s)


def _times(series: Series) -> Iterator[Row]:
    """What it costs where it runs: samples and forecasts every half second, bins, restarts."""
    forecaster = SeasonalForecaster()
    begin_s = float(series.first_bin * series.bin_s)
    kept = series.shares[-35 * series.bins_per_day :, 0]
    begun_s = time.perf_counter()
    for index, share in enumerate(kept):
        forecaster.add(begin_s + index * series.bin_s, float(share))
    learn_s = time.perf_counter() - begun_s
    where = f"{hardware()}; {len(kept)} bins of one series"
    yield row("forecast_restart_s", learn_s, "s", where)
    now_s = begin_s + len(kept) * series.bin_s
    copies = [copy.deepcopy(forecaster) for _ in range(_GPUS)]
    begun_s = time.perf_counter()
    for index in range(10):
        for one in copies:
            one.add(now_s + 0.5 * index, float(kept[-1]))
            one.forecast(now_s + 0.5 * index, 14_400.0)
    of_all_ms = (time.perf_counter() - begun_s) / 10 * 1e3
    where = f"{hardware()}; a sample and a forecast of 4 h for each of {_GPUS} series, mean of 10"
    yield row("forecast_100_gpus_ms", of_all_ms, "ms", where)
    times_us = _bin_times_us(series)
    where = f"{hardware()}; a bin of {series.shares.shape[1]} series taken in, median"
    yield row("forecast_bin_us", float(np.median(times_us)), "us", where)


def _bin_times_us(series: Series) -> list[float]:
    calendar = SiteCalendar(series.bin_s, series.time_zone)
    settings = SeasonSettings.of(series.bins_per_day, 0.95)
    model = SeasonModel(series.shares.shape[1], calendar, settings)
    times_us = []
    for index, shares in enumerate(series.shares):
        begun_s = time.perf_counter()
        model.step(series.first_bin + index, shares)
        times_us.append((time.perf_counter() - begun_s) * 1e6)
    return times_us[len(times_us) // 2 :]
