"""The downlink of a group of cells on the GPU, slot by slot, against a deadline.

    prepare -> start -> (copy in, one CUDA graph, copy out) -> collect

As `phy.gpu.uplink_group`, without HARQ: what was not sent in time is for the scheduler to send
again.
"""

from __future__ import annotations

import math
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from airan.core.errors import InvalidInputError
from phy.checks import check_integer, check_range
from phy.gpu import downlink
from phy.gpu.downlink import DownlinkLimits, DownlinkTables
from phy.gpu.downlink_layout import DownlinkUe
from phy.gpu.faults import GpuFaultError
from phy.gpu.lane import Half, Lane
from phy.gpu.outcome import Alarm, SentSlot, UeStatus
from phy.gpu.pipeline import N_SIDES, Elapsed, Pipeline
from phy.shared_channel.config import N_SYMBOLS

PDSCH_BUDGET_US = 375.0
"""From the order to the grids."""


@dataclass(frozen=True)
class Assignment:
    """A downlink assignment: the transport block that is to be sent.

    Attributes:
        ue: the UE's allocation.
        tb: uint8[ceil(A / 8)], the first bit highest; None: it has been written where
            `DownlinkGroup.rooms` said, which saves a copy.
    """

    ue: DownlinkUe
    tb: npt.NDArray[np.uint8] | None


@dataclass(frozen=True)
class DownlinkOptions:
    """How the downlink runs.

    Attributes:
        budget_us: from the order to the grids.
        slots_per_frame: of the numerology: 20 at 30 kHz.
        alarm_fraction: a latency above this part of the budget raises the alarm.
    """

    budget_us: float = PDSCH_BUDGET_US
    slots_per_frame: int = 20
    alarm_fraction: float = 0.8

    def __post_init__(self) -> None:
        check_range("budget_us", self.budget_us, 1.0, 1e9)
        check_integer("slots_per_frame", self.slots_per_frame, 10, 160)
        check_range("alarm_fraction", self.alarm_fraction, 0.0, 1.0)


@dataclass(frozen=True)
class _UnderWay:
    slot: int
    side: int
    ordered_s: float


