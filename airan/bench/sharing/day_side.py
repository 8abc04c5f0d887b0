"""The slots' side of a day: the site's own slot loop and fast path on a simulated radio.

Commands: `{"speed": 1000, "from_h": 0, "hours": 24}`, answered with every slot.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from airan.bench.sharing.side import Channel, SideOrder
from airan.core.config import SiteConfig
from airan.site.cell_sizing import carrier_of
from airan.site.gpu_radio import SimulatedRadio
from airan.site.gpu_slots import SlotLoop, latency_limits_us, without_collections
from airan.site.gpu_window import GpuWindow
from orchestrator.cell_demand import CellDemand
from orchestrator.fast_path import FastPath, FastPathSettings
from orchestrator.gear_costs import GearCosts
from orchestrator.sm_board import SmBoard
from orchestrator.step_budget import StepLimits
from phy.gpu.device_group import GroupOptions, open_cell_group
from phy.gpu.downlink_group import DownlinkOptions
from phy.gpu.outcome import SentSlot, SlotOutcome
from phy.gpu.uplink_options import UplinkOptions
from sims.ran_load import DiurnalProfile

_COST_MODEL = "H200-141GB"
"""Where the fast path's expectation starts; what is seen scales it."""
_JUDGED_BY = "gpu"
_DRAW_S = 0.01
_DAY_H = 24.0


class _Recorder(GpuWindow):
    """Keeps every slot."""

    def __init__(self, loop: SlotLoop, timing: Any) -> None:
        super().__init__(timing, latency_limits_us(_JUDGED_BY))
        self._loop = loop
        self.slots: list[list[Any]] = []

    def add_received(self, outcome: SlotOutcome) -> None:
        self._keep("pusch", outcome)
        super().add_received(outcome)

    def add_sent(self, sent: SentSlot) -> None:
        if sent.slot >= 0:
            self._keep("pdsch", sent)
        super().add_sent(sent)

    def add_missed(self, channel: str) -> None:
        # How many cells it had is not known any more.
        self.slots.append([time.monotonic(), channel, -1, -1, None, None, None])
        super().add_missed(channel)

    def _keep(self, channel: str, ended: SlotOutcome | SentSlot) -> None:
        times = (ended.kernels_us, ended.with_copies_us, ended.latency_us)
        known = [None if math.isnan(us) else round(us, 1) for us in times]
        gear, n_cells = self._loop.under_way(channel, ended.slot)
        self.slots.append([time.monotonic(), channel, gear, n_cells, *known])


def run(order: SideOrder, channel: Channel) -> None:
    """Prepares the cells and the GPU, then plays days.

    Raises:
        AiranError: no GPU, or it fails.
    """
    board = SmBoard.open(Path(order.board))
    gears = tuple(gear.ran_sms for gear in board.gears[: order.n_gears])
    size = SiteConfig().ran.sized_as
    radio = SimulatedRadio(size, order.n_cells)
    model = CellDemand.of(_COST_MODEL, _sm_count())
    costs = GearCosts(model, carrier_of(size), order.n_cells, gears)
    step = StepLimits(decode_tokens=order.batch, most_tokens=order.step_tokens or 8192)
    ai_sms = tuple(gear.ai_sms for gear in board.gears[: order.n_gears])
    settings = FastPathSettings(gears, _sm_count(), ai_sms, *order.slot_limits, step=step)
    limits_us = latency_limits_us(_JUDGED_BY)
    options = GroupOptions(
        gears,
        uplink=UplinkOptions(budget_us=limits_us["pusch"]),
        downlink=DownlinkOptions(budget_us=limits_us["pdsch"]),
    )
    group = open_cell_group(*radio.limits(), options)
    fast = FastPath(settings)
    loop = SlotLoop(group, radio, fast, board, costs, judged_by=_JUDGED_BY)
    loop.window = recorder = _Recorder(loop, group.timing)
    loop.begin()
    without_collections()
    for command in channel.commands():
        recorder.slots.clear()
        begun_s = time.perf_counter()
        changes = list(_play(loop, radio, fast, command))
        during = (begun_s, time.perf_counter())
        slots = recorder.slots
        channel.answer({"slots": slots, "changes": changes, "gears": gears, "during": during})
    group.close()


def _play(
    loop: SlotLoop, radio: SimulatedRadio, fast: FastPath, command: dict[str, Any]
) -> Iterable[tuple[float, int, str]]:
    """Runs the slots of a day; yields every change of gear: when, to which, and why."""
    profile = DiurnalProfile()
    speed, hours = float(command["speed"]), float(command["hours"])
    begun_s = drawn_s = time.monotonic()
    last, elapsed_s = -1, 0.0
    loop.resume()
    while elapsed_s * speed < 3600 * hours:
        now_s = time.monotonic()
        elapsed_s = now_s - begun_s
        if now_s >= drawn_s:
            drawn_s = now_s + _DRAW_S
            at_s = (3600 * float(command["from_h"]) + elapsed_s * speed) % (3600 * _DAY_H)
            radio.loads = [profile.load(cell, at_s) for cell in range(radio.n_cells)]
        loop.step()
        if loop.gear != last:
            last = loop.gear
            yield now_s, last, fast.reason


def _sm_count() -> int:
    from phy.gpu.green import count_sms
    from phy.gpu.module import require_cupy

    require_cupy().cuda.runtime.free(0)
    return count_sms(0)
