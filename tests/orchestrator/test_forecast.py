"""The season of the day and week: known answers, coverage on noise, and what goes without it."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airan.core.errors import InvalidInputError
from orchestrator.demand import DemandEstimator, DemandSettings
from orchestrator.forecast import ForecastSettings, SeasonalForecaster, SiteCalendar
from orchestrator.forecast_backtest import Series, score, seasonal
from sims.ran_year import START_S

HOUR_S, DAY_S, BIN_S = 3600.0, 86_400.0, 900.0


def busy_at(hour: float, height: float = 0.6) -> float:
    return 0.1 + height * math.exp(-0.5 * ((hour - 12.0) / 2.0) ** 2)


def day_load(time_s: float) -> float:
    return busy_at(time_s % DAY_S / HOUR_S)


def week_load(time_s: float) -> float:
    is_free = int((time_s - START_S) // DAY_S) % 7 >= 5
    return 0.1 if is_free else day_load(time_s)


def learnt(days: float, load: object = day_load, **of: object) -> SeasonalForecaster:
    forecaster = SeasonalForecaster(ForecastSettings(**of))  # type: ignore[arg-type]
    for step in range(round(days * DAY_S / BIN_S) + 1):
        time_s = START_S + step * BIN_S
        forecaster.add(time_s, load(time_s))  # type: ignore[operator]
    return forecaster


def test_without_a_sample_everything_is_forecast() -> None:
    forecast = SeasonalForecaster().forecast(0.0, HOUR_S)
    assert (forecast.share, forecast.kind) == (1.0, "peak")
    assert "no history" in forecast.source


def test_with_little_history_the_peak_is_forecast() -> None:
    forecaster = learnt(0.0)
    forecaster.add(START_S + BIN_S, 0.7)
    forecaster.add(START_S + 2 * BIN_S, 0.2)
    forecast = forecaster.forecast(START_S + 2 * BIN_S, HOUR_S)
    assert (forecast.share, forecast.kind) == (0.7, "peak")


def test_before_there_is_a_season_the_last_bin_is_carried_on_with_past_rises() -> None:
    forecaster = SeasonalForecaster()
    for step in range(40):
        forecaster.add(step * BIN_S, 0.1 + 0.01 * step)
    forecast = forecaster.forecast(39 * BIN_S, 2 * BIN_S)
    assert forecast.kind == "trend"
    # The last complete bin is the 38th; the horizon's is three further.
    assert forecast.share == pytest.approx(0.1 + 0.38 + 0.03)


def test_the_morning_is_foreseen_at_night() -> None:
    forecaster = learnt(10.0)
    midnight_s = START_S + 10.0 * DAY_S
    assert forecaster.forecast(midnight_s, HOUR_S).share == pytest.approx(0.1, abs=0.02)
    # The bin at whose end it is twelve has the day's greatest sample but one.
    noon = forecaster.forecast(midnight_s, 12 * HOUR_S)
    assert noon.share == pytest.approx(0.7, abs=0.02)
    assert noon.kind == "season"
    assert noon.source.startswith("season of day and week from 10 days")


def test_weekends_differ_once_two_have_been_seen() -> None:
    forecaster = learnt(19.0, week_load)
    saturday_s = START_S + 19.0 * DAY_S
    free = forecaster.forecast(saturday_s, 12 * HOUR_S)
    assert 0.1 <= free.share < 0.2
    assert "day and week" in free.source
    for step in range(1, 2 * 96 + 1):
        forecaster.add(saturday_s + step * BIN_S, week_load(saturday_s + step * BIN_S))
    working = forecaster.forecast(saturday_s + 2 * DAY_S, 12 * HOUR_S)
    assert working.share == pytest.approx(0.7, abs=0.05)


def test_a_day_above_the_season_raises_what_is_left_of_it() -> None:
    forecaster = learnt(10.0)
    morning_s = START_S + 10.0 * DAY_S
    usual = forecaster.forecast(morning_s, 12 * HOUR_S).share
    for step in range(1, 36):
        time_s = morning_s + step * BIN_S
        forecaster.add(time_s, day_load(time_s) + 0.2)
    assert forecaster.forecast(morning_s + 35 * BIN_S, 4 * HOUR_S).share > usual + 0.05


def test_the_most_of_a_bin_counts() -> None:
    forecaster = SeasonalForecaster()
    for time_s, share in ((0.0, 0.2), (100.0, 0.9), (200.0, 0.3)):
        forecaster.add(time_s, share)
    assert forecaster.body()["shares"] == [0.9]


def test_the_quantile_covers_noise_at_the_stated_rate() -> None:
    random = np.random.default_rng(7)
    noise = random.normal(0.0, 0.05, (30 * 96, 2))
    for step in range(1, len(noise)):
        noise[step] += 0.8 * noise[step - 1]
    times_s = START_S + BIN_S * np.arange(len(noise))
    shares = 0.3 + 0.5 * np.array([[day_load(time_s)] for time_s in times_s]) + noise
    series = Series(shares, int(START_S // BIN_S))
    for distance, forecast in seasonal(series, (1, 4, 16), 0.9).items():
        covered = score(series, forecast, 0.9, 10 * 96).coverage
        assert covered == pytest.approx(0.9, abs=0.02), distance


@settings(max_examples=40)
@given(
    st.lists(st.floats(0.0, 1.0), min_size=1, max_size=120),
    st.floats(0.0, 6 * DAY_S),
    st.sampled_from([900, 3600, 14_400]),
)
def test_it_is_a_share_and_never_below_what_is_there(
    shares: list[float], horizon_s: float, bin_s: int
) -> None:
    forecaster = SeasonalForecaster(ForecastSettings(bin_s=bin_s))
    for step, share in enumerate(shares):
        forecaster.add(step * 7200.0, share)
    forecast = forecaster.forecast((len(shares) - 1) * 7200.0, horizon_s)
    assert shares[-1] <= forecast.share <= 1.0


@settings(max_examples=20)
@given(st.floats(0.0, 1.0), st.floats(60.0, 6 * DAY_S), st.floats(0.0, 6 * DAY_S))
def test_a_longer_horizon_never_needs_less(share: float, first_s: float, more_s: float) -> None:
    forecaster = LEARNT
    now_s = START_S + 5.0 * DAY_S
    near = forecaster.forecast(now_s, min(first_s, more_s)).share
    assert forecaster.forecast(now_s, max(first_s, more_s)).share >= near


LEARNT = learnt(5.0)


def test_it_learns_again_from_what_was_stored() -> None:
    forecaster = learnt(10.3, week_load)
    body = json.loads(json.dumps(forecaster.body()))
    again = SeasonalForecaster.restored(body)
    now_s = START_S + 10.3 * DAY_S
    for horizon_s in (HOUR_S, 9 * HOUR_S, DAY_S):
        first, second = (one.forecast(now_s, horizon_s) for one in (forecaster, again))
        assert second.share == pytest.approx(first.share, abs=1e-3)
        assert second.source == first.source


def test_what_is_kept_is_bounded() -> None:
    forecaster = learnt(12.0, keep_days=8)
    assert len(forecaster.body()["bins"]) == 8 * 96 + 1


def test_nothing_stored_is_no_history() -> None:
    assert SeasonalForecaster.restored(None).last_bin == -1


def test_a_site_whose_clock_runs_faster_has_its_own_days() -> None:
    forecaster = SeasonalForecaster(site_s=lambda now_s: now_s * 1440.0)
    for step in range(5 * 96):
        site_s = step * BIN_S
        forecaster.add(site_s / 1440.0 + 1e-6, day_load(site_s))
    # Five minutes are five days; half a minute later it is noon.
    assert forecaster.forecast(300.0, 30.0).share == pytest.approx(0.7, abs=0.03)


def test_the_day_follows_summer_time() -> None:
    calendar = SiteCalendar(900, "Europe/Berlin")
    winter_s, summer_s = 1_743_206_400, 1_743_292_800  # 29 and 30 March 2025, 00:00 UTC
    slots, weekdays = calendar.slots(np.array([winter_s, summer_s + 3600]) // 900)
    assert slots.tolist() == [4, 12]
    assert weekdays.tolist() == [5, 6]


def test_a_gap_in_the_reports_does_no_harm() -> None:
    forecaster = learnt(6.0)
    later_s = START_S + 9.0 * DAY_S
    forecaster.add(later_s, 0.1)
    assert forecaster.forecast(later_s, 12 * HOUR_S).share == pytest.approx(0.7, abs=0.05)


def test_a_sample_from_the_past_is_ignored() -> None:
    forecaster = learnt(1.0)
    before = forecaster.body()
    forecaster.add(START_S, 1.0)
    assert forecaster.body() == before


@pytest.mark.parametrize(
    ("of", "named"),
    [
        ({"bin_s": 1000}, "bin_s"),
        ({"quantile": 1.0}, "quantile"),
        ({"keep_days": 2}, "keep_days"),
        ({"time_zone": "Mars/Olympus"}, "time_zone"),
    ],
)
def test_impossible_settings_are_refused(of: dict[str, object], named: str) -> None:
    with pytest.raises(InvalidInputError, match=named):
        ForecastSettings(**of)  # type: ignore[arg-type]


def test_impossible_samples_and_horizons_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="share"):
        SeasonalForecaster().add(0.0, math.nan)
    with pytest.raises(InvalidInputError, match="horizon_s"):
        SeasonalForecaster().forecast(0.0, 8 * DAY_S)


def reported(now_s: float, season: SeasonalForecaster | None) -> DemandEstimator:
    estimator = DemandEstimator(DemandSettings(), (), season)
    for step in range(20):
        estimator.add(now_s + 0.5 * step, 0.1)
    return estimator


def test_demand_beyond_the_horizon_is_at_least_the_seasons() -> None:
    now_s = START_S + 10.0 * DAY_S
    at_s = now_s + 9.5
    plain = reported(now_s, None).demand(at_s, 2.0, 12 * HOUR_S, 0.6)
    seasonal = reported(now_s, learnt(10.0)).demand(at_s, 2.0, 12 * HOUR_S, 0.6)
    assert plain.sustained_share == pytest.approx(0.1)
    assert "season" not in plain.source
    assert seasonal.sustained_share == pytest.approx(0.7, abs=0.02)
    assert "season of day" in seasonal.source
    # Seconds stay the trend's.
    assert seasonal.forecast_share == plain.forecast_share


def test_a_season_of_less_than_two_days_says_nothing() -> None:
    now_s = START_S + 1.9 * DAY_S
    demand = reported(now_s, learnt(1.9)).demand(now_s + 9.5, 2.0, 12 * HOUR_S, 0.6)
    assert demand == reported(now_s, None).demand(now_s + 9.5, 2.0, 12 * HOUR_S, 0.6)
