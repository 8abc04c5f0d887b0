"""The day clock runs the site's day at its own speed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airan.core.clock import DAY_S, DayClock, ManualClock


def test_a_demo_day_passes_in_three_minutes() -> None:
    clock = DayClock(started_s=1000.0, start_of_day_s=3600.0, speed=480.0)
    assert clock.time_of_day_s(1000.0) == 3600.0
    assert clock.time_of_day_s(1000.0 + 180.0) == pytest.approx(3600.0)
    assert clock.elapsed_s(1000.0 + 180.0) == pytest.approx(DAY_S)


@given(st.floats(0, 1e7), st.floats(0.1, 1e4))
def test_time_of_day_stays_within_the_day(after_s: float, speed: float) -> None:
    assert 0.0 <= DayClock(0.0, 80_000.0, speed).time_of_day_s(after_s) < DAY_S


def test_a_clock_can_stand_still_at_the_end() -> None:
    clock = DayClock(0.0, start_of_day_s=0.0, speed=480.0, hold_after_s=DAY_S + 3600.0)
    assert clock.time_of_day_s(180.0) == pytest.approx(0.0)
    assert clock.time_of_day_s(1000.0) == clock.time_of_day_s(2000.0) == pytest.approx(3600.0)


def test_a_manual_clock_does_not_run_backwards() -> None:
    clock = ManualClock(5.0)
    clock.advance(2.5)
    assert clock.monotonic_s() == 7.5
    with pytest.raises(ValueError, match="negative"):
        clock.advance(-1.0)
