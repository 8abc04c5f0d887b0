from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airan.core.errors import InvalidInputError
from phy.gpu.shedding import Candidate, keep


def test_all_are_kept_while_they_fit() -> None:
    assert keep([Candidate(100.0)] * 3, 50.0, 350.0) == [0, 1, 2]


def test_the_lowest_priority_goes_first_and_a_smaller_one_may_still_fit() -> None:
    ues = [Candidate(100.0, 0), Candidate(300.0, 2), Candidate(200.0, 1), Candidate(50.0, 0)]
    assert keep(ues, 0.0, 370.0) == [1, 3]


def test_among_equals_the_most_often_transmitted_stays() -> None:
    ues = [Candidate(100.0), Candidate(100.0, transmission=2), Candidate(100.0, transmission=1)]
    assert keep(ues, 0.0, 200.0) == [1, 2]


@given(
    ues=st.lists(
        st.builds(Candidate, st.floats(0, 500), st.integers(0, 3), st.integers(0, 3)), max_size=20
    ),
    budget_us=st.floats(0, 2000),
)
def test_what_is_kept_fits_and_nothing_kept_could_make_room_for_a_better_one(ues, budget_us):
    kept = keep(ues, 0.0, budget_us)
    assert sum(ues[i].cost_us for i in kept) <= budget_us + 1e-6
    for index in set(range(len(ues))) - set(kept):
        rank = (ues[index].priority, ues[index].transmission, -index)
        better = sum(
            ues[i].cost_us for i in kept if (ues[i].priority, ues[i].transmission, -i) > rank
        )
        assert better + ues[index].cost_us > budget_us - 1e-6


def test_a_negative_time_is_named() -> None:
    with pytest.raises(InvalidInputError, match="cost_us"):
        keep([Candidate(-1.0)], 0.0, 1.0)
    with pytest.raises(InvalidInputError, match="budget_us"):
        keep([], 0.0, float("nan"))
