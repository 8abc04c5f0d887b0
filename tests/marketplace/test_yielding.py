"""When flex work makes room for priority work: what is saved against what it costs."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketplace.dispatch.queue import Tier
from marketplace.dispatch.yielding import chosen_to_yield, patience_s, patient_until_s

PROMISED_S = 5.0
SECONDS = st.floats(0.0, 60.0)


@dataclass(frozen=True)
class One:
    """Work that surely ends by itself after `left_s`."""

    left_s: float
    resume_s: float = 0.1
    tier: Tier = "flex"
    is_held: bool = False
    is_cut: bool = False
    starts_over: bool = False

    @property
    def cost_of_resuming(self) -> tuple[bool, int]:
        return self.starts_over, round(self.resume_s * 1000)

    def frees_within(self, seconds: float) -> float:
        return float(seconds >= self.left_s)


def full(places: int, lasts_s: float, resume_s: float = 0.1) -> list[One]:
    """An engine whose places become free evenly."""
    return [One(lasts_s * (number + 1) / places, resume_s) for number in range(places)]


def test_nobody_is_cut_off_where_a_place_frees_itself_at_once() -> None:
    # 128 answers of 3.75 s: a place every 30 ms.
    assert chosen_to_yield(full(128, 3.75), [0.05], PROMISED_S) == []


def test_the_cheapest_makes_room_where_no_place_frees_itself_in_time() -> None:
    running = [One(20.0, 0.3), One(30.0, 0.1), One(40.0, 0.2)]
    assert chosen_to_yield(running, [0.05], PROMISED_S) == [running[1]]
    assert chosen_to_yield(running, [0.05] * 2, PROMISED_S) == [running[1], running[2]]
    assert chosen_to_yield(running, [0.05] * 9, PROMISED_S) == [running[1], running[2], running[0]]


def test_what_starts_over_is_cut_off_last() -> None:
    running = [One(20.0, 0.1, starts_over=True), One(20.0, 0.9)]
    assert chosen_to_yield(running, [0.05], PROMISED_S) == [running[1]]


def test_a_burst_waits_for_as_many_places_as_free_themselves_and_has_the_rest_made() -> None:
    running = full(10, 10.0)
    enough_s = patience_s(0.1, 0.05, PROMISED_S)
    assert 0.0 < enough_s < 1.0
    assert len(chosen_to_yield(running, [0.05] * 4, PROMISED_S)) == 4
    quick = full(10, 2.0 * enough_s)
    chosen = chosen_to_yield(quick, [0.05] * 9, PROMISED_S)
    assert 3 <= len(chosen) <= 5


def test_places_that_are_being_made_are_not_made_again() -> None:
    running = [One(20.0, is_cut=True), One(20.0), One(20.0)]
    assert chosen_to_yield(running, [0.05], PROMISED_S) == []
    assert chosen_to_yield(running, [0.05] * 2, PROMISED_S) == [running[1]]


@pytest.mark.parametrize(
    "one", [One(20.0, tier="default"), One(20.0, tier="priority"), One(20.0, is_held=True)]
)
def test_nothing_but_flex_that_is_not_held_makes_room(one: One) -> None:
    assert chosen_to_yield([one], [4.0], PROMISED_S) == []


def test_a_place_that_default_work_leaves_is_waited_for_too() -> None:
    running = [One(0.05, tier="default"), One(20.0)]
    assert chosen_to_yield(running, [0.05], PROMISED_S) == []


def test_whoever_has_waited_long_waits_no_longer() -> None:
    running = full(16, 6.4)
    assert chosen_to_yield(running, [0.05], PROMISED_S) == []
    for late_s in (PROMISED_S, 60.0):
        assert len(chosen_to_yield(running, [late_s], PROMISED_S)) == 1


def test_before_anything_was_measured_priority_does_not_wait() -> None:
    assert len(chosen_to_yield([One(20.0, resume_s=0.0)], [0.0], PROMISED_S)) == 1


@given(SECONDS, SECONDS, st.floats(0.1, 60.0))
def test_patience_is_where_the_wait_weighs_as_much_as_what_it_saves(
    resume_s: float, first_token_s: float, promised_s: float
) -> None:
    enough_s = patience_s(resume_s, first_token_s, promised_s)
    if first_token_s >= promised_s:
        assert enough_s == 0.0
        return
    assert enough_s >= 0.0
    gone = (first_token_s + enough_s) / promised_s
    # The promise is kept whatever the cut costs.
    assert gone <= 1.0 + 1e-9
    assert enough_s * gone == pytest.approx(resume_s * (1.0 - gone), rel=1e-6, abs=1e-6)


@given(SECONDS, SECONDS, SECONDS, st.floats(0.1, 60.0))
def test_who_has_waited_longer_and_who_costs_less_waits_less(
    resume_s: float, first_token_s: float, more_s: float, promised_s: float
) -> None:
    enough_s = patience_s(resume_s, first_token_s, promised_s)
    assert patience_s(resume_s, first_token_s + more_s, promised_s) <= enough_s + 1e-9
    assert patience_s(resume_s + more_s, first_token_s, promised_s) >= enough_s - 1e-9


@given(
    st.lists(
        st.builds(
            One,
            SECONDS,
            st.floats(0.0, 5.0),
            st.sampled_from(["priority", "default", "flex"]),
            st.booleans(),
            st.booleans(),
        ),
        max_size=12,
    ),
    st.lists(st.floats(0.0, 10.0), max_size=8),
)
def test_never_more_is_cut_off_than_waits_and_only_what_may_be(
    running: list[One], waiting: list[float]
) -> None:
    waiting.sort(reverse=True)
    chosen = chosen_to_yield(running, waiting, PROMISED_S)
    n_coming = sum(one.is_cut for one in running)
    assert len(chosen) <= max(0, len(waiting) - n_coming)
    for one in chosen:
        assert (one.tier, one.is_held, one.is_cut) == ("flex", False, False)


def test_nobody_waits_for_a_place_that_others_wait_for_too() -> None:
    assert patient_until_s(5.0, others_wait=False) == 5.0
    hurried_s = patient_until_s(5.0, others_wait=True)
    assert patience_s(2.0, 0.1, hurried_s) == 0.0
    assert patience_s(2.0, 0.1, 5.0) > 0.0
