from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airan.core.errors import InvalidInputError
from phy.runtime import SlotTiming


def test_the_slot_clock_and_the_budget_are_slowed_alike() -> None:
    timing = SlotTiming(scs_khz=30, slowdown=40.0, budget_us=1250.0, alarm_fraction=0.8)
    assert timing.slot_us == 500.0 * 40
    assert timing.deadline_us == 1250.0 * 40
    assert timing.alarm_us == 0.8 * 1250.0 * 40


def test_one_slot_in_five_is_uplink() -> None:
    timing = SlotTiming(tdd_pattern="DDDSU")
    assert [timing.uplink_slot(count) for count in range(4)] == [4, 9, 14, 19]


@given(
    pattern=st.text("DSU", min_size=1, max_size=10).filter(lambda text: "U" in text),
    slots=st.integers(0, 60),
)
def test_arrivals_are_counted_as_by_walking_the_pattern(pattern, slots) -> None:
    timing = SlotTiming(tdd_pattern=pattern, slowdown=2.0)
    uplinks = [slot for slot in range(80) if pattern[slot % len(pattern)] == "U"]
    assert [timing.uplink_slot(i) for i in range(len(uplinks))] == uplinks
    now_us = (slots + 0.5) * timing.slot_us
    assert timing.arrived_uplinks(now_us) == sum(
        timing.arrival_us(slot) <= now_us for slot in uplinks
    )


def test_a_slot_on_the_deadline_is_in_time_and_one_after_it_late() -> None:
    timing = SlotTiming(budget_us=1000.0)
    assert not timing.is_late(1000.0)
    assert timing.is_late(math.nextafter(1000.0, 2000.0))
    assert timing.is_late(math.nan)


def test_the_oldest_slot_is_dropped_when_more_wait_than_the_bound() -> None:
    timing = SlotTiming(max_backlog=3)
    after_four = timing.arrival_us(timing.uplink_slot(3))
    assert timing.is_to_be_dropped(0, after_four)
    assert not timing.is_to_be_dropped(1, after_four)
    assert not timing.is_to_be_dropped(0, after_four - 1)


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"scs_khz": 31}, "scs_khz"),
        ({"slowdown": 0.5}, "slowdown"),
        ({"budget_us": 0.0}, "budget_us"),
        ({"tdd_pattern": "DDDS"}, "tdd_pattern"),
        ({"tdd_pattern": "XU"}, "tdd_pattern"),
        ({"max_backlog": 0}, "max_backlog"),
        ({"alarm_fraction": 1.5}, "alarm_fraction"),
    ],
)
def test_wrong_timings_are_named(changed, field) -> None:
    with pytest.raises(InvalidInputError) as caught:
        SlotTiming(**changed)
    assert caught.value.field == field
