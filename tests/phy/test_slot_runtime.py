from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from airan.core.clock import ManualClock
from phy import PuschConfig
from phy.channel import ChannelConfig
from phy.pusch.receiver import PuschResult
from phy.runtime import (
    PreparedSlot,
    SimulatedUplink,
    SlotRecord,
    SlotRuntime,
    SlotStatus,
    SlotTiming,
    SlotWindow,
)
from phy.runtime.slot import percentile

TIMING = SlotTiming(slowdown=2.0, budget_us=1000.0, max_backlog=3, alarm_fraction=0.8)
PERIOD_US = 5 * TIMING.slot_us  # 5000 us from uplink slot to uplink slot
GRID = np.zeros((1, 14, 12), np.complex64)


class ScriptedUplink:
    """Slots whose reception takes, and whose preparation took, as many us as the script says."""

    def __init__(self, clock: ManualClock, receive_us: list[float | Exception | None]) -> None:
        self._clock = clock
        self._script = iter(receive_us)
        self.prepare_us = 0.0
        self.received: list[int] = []

    def prepare(self, slot: int) -> PreparedSlot | None:
        self._clock.advance(self.prepare_us * 1e-6)
        step = next(self._script)
        if step is None:
            return None
        return PreparedSlot(GRID, self._receiver(slot, step), n_prb=20)

    def _receiver(self, slot: int, step: float | Exception) -> Callable[[np.ndarray], PuschResult]:
        def receive(grid: np.ndarray) -> PuschResult:
            self.received.append(slot)
            if isinstance(step, Exception):
                raise step
            self._clock.advance(step * 1e-6)
            return PuschResult(np.zeros(8, np.uint8), True, 0.1, 10.0, np.ones(1, np.int32), None)

        return receive


class Site:
    """A runtime on a manual clock, with everything it reported."""

    def __init__(self, *receive_us: float | Exception | None, wake_late_us: float = 0.0) -> None:
        self.clock = ManualClock(50_000.0)
        self.source = ScriptedUplink(self.clock, list(receive_us))
        self.alarms: list[SlotRecord] = []
        self._wake_late_s = wake_late_us * 1e-6
        self.runtime = SlotRuntime(
            TIMING, self.source, self.clock, sleep=self._sleep, on_alarm=self.alarms.append
        )

    def _sleep(self, seconds: float) -> None:
        self.clock.advance(seconds + self._wake_late_s)

    def steps(self, n: int) -> list[SlotRecord | None]:
        return [self.runtime.step() for _ in range(n)]


def test_slots_within_the_budget_are_on_time_and_raise_no_alarm() -> None:
    site = Site(300.0, 1500.0)
    records = site.steps(2)
    assert [record.slot for record in records] == [4, 9]
    assert [record.status for record in records] == [SlotStatus.ON_TIME] * 2
    assert [record.latency_us for record in records] == pytest.approx([300.0, 1500.0], abs=0.1)
    assert all(record.good for record in records)
    assert site.alarms == []


def test_a_slot_near_its_deadline_raises_the_alarm_at_once() -> None:
    site = Site(1700.0, 100.0)
    [record] = site.steps(1)
    assert record.status is SlotStatus.ON_TIME
    assert site.alarms == [record]
    site.steps(1)
    assert len(site.alarms) == 1


def test_a_late_block_is_reported_late_and_never_as_good() -> None:
    site = Site(2100.0)
    [record] = site.steps(1)
    assert record.status is SlotStatus.LATE
    assert record.crc_ok
    assert not record.good
    assert site.alarms == [record]


def test_waking_up_late_counts_against_the_slot() -> None:
    site = Site(500.0, wake_late_us=1600.0)
    [record] = site.steps(1)
    assert record.status is SlotStatus.LATE
    assert record.latency_us == pytest.approx(2100.0, abs=0.1)
    assert record.processing_us == pytest.approx(500.0, abs=0.1)


def test_a_backlog_makes_slots_late_and_beyond_the_bound_drops_the_oldest() -> None:
    # The first slot blocks for 4.5 periods: slots 1 to 4 arrive meanwhile, one more than may wait.
    site = Site(4.5 * PERIOD_US, 10.0, 10.0, 10.0, 10.0, 10.0)
    records = site.steps(6)
    assert [record.status for record in records] == [
        SlotStatus.LATE,
        SlotStatus.DROPPED,
        SlotStatus.LATE,
        SlotStatus.LATE,
        SlotStatus.LATE,
        SlotStatus.ON_TIME,
    ]
    dropped = records[1]
    assert not dropped.good
    assert math.isnan(dropped.latency_us)
    assert dropped.slot not in site.source.received
    assert dropped in site.alarms


def test_preparing_samples_is_not_measured() -> None:
    site = Site(100.0, 100.0)
    site.source.prepare_us = 1000.0
    records = site.steps(2)
    assert [record.latency_us for record in records] == pytest.approx([100.0, 100.0], abs=0.1)
    assert site.runtime.close_window().stalls == 0


