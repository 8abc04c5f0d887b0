"""The `l1` process of a site on a real GPU: `python -m airan.site.l1_gpu STATE_DIR`.

All cells' slots run on the GPU at the radio's pace, fed by a simulated radio; the fast path runs
between them. Where the control plane is away slots and fast path go on.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
import threading
from pathlib import Path

from airan.core.clock import SystemClock
from airan.core.config import SiteConfig
from airan.core.errors import InvalidInputError, NotFoundError
from airan.site.cell_sizing import cell_id, measured_sizing
from airan.site.cells import Allocations, CellGroup, load_profile
from airan.site.gpu_radio import SimulatedRadio
from airan.site.gpu_slots import SlotLoop, latency_limits_us, without_collections
from airan.site.gpu_window import DownlinkCounts
from airan.site.l1 import REPORT_S, go_first, journal_of, known
from airan.site.l1_reports import Reports
from airan.site.main import service_main, stop_event
from airan.site.runtime import SiteRuntime
from airan.site.services import board_file
from airan.site.worker_keeper import WorkerKeeper
from orchestrator.fast_path import FastPath, FastPathSettings
from orchestrator.gear_costs import GearCosts
from orchestrator.sm_board import Gear, SmBoard
from orchestrator.step_budget import StepLimits
from orchestrator.views import SlotReport
from phy.gpu import cell_group
from phy.gpu.device_group import GroupOptions, open_cell_group
from phy.gpu.downlink_group import DownlinkOptions
from phy.gpu.faults import GpuFaultError
from phy.gpu.outcome import Alarm
from phy.gpu.uplink_options import UplinkOptions
from phy.runtime.slot import SlotWindow

log = logging.getLogger("airan.l1")

ALARM_REPORT_S = 0.02
"""A slot that was lost is reported so soon."""
WARN_S = 1.0
"""Between two lines of the log about lost slots."""
SWITCH_S = 1e-4
"""After so long another thread, which starts a process that is to stand by, lets the slots' one go
on."""


def least_gear(gears: tuple[int, ...], planned_sms: int) -> int:
    """The lowest gear that the plan allows: the highest one within the RAN's part of it. Below
    that the fast path lends nothing, however quiet the cells are."""
    return max((gear for gear, sms in enumerate(gears) if sms <= planned_sms), default=0)


def board_of(path: Path, settings: FastPathSettings) -> SmBoard:
    """The site's board; the one that is there, if it is alike, because an engine may watch it."""
    wanted = tuple(map(Gear, settings.gears, settings.engine_sms))
    try:
        board = SmBoard.open(path)
        if board.gears == wanted:
            return board
        board.close()
    except (NotFoundError, InvalidInputError) as error:
        log.debug("a new board: %s", error)
    return SmBoard.create(path, wanted)


def fast_path_settings(config: SiteConfig, total_sms: int) -> FastPathSettings:
    """The fast path on a GPU with so many SMs."""
    gpu = config.gpu
    decode_tokens = min(config.model.max_concurrent, gpu.max_step_tokens)
    step = StepLimits(gpu.step_limit_us, decode_tokens, gpu.max_step_tokens)
    gears = gpu.gears_of(total_sms)
    ran_sms, ai_sms = tuple(ran for ran, _ in gears), tuple(ai for _, ai in gears)
    return FastPathSettings(ran_sms, total_sms, ai_sms, *gpu.slot_limits, step=step)