class DownlinkGroup(Half):
    """The downlink of a group of cells.

    Not for several threads at once.

    Attributes:
        limits: what it was prepared for.
        slots: counts of slots by status.
    """

    def __init__(
        self,
        limits: DownlinkLimits,
        make_pipeline: Callable[[], Pipeline],
        options: DownlinkOptions | None = None,
        *,
        on_alarm: Callable[[Alarm], None] | None = None,
        now_s: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Sets the GPU up.

        Args:
            limits: the most that a slot may hold.
            make_pipeline: makes a pipeline for `downlink_program(limits)`.
            options: how it runs.
            on_alarm: called with every alarm, between slots.
            now_s: the clock.

        Raises:
            GpuFaultError: the GPU cannot be set up.
        """
        self.limits = limits
        counted = (UeStatus.ON_TIME, UeStatus.LATE, UeStatus.DROPPED, UeStatus.FAILED)
        self.slots: dict[str, int] = dict.fromkeys(counted, 0)
        self._options = options or DownlinkOptions()
        self._on_alarm = on_alarm or (lambda _alarm: None)
        self._now_s = now_s
        self._tables = DownlinkTables(limits)
        self._checked: weakref.WeakSet[DownlinkUe] = weakref.WeakSet()
        self._announced: tuple[int, Sequence[Assignment]] | None = None
        self._prepared: _UnderWay | None = None
        self._under_way: deque[_UnderWay] = deque()
        self._finished: deque[SentSlot] = deque()
        self._lane = Lane(make_pipeline, lambda: None, now_s)

    def grid(self, sent: SentSlot, cell: int) -> npt.NDArray[np.float16]:
        """Returns a cell's part of a slot's grids: float16[antenna, 14, subcarrier, 2].

        Raises:
            InvalidInputError: there is no such cell, or the slot has no grids.
        """
        check_integer("cell", cell, 0, len(self.limits.cells) - 1)
        if sent.grids is None:
            raise InvalidInputError("sent", f"slot {sent.slot} has no grids: {sent.status}")
        cell_grid = self.limits.cells[cell]
        start = self.limits.grid_starts[cell]
        mine = sent.grids[start : start + cell_grid.n_samples]
        return mine.reshape(cell_grid.n_antennas, N_SYMBOLS, 12 * cell_grid.n_prb, 2)

    def rooms(self, ues: Sequence[DownlinkUe]) -> list[npt.NDArray[np.uint8]]:
        """Returns where the next slot's transport blocks may be written, in pinned memory, if that
        slot sends to `ues` in this order: uint8[ceil(A / 8)] each.

        Raises:
            InvalidInputError: there is not room for all of them.
            GpuFaultError: there is no GPU at present.
        """
        return downlink.rooms(self._lane.running().inputs(self._lane.next_side), ues)

    def prepare(self, slot: int, assignments: Sequence[Assignment]) -> None:
        """Writes a slot's tables and transport blocks; `start` comes next.

        Raises:
            InvalidInputError: the slot is beyond the limits, or assignments share PRBs.
        """
        for each in assignments:
            if each.ue not in self._checked:
                downlink.check_cell(self.limits.cells, each.ue)
                self._checked.add(each.ue)
        self._announced = (slot, assignments)
        self._prepared = None
        if self._lane.is_running and len(self._under_way) < N_SIDES:
            self._prepared = self._write_tables(slot, assignments)

    def start(self, ordered_s: float | None = None) -> None:
        """Starts to make the grids of the slot prepared last; returns at once. Its outcome comes
        from `collect`, also if it is dropped or the GPU fails.

        Args:
            ordered_s: from when its budget counts, on the group's clock; None: now.

        Raises:
            InvalidInputError: no slot is prepared, or as `prepare` does.
        """
        if self._announced is None:
            raise InvalidInputError("slot", "none is prepared", remedy="call prepare first")
        slot, assignments = self._announced
        self._announced = None
        ordered_s = self._now_s() if ordered_s is None else ordered_s
        if self._prepared is None:
            if not self._lane.is_running:
                self._end(SentSlot(slot, UeStatus.FAILED, error="there is no GPU"))
                self.is_ready()
                return
            if len(self._under_way) == N_SIDES:
                self._end(SentSlot(slot, UeStatus.DROPPED))
                return
        ready = self._prepared or self._write_tables(slot, assignments)
        self._prepared = None
        try:
            self._lane.running().start(ready.side)
        except GpuFaultError as fault:
            self._end(SentSlot(slot, UeStatus.FAILED, error=str(fault)))
            self._fail(slot, fault)
            return
        self._lane.turn()
        self._under_way.append(replace(ready, ordered_s=ordered_s))

    def collect(self, *, wait: bool = False) -> list[SentSlot]:
        """Returns the slots that have ended, in order.

        Args:
            wait: for all slots under way.
        """
        while self._under_way:
            first = self._under_way[0]
            try:
                pipeline = self._lane.running()
                if not wait and not pipeline.is_done(first.side):
                    break
                elapsed = pipeline.wait(first.side)
            except GpuFaultError as fault:
                self._under_way.popleft()
                self._end(SentSlot(first.slot, UeStatus.FAILED, error=str(fault)))
                self._fail(first.slot, fault)
            else:
                self._under_way.popleft()
                self._finish(first, elapsed)
        slots = list(self._finished)
        self._finished.clear()
        return slots

    @property
    def n_under_way(self) -> int:
        """Slots that were started and not collected."""
        return len(self._under_way)

    def close(self) -> None:
        """Waits for what is under way and gives the GPU back."""
        self.collect(wait=True)
        self._lane.close()

    def _write_tables(self, slot: int, assignments: Sequence[Assignment]) -> _UnderWay:
        side = self._lane.next_side
        self._tables.fill(
            self._lane.running().inputs(side),
            [each.ue for each in assignments],
            [each.tb for each in assignments],
            slot % self._options.slots_per_frame,
        )
        return _UnderWay(slot, side, math.nan)

    def _finish(self, done: _UnderWay, elapsed: Elapsed) -> None:
        latency_us = (self._now_s() - done.ordered_s) * 1e6
        is_late = latency_us > self._options.budget_us
        self._end(
            SentSlot(
                done.slot,
                UeStatus.LATE if is_late else UeStatus.ON_TIME,
                None if is_late else self._lane.running().outputs(done.side).get("grids"),
                latency_us,
                elapsed.kernels_us,
                elapsed.with_copies_us,
            )
        )
        if latency_us > self._options.budget_us * self._options.alarm_fraction:
            self._on_alarm(Alarm(done.slot, latency_us))

    def _end(self, sent: SentSlot) -> None:
        self.slots[sent.status] += 1
        self._finished.append(sent)

    def _fail(self, slot: int, fault: GpuFaultError) -> None:
        is_end = self._lane.count(fault)
        self._on_alarm(Alarm(slot, math.nan, fault))
        if is_end:
            self._prepared = None
            for lost in self._under_way:
                self._end(SentSlot(lost.slot, UeStatus.FAILED, error=str(fault)))
            self._under_way.clear()
            self._lane.end()
