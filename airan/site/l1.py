"""The `l1` process: `python -m airan.site.l1 STATE_DIR`.

One thread runs the slots; another sends reports to the control plane. Where the control plane is
away the slots go on, and reports wait for it, the oldest given up first.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import random
import threading
import time
from collections import deque
from collections.abc import AsyncIterator

from airan.core.clock import SystemClock
from airan.site.cell_sizing import cell_id, sizing
from airan.site.cells import Allocations, CellGroup, load_profile, pusch_config
from airan.site.main import service_main, stop_event
from airan.site.runtime import SiteRuntime
from airan.site.services import journal_file
from airan.site.slot_journal import Fate, SlotJournal
from orchestrator.api.client import ControlClient
from orchestrator.views import SlotReport
from phy import cost, warm_up
from phy.channel import ChannelConfig
from phy.cost import CostModel
from phy.runtime import (
    SimulatedUplink,
    SlotRecord,
    SlotRuntime,
    SlotStatus,
    SlotTiming,
    SlotWindow,
)

log = logging.getLogger("airan.l1")

REPORT_S = 0.5
MAX_WAITING_REPORTS = 120
CALIBRATION_REPEATS = 6
REALTIME_PRIORITY = 20
DEVICE = "CPU (NumPy + Numba)"
_FATES = {
    SlotStatus.ON_TIME: Fate.ON_TIME,
    SlotStatus.LATE: Fate.LATE,
    SlotStatus.DROPPED: Fate.DROPPED,
}


class Reporter(threading.Thread):
    """Sends reports in their order, from a thread of its own."""

    def __init__(self, address: str, stop: threading.Event) -> None:
        super().__init__(name="reporter", daemon=True)
        self._stop_all = stop
        self._address = address
        self._waiting: deque[SlotReport] = deque(maxlen=MAX_WAITING_REPORTS)
        self._loop = asyncio.new_event_loop()
        self._more = asyncio.Event()

    def send(self, report: SlotReport) -> None:
        """Puts a report in line; never waits."""
        self._waiting.append(report)
        self._loop.call_soon_threadsafe(self._more.set)

    def run(self) -> None:
        try:
            self._loop.run_until_complete(self._send_all())
        finally:
            # Slots that nobody hears of are of no use: the supervisor starts us again.
            self._stop_all.set()

    async def _send_all(self) -> None:
        async with ControlClient(self._address) as client:
            await client.report_slots(self._reports())

    async def _reports(self) -> AsyncIterator[SlotReport]:
        while True:
            while self._waiting:
                yield self._waiting.popleft()
            self._more.clear()
            await self._more.wait()


class Layer1:
    """The live cell's slot runtime, and the load of all cells."""

    def __init__(self, runtime: SiteRuntime) -> None:
        self._day = runtime.day_clock
        self._clock = SystemClock()
        ran = runtime.config.ran
        self._pusch = pusch_config(ran)
        channel = ChannelConfig(n_rx=ran.n_rx, scs_khz=ran.scs_khz, snr_db=ran.snr_db)
        self._group = CellGroup(
            ran.n_cells, runtime.config.node.n_gpus, Allocations(ran.n_prb), load_profile(ran)
        )
        self._rng = random.Random(ran.seed)
        self._forced: int | None = None
        self._source = SimulatedUplink(self._pusch, channel, self._allocation, ran.seed)
        cost_here = self._calibrate(channel)
        self._sizing = sizing(runtime.config, self._group, cost_here)
        self._alarm = False
        self._journal = journal_of(runtime)
        self._timing = SlotTiming(
            scs_khz=ran.scs_khz, slowdown=ran.slot_slowdown, budget_us=ran.slot_budget_us
        )

    def run(self, reporter: Reporter, stop: threading.Event) -> None:
        """Receives slots until stopped."""
        slots = SlotRuntime(self._timing, self._source, self._clock, on_alarm=self._on_alarm)
        reported_s = self._clock.monotonic_s()
        while not stop.is_set():
            record = slots.step()
            self._note(record)
            now_s = self._clock.monotonic_s()
            if self._alarm or now_s - reported_s >= REPORT_S:
                reporter.send(self._report(slots.close_window()))
                reported_s = now_s

    def _note(self, record: SlotRecord | None) -> None:
        if record is not None and record.error is not None:
            log.error("slot %d: the receiver failed: %s", record.slot, record.error)
        if self._journal is None:
            return
        fate, latency_us = Fate.IDLE, math.nan
        if record is not None:
            fate, latency_us = _FATES[record.status], record.latency_us
        self._journal.add(self._clock.monotonic_s(), "pusch", fate, latency_us)

    def _allocation(self, _slot: int) -> int:
        if self._forced is not None:
            return self._forced
        load = self._group.profile.load(0, self._day.time_of_day_s(self._clock.now_s()))
        return self._group.allocations.draw(load, self._rng)

    def _calibrate(self, channel: ChannelConfig) -> CostModel:
        """Compiles, warms every allocation up and measures what a slot costs here."""
        warm_up(self._pusch)
        sizes = self._group.allocations.sizes
        for size in sizes:
            self._forced = size
            prepared = self._source.prepare(0)
            if prepared is not None:
                prepared.receive(prepared.grid)
        self._forced = None
        model = cost.measure(self._pusch, channel, sizes, CALIBRATION_REPEATS)
        log.info(
            "a slot costs %.0f us + %.1f us a PRB here (typical error %.0f us, %d slots, %s)",
            model.base_us,
            model.us_per_prb,
            model.error_us,
            model.n_slots,
            model.device,
        )
        return model

    def _on_alarm(self, record: SlotRecord) -> None:
        self._alarm = True
        log.warning(
            "slot %d: %s after %.0f us of %.0f us",
            record.slot,
            record.status,
            record.latency_us,
            self._timing.deadline_us,
        )

    def _report(self, window: SlotWindow) -> SlotReport:
        alarm, self._alarm = self._alarm, False
        now_s = self._clock.now_s()
        loads = self._group.loads(self._day.time_of_day_s(now_s))
        return SlotReport(
            cell_id=cell_id(0),
            time_s=now_s,
            slots=window.slots,
            slots_late=window.late,
            slots_dropped=window.dropped,
            crc_failed=window.crc_failed,
            stalls=window.stalls,
            p50_us=known(window.p50_us),
            p99_us=known(window.p99_us),
            max_us=known(window.max_us),
            budget_us=window.budget_us,
            slowdown=window.slowdown,
            cells=self._sizing.cells(loads),
            demand_share=self._sizing.demand_share(loads),
            busy_share=window.busy_share,
            alarm=alarm,
            device=DEVICE,
            histogram_counts=window.counts,
            histogram_edges_us=window.edges_us,
            pid=os.getpid(),
        )


def journal_of(runtime: SiteRuntime) -> SlotJournal | None:
    """The records of the site's last slots, if there are to be any."""
    n_slots = runtime.config.ran.slot_records
    return SlotJournal(journal_file(runtime), n_slots) if n_slots else None


def known(value_us: float) -> float:
    """The protocol has no NaN: a window without slots has the latency 0."""
    return 0.0 if math.isnan(value_us) else value_us


def main(runtime: SiteRuntime) -> None:
    """Runs the slots until stopped."""
    stop = stop_event()
    begun_s = time.monotonic()
    layer1 = Layer1(runtime)
    log.info("ready after %.1f s", time.monotonic() - begun_s)
    reporter = Reporter(runtime.control_address, stop)
    reporter.start()
    log.info("slot thread: %s", go_first())
    layer1.run(reporter, stop)


def go_first() -> str:
    """Puts the calling thread before all others, as far as this user may; says how far."""
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(REALTIME_PRIORITY))
        return f"real-time (FIFO {REALTIME_PRIORITY})"
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, -10)
        return "niceness -10"
    return "normal priority; the engine runs at the lowest"


if __name__ == "__main__":
    raise SystemExit(service_main(main))
