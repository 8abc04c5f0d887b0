"""The alarm: at once for late slots, patient with near misses, and no flapping."""

from __future__ import annotations

from orchestrator.alarm import AlarmGate, AlarmSettings
from orchestrator.views import SlotReport


def report(**values: object) -> SlotReport:
    body = {"cell_id": "cell-1", "time_s": 0.0, "slots": 100, "budget_us": 1000.0} | values
    return SlotReport(**body)  # type: ignore[arg-type]


def test_a_late_slot_raises_the_alarm_at_once() -> None:
    gate = AlarmGate()
    assert "late or dropped" in gate.take(report(slots_late=1, alarm=True), 10.0)
    assert gate.is_raised(10.0)
    assert gate.is_raised(11.9)
    assert not gate.is_raised(12.0)


def test_where_a_faster_path_answers_first_only_many_lost_slots_raise_the_alarm() -> None:
    gate = AlarmGate(AlarmSettings(lost_slots=20))
    assert gate.take(report(slots_late=10, slots_dropped=9), 10.0) == ""
    assert "20 of 100" in gate.take(report(slots_late=10, slots_dropped=10), 10.0)


def test_a_p99_near_the_budget_raises_the_alarm() -> None:
    gate = AlarmGate()
    assert gate.take(report(p99_us=940.0), 10.0) == ""
    assert "slot p99 960 us of 1000 us" in gate.take(report(p99_us=960.0), 10.0)


def test_a_p99_of_few_slots_is_that_of_the_longest_and_may_be_let_pass() -> None:
    gate = AlarmGate(AlarmSettings(p99_slots=100))
    counts = {"histogram_edges_us": (1000.0,), "slots": 1000, "p99_us": 2000.0}
    assert gate.take(report(histogram_counts=(98, 1), **counts), 10.0) == ""
    assert "slot p99" in gate.take(report(histogram_counts=(98, 2), **counts), 10.5)


def test_single_near_misses_are_let_pass() -> None:
    gate = AlarmGate()
    assert [gate.take(report(alarm=True), time_s) for time_s in (0.0, 2.0, 4.0, 6.0)] == [""] * 4
    assert not gate.is_raised(6.0)


def test_near_misses_close_together_raise_the_alarm() -> None:
    gate = AlarmGate()
    causes = [gate.take(report(alarm=True), time_s) for time_s in (0.0, 0.5, 1.0)]
    assert causes[:2] == ["", ""]
    assert "3 near misses" in causes[2]


def test_the_alarm_holds_as_long_as_its_cause_does() -> None:
    gate = AlarmGate()
    for time_s in (0.0, 1.5, 3.0):
        gate.take(report(slots_late=1), time_s)
    assert gate.is_raised(4.9)
    assert not gate.is_raised(5.0)


def test_an_alarm_that_comes_back_soon_holds_longer_up_to_a_limit() -> None:
    gate = AlarmGate(AlarmSettings(hold_s=2.0, max_hold_s=8.0, repeat_s=10.0))
    now_s, holds = 0.0, []
    for _ in range(4):
        gate.take(report(slots_late=1), now_s)
        hold_s = 0.0
        while gate.is_raised(now_s + hold_s):
            hold_s += 0.5
        holds.append(hold_s)
        now_s += hold_s + 1.0
    assert holds == [2.0, 4.0, 8.0, 8.0]
    gate.take(report(slots_late=1), now_s + 60.0)
    assert not gate.is_raised(now_s + 62.0)
