from __future__ import annotations

import math

import numpy as np
import pytest

from airan.bench.statistics import Tally, falls_below, wilson_interval


def test_an_interval_covers_the_true_rate_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    for rate in (0.02, 0.1, 0.5):
        errors = rng.binomial(200, rate, 2000)
        intervals = [wilson_interval(int(n), 200) for n in errors]
        covered = np.mean([low <= rate <= high for low, high in intervals])
        assert covered == pytest.approx(0.95, abs=0.03)


def test_an_interval_is_the_textbooks() -> None:
    # Wilson score interval of 10 of 100 at 95%.
    assert wilson_interval(10, 100) == pytest.approx((0.0552, 0.1744), abs=1e-4)


def test_intervals_stay_within_0_and_1() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert wilson_interval(0, 20)[0] == 0.0
    assert wilson_interval(20, 20)[1] == 1.0


def test_a_curve_is_interpolated_on_its_logarithm() -> None:
    assert falls_below([(0.0, 1.0), (1.0, 0.01)], 0.1) == pytest.approx(0.5)
    assert falls_below([(0.0, 1.0), (2.0, 0.2), (3.0, 0.0)], 0.1) == pytest.approx(2.5)


def test_only_the_last_crossing_counts() -> None:
    curve = [(0.0, 0.5), (1.0, 0.05), (2.0, 0.5), (3.0, 0.05)]
    crossing = falls_below(curve, 0.1)
    assert crossing is not None
    assert crossing > 2.0


def test_a_curve_that_never_crosses_says_so() -> None:
    assert falls_below([(0.0, 0.9), (1.0, 0.5)], 0.1) is None
    assert falls_below([(0.0, 0.05), (1.0, 0.01)], 0.1) is None


def test_a_tally_is_done_with_its_errors() -> None:
    tally = Tally(max_errors=3)
    tally.add(10, 2)
    assert not tally.done
    tally.add(10, 2)
    assert tally.done
    assert math.isclose(tally.rate, 0.2)
