"""The backtest: scores by hand, no look into the future, and ours beside the plain rules."""

from __future__ import annotations

import numpy as np
import pytest

from airan.core.errors import InvalidInputError
from orchestrator.forecast_backtest import (
    Contender,
    Series,
    binned,
    last_value,
    peak_so_far,
    plain_seasonal,
    score,
    seasonal,
)
from sims import ran_year

FIRST_BIN = int(ran_year.START_S // 900)


def ours(series: Series, distance: int, quantile: float) -> np.ndarray:
    return seasonal(series, (distance,), quantile)[distance]


CONTENDERS = [ours, plain_seasonal, last_value, peak_so_far]


@pytest.fixture(scope="module")
def month() -> Series:
    return Series(ran_year.shares(6, 35, 900.0, 3).astype(float), FIRST_BIN)


def test_scores_are_as_by_hand() -> None:
    series = Series(np.array([[0.5], [0.5], [0.5], [0.5]]), 0)
    forecasts = np.array([[np.nan], [0.4], [0.5], [0.7]])
    found = score(series, forecasts, 0.9, 0)
    assert found.pinball == pytest.approx((0.9 * 0.1 + 0.0 + 0.1 * 0.2) / 3)
    assert found.coverage == pytest.approx(2 / 3)
    assert found.over_share == pytest.approx(0.2 / 3)
    assert found.worst_shortfall == pytest.approx(0.1)
    assert found.n_forecasts == 3


def test_no_forecast_has_no_score() -> None:
    with pytest.raises(InvalidInputError, match="none from bin 0"):
        score(Series(np.zeros((2, 1)), 0), np.full((2, 1), np.nan), 0.9, 0)


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize("distance", [1, 16])
def test_no_contender_knows_the_future(contender: Contender, distance: int, month: Series) -> None:
    origin = 9 * 96
    other = month.shares.copy()
    other[origin + 1 :] = 1.0 - other[origin + 1 :]
    told = contender(Series(month.shares[: origin + 100], FIRST_BIN), distance, 0.95)
    untold = contender(Series(other[: origin + 100], FIRST_BIN), distance, 0.95)
    same = slice(0, origin + distance + 1)
    np.testing.assert_array_equal(told[same], untold[same])
    assert np.isfinite(told[origin]).all()


def test_ours_covers_and_beats_the_plain_rules_on_a_generated_month(month: Series) -> None:
    forecasts = seasonal(month, (1, 4, 16), 0.95)
    for distance, forecast in forecasts.items():
        found = score(month, forecast, 0.95, 14 * 96)
        assert found.coverage == pytest.approx(0.95, abs=0.02)
        for plain in CONTENDERS[1:]:
            theirs = score(month, plain(month, distance, 0.95), 0.95, 14 * 96)
            assert found.pinball < 0.8 * theirs.pinball


def test_plain_rules_say_what_they_are_called() -> None:
    series = Series(np.array([[0.1], [0.9], [0.2], [0.3]]), 0)
    assert last_value(series, 2, 0.95)[:, 0].tolist()[2:] == [0.1, 0.9]
    assert peak_so_far(series, 1, 0.95)[:, 0].tolist()[1:] == [0.1, 0.9, 0.9]
    weeks = np.repeat([0.1, 0.2, 0.3], 672)[:, None]
    third = plain_seasonal(Series(weeks, 0), 1, 0.5)[1344:]
    assert third == pytest.approx(0.15)


def test_samples_become_the_maxima_of_bins_and_gaps_repeat() -> None:
    series = binned(np.array([1000.0, 1700.0, 4500.0]), np.array([0.2, 0.6, 0.1]))
    assert series.first_bin == 1
    assert series.shares[:, 0].tolist() == [0.6, 0.6, 0.6, 0.6, 0.1]


def test_samples_in_milliseconds_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="seconds"):
        binned(np.array([0.0, 1.7e12]), np.array([0.2, 0.6]))
    with pytest.raises(InvalidInputError, match="no samples"):
        binned(np.array([]), np.array([]))


def test_together_is_the_mean_of_the_series() -> None:
    assert Series(np.array([[0.2, 0.4]]), 0).together().shares.tolist() == [pytest.approx([0.3])]
