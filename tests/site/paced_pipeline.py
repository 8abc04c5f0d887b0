"""A cell group on a clock of the test's own, whose slots take a law's time in each gear.

Kernels run on the CPU where a test wants results; otherwise nothing is decoded.
"""

from __future__ import annotations

from collections.abc import Callable

from phy.gpu.cell_group import CellGroup
from phy.gpu.downlink import downlink_program
from phy.gpu.downlink_group import DownlinkGroup
from phy.gpu.faults import GpuFaultError
from phy.gpu.pipeline import Elapsed
from phy.gpu.uplink import uplink_program
from phy.gpu.uplink_group import UplinkGroup
from tests.phy.gpu.emulated_pipeline import EmulatedPipeline

LOOK_S = 5e-6


class TickingClock:
    """Every look at it takes a little while."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        self.now_s += LOOK_S
        return self.now_s


class PacedPipeline(EmulatedPipeline):
    """Slots end `us(gear)` after their start."""

    def __init__(
        self, program, clock: TickingClock, us: Callable[[int], float], *, decodes: bool
    ) -> None:
        super().__init__(program, clock)
        self.us, self.decodes = us, decodes
        self.end_s: dict[int, float] = {}

    def start(self, side):
        super().start(side)
        self.end_s[side] = self.clock.now_s + 1e-6 * self.us(self.gear)

    def is_done(self, side):
        if self.fault is not None:
            raise self.fault
        return self.clock.now_s >= self.end_s[side]

    def wait(self, side):
        if self.fault is not None:
            raise self.fault
        us, now_s = self.us(self.gear), max(self.clock.now_s, self.end_s[side])
        self.slot_us = 0.0
        if self.decodes:
            super().wait(side)
        self.clock.now_s = now_s
        return Elapsed(us, us)


class PacedGroup:
    """A cell group and what its slots take."""

    def __init__(self, radio, us: dict[str, Callable[[int], float]], *, decodes: bool) -> None:
        self.clock = TickingClock()
        self.us = us
        self.made: list[PacedPipeline] = []
        up, down = radio.limits()
        self.alarms: list[object] = []

        def make(program, channel):
            def law(gear):
                return self.us[channel](gear)

            self.made.append(PacedPipeline(program, self.clock, law, decodes=decodes))
            return self.made[-1]

        told = {"on_alarm": self.alarms.append, "now_s": self.clock}
        uplink = UplinkGroup(up, lambda: make(uplink_program(up), "pusch"), **told)
        downlink = DownlinkGroup(down, lambda: make(downlink_program(down), "pdsch"), **told)
        self.group = CellGroup(uplink, downlink)

    def break_once(self, fault: GpuFaultError) -> None:
        for pipeline in self.made:
            pipeline.fault = fault
