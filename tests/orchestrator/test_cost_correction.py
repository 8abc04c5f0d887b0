"""What slots take beyond the cost model, learnt from what was seen."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.cost_correction import CostCorrection

BUDGET_US = 375.0


def test_a_fixed_excess_and_a_part_are_told_apart() -> None:
    correction = CostCorrection()
    for _ in range(2000):
        for model_us in (50.0, 60.0, 150.0, 220.0):
            correction.learn(model_us, 40.0 + 1.2 * model_us, BUDGET_US)
    assert correction.fixed_us == pytest.approx(40.0, abs=4.0)
    assert correction.part == pytest.approx(1.2, abs=0.05)


def test_short_slots_say_nothing_of_long_ones() -> None:
    correction = CostCorrection()
    for _ in range(500):
        correction.learn(50.0, 110.0, BUDGET_US)
    assert correction.part == 1.0
    assert correction.us(200.0) < 200.0 + 61.0


def test_the_worst_neighbour_counts_and_is_forgotten_slowly() -> None:
    correction = CostCorrection()
    for _ in range(10):
        correction.learn(200.0, 280.0, BUDGET_US)
    assert correction.part == pytest.approx(1.4)
    correction.learn(200.0, 200.0, BUDGET_US)
    assert correction.part > 1.38
    for _ in range(300):
        correction.learn(100.0, 100.0, BUDGET_US)
    assert correction.part == pytest.approx(1.0, abs=0.01)


def test_one_slot_that_waited_for_something_else_teaches_little() -> None:
    correction = CostCorrection()
    correction.learn(200.0, 10_000.0, BUDGET_US)
    assert correction.part == pytest.approx(1.1)


@given(st.lists(st.tuples(st.floats(1, 2000), st.floats(0.1, 1e6)), max_size=200))
def test_it_stays_within_reason_whatever_is_seen(seen) -> None:
    correction = CostCorrection()
    for model_us, seen_us in seen:
        correction.learn(model_us, seen_us, BUDGET_US)
    assert 0 <= correction.fixed_us <= BUDGET_US
    assert 0.5 <= correction.part <= 3.0