def test_the_slot_clock_stands_still_while_the_radio_simulation_overruns() -> None:
    site = Site(100.0, 100.0)
    site.source.prepare_us = 3 * PERIOD_US
    records = site.steps(2)
    assert [record.status for record in records] == [SlotStatus.ON_TIME] * 2
    window = site.runtime.close_window()
    assert window.stalls == 2
    assert window.dropped == 0


def test_a_receiver_that_raises_loses_its_slot_and_no_other() -> None:
    site = Site(RuntimeError("broken"), 100.0)
    broken, fine = site.steps(2)
    assert broken.error == "RuntimeError: broken"
    assert not broken.crc_ok
    assert fine.good
    assert site.runtime.close_window().crc_failed == 1


def test_a_source_that_raises_loses_its_slot_and_no_other() -> None:
    site = Site()  # an empty script: StopIteration
    [record] = site.steps(1)
    assert record.error is not None
    assert not record.good


def test_slots_without_an_allocation_are_idle() -> None:
    site = Site(None, 100.0, None)
    assert [record is None for record in site.steps(3)] == [True, False, True]
    window = site.runtime.close_window()
    assert (window.idle, window.slots) == (2, 1)
    assert window.mean_n_prb == pytest.approx(20 / 3)


def test_a_window_adds_up_and_the_next_begins_empty() -> None:
    site = Site(200.0, 2500.0, 4.5 * PERIOD_US, *[10.0] * 4)
    site.steps(7)
    window = site.runtime.close_window()
    assert window.slots == window.on_time + window.late + window.dropped == 7
    assert window.dropped == 1
    assert window.first_slot == 4
    assert sum(window.counts) == window.on_time + window.late
    assert len(window.counts) == len(window.edges_us) + 1
    assert window.max_us == pytest.approx(4.5 * PERIOD_US, abs=1.0)
    assert (window.budget_us, window.slowdown) == (2000.0, 2.0)
    empty = site.runtime.close_window()
    assert (empty.slots, empty.first_slot, sum(empty.counts)) == (0, -1, 0)
    assert math.isnan(empty.p99_us)


def test_the_budget_is_a_bucket_edge_so_the_buckets_tell_late_from_on_time() -> None:
    site = Site(1000.0, 1999.0, 2001.0, 3000.0)
    site.steps(4)
    window = site.runtime.close_window()
    within = window.edges_us.index(window.budget_us) + 1
    assert sum(window.counts[:within]) == window.on_time == 2
    assert sum(window.counts[within:]) == window.late == 2


def test_busy_share_is_receiving_time_over_all_time() -> None:
    site = Site(1000.0, 1000.0)
    site.steps(2)
    window: SlotWindow = site.runtime.close_window()
    assert window.busy_share == pytest.approx(2000.0 / (2 * PERIOD_US + 1000.0), rel=1e-3)


def test_percentiles_are_values_that_occurred() -> None:
    values = [float(value) for value in range(1, 201)]
    assert percentile(values, 0.5) == 100.0
    assert percentile(values, 0.99) == 198.0
    assert percentile([7.0], 0.99) == 7.0


def test_run_receives_until_stopped() -> None:
    site = Site(100.0, None, 100.0, 100.0)
    seen: list[SlotRecord] = []
    site.runtime.run(lambda: len(seen) == 2, seen.append)
    assert [record.slot for record in seen] == [4, 14]


@pytest.mark.parametrize("start_s", [0.0, 1.7e9])
def test_waiting_ends_whatever_the_clocks_resolution(start_s) -> None:
    clock = ManualClock(start_s)
    source = ScriptedUplink(clock, [10.0] * 200)
    n_sleeps = 0

    def sleep(seconds: float) -> None:
        nonlocal n_sleeps
        n_sleeps += 1
        assert n_sleeps < 1000, "the runtime sleeps without end"
        clock.advance(seconds)

    runtime = SlotRuntime(TIMING, source, clock, sleep)
    records = [runtime.step() for _ in range(200)]
    assert all(record.status is SlotStatus.ON_TIME for record in records)


def test_a_simulated_uplink_is_received_for_real_with_the_load_it_is_given() -> None:
    loads = {4: 6, 9: 0, 14: 11, 19: 6}
    clock = ManualClock()
    source = SimulatedUplink(
        PuschConfig(n_prb=11, mcs_index=10), ChannelConfig("TDL-A", snr_db=25.0), loads.__getitem__
    )
    runtime = SlotRuntime(SlotTiming(), source, clock, sleep=clock.advance)
    records = [runtime.step() for _ in range(4)]
    assert [record and record.n_prb for record in records] == [6, None, 11, 6]
    assert all(record.good for record in records if record is not None)
    assert records[0].snr_db == pytest.approx(25.0, abs=10.0)
