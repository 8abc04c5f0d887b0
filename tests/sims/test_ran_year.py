"""A generated year: reproducible, with weeks, growth, places and events; and series from CSV."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from airan.core.errors import ConfigError, InvalidInputError
from sims.ran_year import START_S, YearSettings, read_csv, shares

QUIET = YearSettings(
    growth_per_year=0.0,
    holidays_per_year=0.0,
    noise=0.0,
    jitter=0.0,
    matches_per_week=0.0,
    crowds_per_cell_month=0.0,
)


def test_the_same_seed_gives_the_same_year_and_another_another() -> None:
    first, again, other = (shares(3, 7, 900.0, seed) for seed in (1, 1, 2))
    assert first.shape == (7 * 96, 3)
    assert first.dtype == np.float32
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.min() >= 0.0
    assert first.max() <= 1.0


def test_without_anything_unusual_weeks_repeat_and_weekends_differ() -> None:
    load = shares(2, 14, 900.0, 1, QUIET).reshape(14, 96, 2)
    np.testing.assert_array_equal(load[:7], load[7:])
    assert load[0, 34, 0] > 1.5 * load[5, 34, 0]  # half past eight


def test_it_grows() -> None:
    load = shares(2, 366, 3600.0, 1, replace(QUIET, growth_per_year=0.2)).reshape(366, 24, 2)
    # A Monday morning before the peak, and one 52 weeks later.
    assert load[364, 5, 0] / load[0, 5, 0] == pytest.approx(1.2 ** (364 / 365), rel=1e-3)


def test_holidays_are_as_many_as_stated() -> None:
    load = shares(1, 3640, 3600.0, 1, replace(QUIET, holidays_per_year=12.0)).reshape(3640, 24)
    working = np.arange(3640) % 7 < 5
    quiet = load[working, 9] < 0.7 * np.median(load[working, 9])
    assert quiet.sum() == pytest.approx(120, abs=35)


def test_noise_is_alike_in_places_near_each_other() -> None:
    load = shares(8, 60, 900.0, 5, replace(QUIET, noise=0.1)).astype(float)
    extra = load / shares(8, 60, 900.0, 5, QUIET).astype(float) - 1.0
    places = np.random.default_rng(5).random((8, 2))
    apart = np.linalg.norm(places[:, None] - places[None], axis=2)[np.triu_indices(8, 1)]
    alike = np.corrcoef(extra[(load < 1.0).all(axis=1)].T)[np.triu_indices(8, 1)]
    assert alike[np.argmin(apart)] > alike[np.argmax(apart)] + 0.2
    assert extra.std() == pytest.approx(0.1, rel=0.15)


def test_crowds_come_at_once_and_go_slowly() -> None:
    load = shares(1, 30, 900.0, 1, replace(QUIET, crowds_per_cell_month=4.0)).astype(float)
    steps = np.diff((load - shares(1, 30, 900.0, 1, QUIET))[:, 0])
    assert steps.max() > 0.1
    assert steps.min() < 0.0


def test_a_match_loads_the_cells_near_the_stadium_in_the_evening() -> None:
    load = shares(30, 28, 900.0, 1, replace(QUIET, matches_per_week=7.0)).astype(float)
    extra = (load - shares(30, 28, 900.0, 1, QUIET)).reshape(28, 96, 30)
    assert extra[:, 76:84].max() > 0.25
    assert extra[:, :60].max() < 1e-6
    assert extra.max(axis=(0, 1)).min() < 0.05


@pytest.mark.parametrize(
    ("n_cells", "days", "step_s", "named"),
    [(0, 1, 900.0, "n_cells"), (1, 0, 900.0, "days"), (1, 1, 7.0, "step_s"), (1, 1, 0.0, "step_s")],
)
def test_impossible_years_are_refused(n_cells: int, days: int, step_s: float, named: str) -> None:
    with pytest.raises(InvalidInputError, match=named):
        shares(n_cells, days, step_s, 1)


def test_a_series_is_read_with_either_kind_of_time(tmp_path: Path) -> None:
    path = tmp_path / "series.csv"
    path.write_text(
        f"share,time\n0.1,{START_S}\n0.2,2024-12-30T00:15\n0.3,2024-12-30T02:00:00+01:00\n"
    )
    times_s, load = read_csv(path)
    assert (times_s - START_S).tolist() == [0.0, 900.0, 3600.0]
    assert load.tolist() == pytest.approx([0.1, 0.2, 0.3])


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("time,share\n", "series.csv has no rows"),
        ("time,share\n0,0.1\n5,0.1\n5,0.2\n", "series.csv line 4: not after"),
        ("time,share\n0,1.5\n", "series.csv line 2"),
        ("time,share\n0,0.1\nyesterday,0.1\n", "series.csv line 3"),
        ("time,share\n0,0.1\n\n7,\n", "series.csv line 4"),
        ("time,share\nnan,0.1\n", "series.csv line 2"),
        ("a,b\n0,1\n", "series.csv line 2"),
    ],
)
def test_a_bad_series_is_refused_by_file_and_line(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "series.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=named):
        read_csv(path)


def test_a_missing_series_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.csv cannot be read"):
        read_csv(tmp_path / "gone.csv")
