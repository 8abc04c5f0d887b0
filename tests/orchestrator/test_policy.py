"""What an operator may want, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from airan.core.errors import InvalidInputError
from orchestrator.policy import CalendarEntry, Policy, Reservation, restored

OFFICE = (
    CalendarEntry(("mon", "tue", "wed", "thu", "fri"), "07:00", 0.7),
    CalendarEntry((), "22:30", 0.2),
    CalendarEntry(("sat",), "10:00", 0.4),
)


def at(*moment: int) -> float:
    return datetime(*moment, tzinfo=UTC).timestamp()  # type: ignore[arg-type,misc]


@pytest.mark.parametrize(
    ("moment", "share"),
    [
        ((2026, 6, 1, 6, 59), 0.2),  # Monday: Sunday's last entry still holds
        ((2026, 6, 1, 7, 0), 0.7),
        ((2026, 6, 5, 22, 29), 0.7),
        ((2026, 6, 5, 22, 30), 0.2),
        ((2026, 6, 6, 9, 59), 0.2),
        ((2026, 6, 6, 10, 0), 0.4),
        ((2026, 6, 7, 12, 0), 0.2),  # Sunday has only the evening entry
    ],
)
def test_the_calendar_holds_until_its_next_entry(moment: tuple[int, ...], share: float) -> None:
    policy = Policy("time_of_day", calendar=OFFICE)
    assert policy.ran_share_at(at(*moment)) == share


def test_the_calendar_is_read_in_its_own_time_zone() -> None:
    tokyo = Policy("time_of_day", calendar=OFFICE, time_zone="Asia/Tokyo")
    assert tokyo.ran_share_at(at(2026, 5, 31, 21, 59)) == 0.2
    assert tokyo.ran_share_at(at(2026, 5, 31, 22, 0)) == 0.7  # Monday 07:00 there


def test_summer_time_moves_the_calendar_with_the_clock_on_the_wall() -> None:
    berlin = Policy("time_of_day", calendar=OFFICE, time_zone="Europe/Berlin")
    assert berlin.ran_share_at(at(2026, 3, 27, 5, 59)) == 0.2  # winter: 06:59
    assert berlin.ran_share_at(at(2026, 3, 30, 5, 0)) == 0.7  # summer: 07:00


def test_floors_and_ceilings_hold_for_every_share() -> None:
    policy = Policy(min_ran_share=0.2, max_ran_share=0.8, min_ai_share=0.3)
    assert [policy.bounded(share) for share in (0.0, 0.5, 0.75, 1.0)] == [0.2, 0.5, 0.7, 0.7]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"kind": "greedy"}, "policy.kind"),
        ({"unit": "rack"}, "policy.unit"),
        ({"drift": "ignore"}, "policy.drift"),
        ({"max_ai_share": 1.5}, "policy.max_ai_share"),
        ({"headroom": float("nan")}, "policy.headroom"),
        ({"min_ran_share": 0.7, "max_ran_share": 0.6}, "policy.min_ran_share"),
        ({"min_ran_share": 0.7, "min_ai_share": 0.4}, "policy.min_ai_share"),
        ({"time_zone": "Mars/Olympus"}, "policy.time_zone"),
        ({"kind": "time_of_day"}, "policy.calendar"),
        ({"min_lease_s": -1.0}, "policy.min_lease_s"),
        ({"notice_ms": 60_001}, "policy.notice_ms"),
    ],
)
def test_a_wrong_policy_is_refused_by_field(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        Policy(**fields)
    assert refused.value.field == named


@pytest.mark.parametrize(
    "make",
    [
        lambda: CalendarEntry(("monday",), "07:00", 0.5),
        lambda: CalendarEntry((), "24:00", 0.5),
        lambda: CalendarEntry((), "7:00", 0.5),
        lambda: CalendarEntry((), "07:00", 1.1),
        lambda: Reservation("", 16),
        lambda: Reservation("acme", 0),
    ],
)
def test_wrong_entries_and_reservations_are_refused(make: Any) -> None:
    with pytest.raises(InvalidInputError):
        make()


def test_a_policy_survives_storing() -> None:
    policy = Policy(
        "time_of_day", calendar=OFFICE, reservations=(Reservation("acme", 32),), drift="report"
    )
    body = json.loads(json.dumps(dataclasses.asdict(policy)))
    assert restored(body) == policy


def test_a_policy_stored_before_there_were_more_fields_still_loads() -> None:
    old = {"kind": "static", "ran_share": 0.5, "headroom": 0.1, "notice_ms": 400}
    assert restored(old) == Policy("static", ran_share=0.5)
