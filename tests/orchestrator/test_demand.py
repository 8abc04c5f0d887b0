"""Demand: forecasts on the safe side, and the peak where there is nothing to go by."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.demand import DemandEstimator, DemandSettings, Sample, forecast

SETTINGS = DemandSettings()


def fed(samples: list[tuple[float, float]]) -> DemandEstimator:
    estimator = DemandEstimator()
    for time_s, share in samples:
        estimator.add(time_s, share)
    return estimator


def ramp(slope: float, seconds: float = 10.0) -> list[tuple[float, float]]:
    return [(0.5 * k, 0.1 + slope * 0.5 * k) for k in range(int(seconds * 2) + 1)]


def test_without_any_report_the_ran_is_assumed_to_need_everything() -> None:
    demand = DemandEstimator().demand(0.0, 2.0, 6.0, 0.6)
    assert (demand.now_share, demand.assumed) == (1.0, True)
    assert "no report" in demand.source


def test_stale_reports_give_the_peak_seen_and_at_least_the_safe_share() -> None:
    estimator = fed([(0.0, 0.9), (1.0, 0.2), (2.0, 0.2), (3.0, 0.2), (4.0, 0.2)])
    assert not estimator.demand(9.0, 2.0, 6.0, 0.6).assumed
    stale = estimator.demand(9.1, 2.0, 6.0, 0.6)
    assert (stale.now_share, stale.assumed) == (0.9, True)
    assert fed([(0.0, 0.1)]).demand(60.0, 2.0, 6.0, 0.6).forecast_share == 0.6


def test_a_few_reports_are_not_enough_to_forecast_from() -> None:
    assert fed([(0.0, 0.1), (0.5, 0.1)]).demand(0.5, 2.0, 6.0, 0.6).assumed


def test_a_steady_demand_is_forecast_as_it_is() -> None:
    demand = fed([(0.5 * k, 0.3) for k in range(20)]).demand(9.5, 2.0, 6.0, 0.6)
    assert demand.now_share == pytest.approx(0.3)
    assert demand.forecast_share == pytest.approx(0.3)
    assert demand.sustained_share == pytest.approx(0.3)


def test_a_rise_is_carried_on_over_both_horizons() -> None:
    demand = fed(ramp(0.02)).demand(10.0, 2.0, 6.0, 0.6)
    assert demand.now_share == pytest.approx(0.3)
    assert demand.forecast_share == pytest.approx(0.34)
    assert demand.sustained_share == pytest.approx(0.46)


def test_a_fall_is_not_counted_on_before_it_has_happened() -> None:
    demand = fed(ramp(-0.005)).demand(10.0, 2.0, 6.0, 0.6)
    assert demand.forecast_share == pytest.approx(demand.now_share)


def test_the_errors_of_the_past_raise_the_forecast() -> None:
    jumps = [(0.5 * k, 0.5 if (k // 12) % 2 else 0.1) for k in range(60)]
    samples = [sample for sample in jumps if sample[0] <= 23.5]
    assert samples[-1][1] == 0.5 or samples[-1][1] == 0.1
    steady = forecast([(time_s, 0.1) for time_s, _ in samples], 2.0, SETTINGS)
    assert forecast(samples, 2.0, SETTINGS) > steady + 0.3


def test_the_forecast_covers_a_day_at_the_promised_rate() -> None:
    # A day in three minutes: load between 10% and 85%, sampled every half second.
    day = [(0.5 * k, 0.475 - 0.375 * math.cos(math.pi * k / 180)) for k in range(361)]
    covered = made = 0
    for index in range(20, len(day) - 6):
        made += 1
        predicted = forecast(day[max(0, index - 70) : index + 1], 2.2, SETTINGS)
        covered += predicted >= max(share for _, share in day[index : index + 5])
    assert covered / made >= 0.95


def test_shares_stay_shares() -> None:
    demand = fed(ramp(0.5)).demand(10.0, 2.0, 6.0, 0.6)
    assert demand.now_share == demand.forecast_share == demand.sustained_share == 1.0


def test_a_report_from_the_past_is_ignored() -> None:
    estimator = fed([(5.0, 0.5), (4.0, 0.9)])
    assert estimator.last_share == 0.5


def line_through(samples: list[Sample], time_s: float) -> float:
    mean_s = math.fsum(one[0] for one in samples) / len(samples)
    mean = math.fsum(one[1] for one in samples) / len(samples)
    spread = math.fsum((one[0] - mean_s) ** 2 for one in samples)
    covariance = math.fsum((one[0] - mean_s) * (one[1] - mean) for one in samples)
    return mean + (covariance / spread if spread else 0.0) * (time_s - mean_s)


def plainly_forecast(samples: list[Sample], horizon_s: float, settings: DemandSettings) -> float:
    """Sample by sample, looking at all that went before each."""
    errors = []
    for index, (time_s, share) in enumerate(samples):
        made_s = time_s - horizon_s
        before = [one for one in samples[:index] if made_s - settings.fit_s <= one[0] <= made_s]
        if len(before) >= settings.min_samples:
            errors.append(share - line_through(before, time_s))
    rank = max(0, math.ceil(settings.quantile * len(errors)) - 1)
    margin = max(0.0, sorted(errors)[rank]) if errors else 0.0
    last_s = samples[-1][0]
    fitted = [one for one in samples if one[0] >= last_s - settings.fit_s]
    expected = max(line_through(fitted, last_s), line_through(fitted, last_s + horizon_s))
    return min(1.0, max(0.0, expected + margin))


@given(
    gaps_ms=st.lists(st.integers(1, 2000), min_size=1, max_size=60),
    shares=st.lists(st.floats(0.0, 1.0), min_size=60, max_size=60),
    horizon_s=st.sampled_from([0.0, 0.5, 2.2, 8.0, 30.0]),
    min_samples=st.integers(1, 5),
)
def test_fitting_all_lines_at_once_forecasts_what_fitting_each_alone_does(
    gaps_ms: list[int], shares: list[float], horizon_s: float, min_samples: int
) -> None:
    time_ms, samples = 1_800_000_000_000, []
    for gap_ms, share in zip(gaps_ms, shares, strict=False):
        time_ms += gap_ms
        samples.append((time_ms / 1000.0, share))
    settings = DemandSettings(min_samples=min_samples)
    plain = plainly_forecast(samples, horizon_s, settings)
    # The plain way counts seconds since 1970, which leaves it seven digits behind the point.
    assert forecast(samples, horizon_s, settings) == pytest.approx(plain, abs=1e-6)


def test_the_forecast_of_many_samples_is_the_plain_one() -> None:
    samples = [(1.8e9 + 0.05 * k, 0.4 + 0.3 * math.sin(k / 40) * math.cos(k)) for k in range(400)]
    for horizon_s in (0.0, 2.2, 8.0):
        plain = plainly_forecast(samples, horizon_s, SETTINGS)
        assert forecast(samples, horizon_s, SETTINGS) == pytest.approx(plain, abs=1e-7)