class GpuLayer1:
    """The slots of all cells, their load, and what is reported of them."""

    def __init__(self, runtime: SiteRuntime) -> None:
        """Reckons costs, and simulates the radio's samples; the GPU is not touched yet.

        Raises:
            ConfigError: no cost model fits the GPU, or the carrier was not measured.
        """
        config = self._config = runtime.config
        self._day, self._clock = runtime.day_clock, SystemClock()
        self._board_path = board_file(runtime)
        self.keeper = WorkerKeeper(runtime)
        self._journal = journal_of(runtime)
        self._sizing = measured_sizing(config)
        ran = config.ran
        self._cells = CellGroup(ran.n_cells, 1, Allocations(ran.n_prb), load_profile(ran))
        model = self._sizing.model
        self.settings = fast_path_settings(config, model.sm_count)
        self._device = f"{model.product} (GPU)"
        self.radio = SimulatedRadio(ran.sized_as, ran.n_cells, ran.seed)
        self._costs = GearCosts(model, self._sizing.config, ran.n_cells, self.settings.gears)
        self._faults: list[Alarm] = []
        self._warn_at_s = 0.0

    def open(self) -> cell_group.CellGroup:
        """Sets the GPU up, with a part for every gear.

        Raises:
            GpuFaultError: no CuPy, no driver, no GPU, or not enough memory on it.
        """
        uplink, downlink = self.radio.limits()
        # The last gear is all of the GPU, which needs no part.
        gears = (*self.settings.gears[:-1], None)
        limits_us = latency_limits_us(self._config.gpu.judged_by)
        options = GroupOptions(
            gears,
            has_standby=True,
            places=self.keeper.places(),
            uplink=UplinkOptions(budget_us=limits_us["pusch"]),
            downlink=DownlinkOptions(budget_us=limits_us["pdsch"]),
        )
        return open_cell_group(uplink, downlink, options, on_alarm=self.on_alarm)

    def on_alarm(self, alarm: Alarm) -> None:
        """Notes a fault of the GPU; slots near their budget are the fast path's own business."""
        if alarm.fault is not None:
            self._faults.append(alarm)

    def loop(self, group: cell_group.CellGroup) -> SlotLoop:
        """The slots over a cell group."""
        self._draw_loads()
        board = board_of(self._board_path, self.settings)
        judged_by, fast = self._config.gpu.judged_by, FastPath(self.settings)
        loop = SlotLoop(group, self.radio, fast, board, self._costs, judged_by=judged_by)
        loop.journal = self._journal
        return loop

    def run(self, loop: SlotLoop, reports: Reports, stop: threading.Event) -> None:
        """Runs slots until stopped, or until nobody hears of them any more."""
        loop.begin()
        self._keep()
        reported_s = self._clock.monotonic_s()
        while not (stop.is_set() or reports.is_over):
            self.keeper.heed()
            loop.step()
            self._take_faults(loop)
            now_s = self._clock.monotonic_s()
            if now_s - reported_s >= (ALARM_REPORT_S if loop.alarm else REPORT_S):
                reports.send(self.report(loop))
                gc.collect(0)  # the youngest objects only, which are few
                self._keep()
                self._draw_loads()
                loop.bound(least_gear(self.settings.gears, reports.ran_sms))
                reported_s = now_s

    def _keep(self) -> None:
        self.keeper.keep()
        if self._journal is not None:
            self._journal.name_worker(self.keeper.pid)

    def report(self, loop: SlotLoop) -> SlotReport:
        """What happened since the last report."""
        alarm, loop.alarm = loop.alarm, False
        report = self._report(*loop.close_window(), alarm=alarm)
        lost = report.slots_late + report.slots_dropped
        if lost and report.time_s >= self._warn_at_s:
            self._warn_at_s = report.time_s + WARN_S
            what = "%d of %d slots late or dropped; uplink p99 %.0f us of %.0f us, gear %d"
            log.warning(what, lost, report.slots, report.p99_us, report.budget_us, loop.gear)
        return report

    def _draw_loads(self) -> None:
        now_s = self._clock.now_s()
        self.radio.loads = self._cells.loads(self._day.time_of_day_s(now_s))

    def _take_faults(self, loop: SlotLoop) -> None:
        for alarm in self._faults:
            log.error("slot %d: the GPU failed: %s", alarm.slot, alarm.fault)
            loop.is_empty = loop.alarm = True
        self._faults.clear()

    def _report(self, uplink: SlotWindow, downlink: DownlinkCounts, *, alarm: bool) -> SlotReport:
        loads = tuple(self.radio.loads)
        return SlotReport(
            cell_id=cell_id(0),
            time_s=self._clock.now_s(),
            slots=uplink.slots + downlink.slots,
            slots_late=uplink.late + downlink.late,
            slots_dropped=uplink.dropped + downlink.dropped,
            crc_failed=uplink.crc_failed,
            p50_us=known(uplink.p50_us),
            p99_us=known(uplink.p99_us),
            max_us=known(uplink.max_us),
            budget_us=uplink.budget_us,
            slowdown=uplink.slowdown,
            cells=self._sizing.cells(loads),
            demand_share=self._sizing.demand_share(loads),
            busy_share=min(1.0, uplink.busy_share + downlink.busy_share),
            alarm=alarm,
            device=self._device,
            histogram_counts=uplink.counts,
            histogram_edges_us=uplink.edges_us,
            pid=os.getpid(),
        )


def main(runtime: SiteRuntime) -> None:
    """Runs the slots until stopped."""
    stop = stop_event()
    layer1 = GpuLayer1(runtime)
    for inherited in [key for key in os.environ if key.startswith("CUDA_MPS_")]:
        del os.environ[inherited]
    try:
        group = layer1.open()
    except GpuFaultError as error:
        # The supervisor tries again: a GPU that was just given up may need a moment.
        log.error("Layer 1 has no GPU: %s", error)
        raise
    reports = Reports(runtime.control_address)
    try:
        log.info("slot thread: %s", go_first())
        sys.setswitchinterval(SWITCH_S)
        loop = layer1.loop(group)
        layer1.keeper.begin(group.worker)
        without_collections()
        layer1.run(loop, reports, stop)
    finally:
        reports.close()
        group.close()


if __name__ == "__main__":
    raise SystemExit(service_main(main))
