"""The uplink of a group of cells on the GPU, slot by slot, against a deadline.

    prepare -> start -> (copy in, one CUDA graph, copy out) -> collect

A cell group is prepared for slots like given ones. A slot beyond them is refused before anything is
done; one that finds all sides busy is dropped; one that would take too long goes without some of
its UEs (phy/gpu/shedding.py has the rule). When the GPU fails, the slots under way end with the
error, the GPU is set up again if it takes that (slots fail meanwhile), and HARQ goes on: every
process still knows what it waits for, and only its soft values are gone.
"""

from __future__ import annotations

import math
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from airan.core.errors import InvalidInputError
from phy.checks import check_integer
from phy.gpu import uplink
from phy.gpu.decode_plan import Placed
from phy.gpu.faults import GpuFaultError
from phy.gpu.front_end_layout import pack_grid
from phy.gpu.harq import HarqBooks, HarqKey, HarqTicket
from phy.gpu.lane import Half, Lane
from phy.gpu.outcome import (
    Alarm,
    Grant,
    GroupCounters,
    SlotOutcome,
    TbOutcome,
    UeStatus,
    ended_alike,
)
from phy.gpu.pipeline import N_SIDES, Elapsed, Pipeline, Tables
from phy.gpu.shedding import Candidate, keep
from phy.gpu.transport import SoftBuffer
from phy.gpu.uplink import UplinkJob, UplinkLimits, UplinkTables, UplinkUe
from phy.gpu.uplink_options import UplinkOptions
from phy.gpu.uplink_tuning import UeKey, UplinkTuning
from phy.shared_channel.config import N_SYMBOLS


@dataclass(frozen=True)
class _UnderWay:
    slot: int
    side: int
    arrived_s: float
    grants: Sequence[Grant]
    kept: list[int]
    tickets: list[HarqTicket]
    placed: Placed
    cost_us: float


class UplinkGroup(Half):
    """The uplink of a group of cells.

    Not for several threads at once.

    Attributes:
        limits: what it was prepared for.
        counters: of everything that happened.
    """

    def __init__(
        self,
        limits: UplinkLimits,
        make_pipeline: Callable[[], Pipeline],
        options: UplinkOptions | None = None,
        *,
        on_alarm: Callable[[Alarm], None] | None = None,
        now_s: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Sets the GPU up.

        Args:
            limits: the most that a slot may hold.
            make_pipeline: makes a pipeline for `uplink_program(limits)`; called again after a
                fault. `phy.gpu.device_group` does that for a real GPU.
            options: how it runs.
            on_alarm: called with every alarm, between slots.
            now_s: the clock.

        Raises:
            GpuFaultError: the GPU cannot be set up.
        """
        self.limits = limits
        self.counters = GroupCounters()
        self._options = options or UplinkOptions()
        self._on_alarm = on_alarm or (lambda _alarm: None)
        self._now_s = now_s
        self._books = HarqBooks(limits.decode.n_soft_buffers)
        self._n_filled = np.zeros(limits.decode.n_soft_buffers, np.int64)
        self._tables = UplinkTables(limits)
        self._tuning = UplinkTuning(limits.front_end.n_filter_sets)
        self._under_way: deque[_UnderWay] = deque()
        self._finished: deque[SlotOutcome] = deque()
        self._announced: tuple[int, Sequence[Grant]] | None = None
        self._prepared: _UnderWay | None = None
        # What the last slot of each UE that has not been tracked since said.
        self._last: dict[UeKey, tuple[UplinkUe, int, npt.NDArray[np.void], int]] = {}
        self._checked: weakref.WeakSet[UplinkUe] = weakref.WeakSet()
        self._lane = Lane(make_pipeline, self._tuning.write_again, now_s)

    @property
    def books(self) -> HarqBooks:
        """The HARQ processes."""
        return self._books

    def samples(self, cell: int) -> npt.NDArray[np.float16]:
        """Returns where the next slot's samples of a cell are to be written, in pinned memory:
        float16[rx, 14, subcarrier, 2], mean power near 1.

        Raises:
            InvalidInputError: there is no such cell.
            GpuFaultError: there is no GPU at present.
        """
        check_integer("cell", cell, 0, len(self.limits.cells) - 1)
        grid = self.limits.cells[cell]
        start = self.limits.grid_starts[cell]
        all_cells = self._lane.running().inputs(self._lane.next_side)["samples"]
        mine = all_cells[start : start + grid.n_samples]
        return mine.reshape(grid.n_rx, N_SYMBOLS, 12 * grid.n_prb, 2)

    def receive(self, cell: int, grid: npt.NDArray[np.complex64]) -> None:
        """Writes a cell's resource grid, complex64[rx, 14, subcarrier], for the next slot."""
        self.samples(cell)[...] = pack_grid(grid)

    def prepare(self, slot: int, grants: Sequence[Grant]) -> None:
        """Writes a slot's tables, while its samples are still arriving; `start` comes next.

        Args:
            slot: index.
            grants: what was granted in it, of all cells.

        Raises:
            InvalidInputError: the slot is beyond the limits, or grants contradict each other; for
                HARQ, its grants were sent and not received.
        """
        self._check_grants(grants)
        self._give_up_prepared()
        self._announced = (slot, grants)
        if len(self._under_way) < N_SIDES and self._lane.is_running:
            self._prepared = self._write_tables(slot, grants)

    def start(self, arrived_s: float | None = None) -> None:
        """Starts to receive the slot prepared last, whose samples have been written; returns at
        once. Its outcome comes from `collect`, also if it is dropped or the GPU fails.

        Args:
            arrived_s: when its last sample arrived, on the group's clock; None: now.

        Raises:
            InvalidInputError: no slot is prepared, or as `prepare` does.
        """
        if self._announced is None:
            raise InvalidInputError("slot", "none is prepared", remedy="call prepare first")
        slot, grants = self._announced
        self._announced = None
        arrived_s = self._now_s() if arrived_s is None else arrived_s
        if self._prepared is None and self._ends_at_once(slot, grants):
            return
        ready = self._prepared or self._write_tables(slot, grants)
        self._prepared = None
        try:
            self._queue(replace(ready, arrived_s=arrived_s))
        except GpuFaultError as fault:
            self._lose(ready, fault)
            self._tuning.write_again()
            self._fail(slot, fault)

    def submit(self, slot: int, grants: Sequence[Grant], arrived_s: float | None = None) -> None:
        """`prepare` and `start` in one.

        Raises:
            InvalidInputError: as `prepare` does.
        """
        arrived_s = self._now_s() if arrived_s is None else arrived_s
        self.prepare(slot, grants)
        self.start(arrived_s)

    def collect(self, *, wait: bool = False) -> list[SlotOutcome]:
        """Returns the outcomes of slots that have ended, in order.

        Args:
            wait: for all slots under way.
        """
        while self._under_way and (wait or self._is_done()):
            first = self._under_way[0]
            try:
                elapsed = self._lane.running().wait(first.side)
                self._under_way.popleft()
                self._finish(first, elapsed)
            except GpuFaultError as fault:
                self._lose(first, fault)
                self._under_way.popleft()
                self._fail(first.slot, fault)
        outcomes = list(self._finished)
        self._finished.clear()
        return outcomes

    def learn(self, ue: UplinkUe, grid: npt.NDArray[np.complex64], slot_number: int) -> None:
        """Designs a UE's filters from one of its slots; takes tens of ms, for another time than a
        slot's.

        Args:
            ue: the UE.
            grid: complex64[rx, 14, subcarrier] of its cell.
            slot_number: within the frame.
        """
        self._tuning.learn(ue, grid, slot_number)

    def track(self, n_ues: int = 1) -> None:
        """Lets the filters in time follow the motion of the next `n_ues` UEs, in turn, as their
        last slots showed it; for another time than a slot's."""
        for _ in range(min(n_ues, len(self._last))):
            key = next(iter(self._last))
            ue, slot_number, results, row = self._last.pop(key)
            self._tuning.follow(ue, slot_number, results[row])

    def release(self, cell: int, rnti: int) -> None:
        """A UE has left; one that is not known is no error."""
        self._tuning.forget(cell, rnti)
        self._last.pop((cell, rnti), None)

    def release_cell(self, cell: int) -> None:
        """A cell is taken out of service: its HARQ processes end."""
        self._books.release_cell(cell)

    @property
    def n_under_way(self) -> int:
        """Slots that were started and not collected."""
        return len(self._under_way)

    def close(self) -> None:
        """Waits for what is under way and gives the GPU back."""
        self.collect(wait=True)
        self._lane.close()

    def _check_grants(self, grants: Sequence[Grant]) -> None:
        seen = set()
        for index, grant in enumerate(grants):
            check_integer("process_id", grant.process_id, 0, 31)
            if grant.ue not in self._checked:
                uplink.check_cell(self.limits.cells, grant.ue)
                self._checked.add(grant.ue)
            key = (grant.ue.cell, grant.ue.config.rnti)
            if key in seen:
                raise InvalidInputError(
                    f"grants[{index}]", f"RNTI {key[1]} of cell {key[0]} has two grants in a slot"
                )
            seen.add(key)

    def _ends_at_once(self, slot: int, grants: Sequence[Grant]) -> bool:
        """Drops a slot that finds all sides busy, and fails one that finds no GPU."""
        if not self._lane.is_running:
            outcome = ended_alike(slot, grants, UeStatus.FAILED, "there is no GPU")
            self._end(outcome, "failed")
            self.is_ready()
        elif len(self._under_way) == N_SIDES:
            self._end(ended_alike(slot, grants, UeStatus.DROPPED), "dropped")
        else:
            return False
        self._miss(grants)
        return True

    def _write_tables(self, slot: int, grants: Sequence[Grant]) -> _UnderWay:
        kept, cost_us = self._kept(grants)
        if len(kept) < len(grants):
            shed = set(range(len(grants))).difference(kept)
            self._miss([grants[index] for index in sorted(shed)])
        records = [self._tuning.record(grants[index].ue) for index in kept]
        tickets = [self._begin(grants[index]) for index in kept]
        jobs = [
            UplinkJob(grants[index].ue, record, self._soft_buffer(ticket, row))
            for row, (index, record, ticket) in enumerate(zip(kept, records, tickets, strict=True))
        ]
        slot_number = slot % self._options.slots_per_frame
        side, effort = self._lane.next_side, self._options.effort
        inputs = self._lane.running().inputs(side)
        try:
            placed = self._tables.fill(inputs, jobs, slot_number, effort)
        except InvalidInputError:
            for ticket in tickets:
                self._books.end(ticket, decoded=False, processed=False)
            raise
        return _UnderWay(slot, side, math.nan, grants, kept, tickets, placed, cost_us)

    def _soft_buffer(self, ticket: HarqTicket, row: int) -> SoftBuffer:
        """Of a transport block; one that found none free uses its row's, for this slot only."""
        decode = self.limits.decode
        if ticket.buffer < 0:
            return SoftBuffer((decode.n_soft_buffers + row) * decode.soft_buffer_units)
        n_filled = int(self._n_filled[ticket.buffer]) if ticket.combine else 0
        return SoftBuffer(ticket.buffer * decode.soft_buffer_units, n_filled)

    def _queue(self, ready: _UnderWay) -> None:
        pipeline = self._lane.running()
        for update in self._tuning.take_updates():
            pipeline.write("taps", update.first_row, update.taps)
        pipeline.start(ready.side)
        self._lane.turn()
        self._under_way.append(ready)

    def _kept(self, grants: Sequence[Grant]) -> tuple[list[int], float]:
        """The grants that can be received in time, and what they cost in us."""
        cost = self._options.cost
        if cost is None:
            return list(range(len(grants))), 0.0
        costs = [cost.ue_us(grant.ue) for grant in grants]
        candidates = [
            Candidate(us, grant.priority, self._books.transmissions(_key(grant)))
            for us, grant in zip(costs, grants, strict=True)
        ]
        backlog_us = sum(each.cost_us for each in self._under_way)
        kept = keep(candidates, cost.base_us() + backlog_us, self._options.budget_us)
        return kept, cost.base_us() + sum(costs[index] for index in kept)

    def _begin(self, grant: Grant) -> HarqTicket:
        tb = grant.ue.tb
        return self._books.begin(_key(grant), tb.soft_bytes, grant.new_data)

    def _is_done(self) -> bool:
        try:
            return self._lane.running().is_done(self._under_way[0].side)
        except GpuFaultError:
            return True  # `wait` will say so

    def _finish(self, done: _UnderWay, elapsed: Elapsed) -> None:
        latency_us = (self._now_s() - done.arrived_s) * 1e6
        is_late = latency_us > self._options.budget_us
        outputs = self._lane.running().outputs(done.side)
        tbs: list[TbOutcome] = [TbOutcome(grant, UeStatus.SHED) for grant in done.grants]
        status = UeStatus.LATE if is_late else UeStatus.ON_TIME
        crc_ok = outputs["crc_ok"][: len(done.kept)].tolist()
        results = outputs["results"][: len(done.kept)].copy()
        sinr_db = _sinr_db(results)
        slot_number = done.slot % self._options.slots_per_frame
        for row, (index, ticket) in enumerate(zip(done.kept, done.tickets, strict=True)):
            is_good = bool(crc_ok[row])
            tbs[index] = TbOutcome(
                grant=done.grants[index],
                status=status,
                crc_ok=is_good,
                tb=self._tb(outputs, done, row, index) if is_good and not is_late else None,
                transmission=ticket.transmission,
                sinr_db=sinr_db[row],
            )
            if ticket.buffer >= 0:
                self._n_filled[ticket.buffer] = done.placed.n_filled[row]
            # A late block was not delivered: it will be sent again.
            self._books.end(ticket, decoded=is_good and not is_late)
            ue = done.grants[index].ue
            self._last[ue.cell, ue.config.rnti] = (ue, slot_number, results, row)
        used = self._lane.running().inputs(done.side)["tb_of_block"] >= 0
        outcome = SlotOutcome(
            done.slot,
            tuple(tbs),
            latency_us,
            elapsed.kernels_us,
            elapsed.with_copies_us,
            float(outputs["iterations"][used].mean()) if done.kept else math.nan,
        )
        self._end(outcome, "late" if is_late else "on_time")
        if latency_us > self._options.budget_us * self._options.alarm_fraction:
            self._on_alarm(Alarm(done.slot, latency_us))

    def _tb(self, outputs: Tables, done: _UnderWay, row: int, index: int) -> npt.NDArray[np.uint8]:
        at = int(done.placed.tb_at[row])
        n_bits = done.grants[index].ue.config.tb_size_bits
        tb: npt.NDArray[np.uint8] = outputs["tb_bytes"][at : at + -(-n_bits // 8)]
        return tb

    def _give_up_prepared(self) -> None:
        """A slot prepared and never started: its grants were sent, and are not received."""
        for ticket in [] if self._prepared is None else self._prepared.tickets:
            self._books.end(ticket, decoded=False, processed=False)
        self._prepared = None

    def _miss(self, grants: Sequence[Grant]) -> None:
        """These were sent, and are not received."""
        for grant in grants:
            self._books.end(self._begin(grant), decoded=False, processed=False)

    def _lose(self, lost: _UnderWay, fault: GpuFaultError) -> None:
        for ticket in lost.tickets:
            self._books.end(ticket, decoded=False, processed=False)
        self._end(ended_alike(lost.slot, lost.grants, UeStatus.FAILED, str(fault)), "failed")

    def _end(self, outcome: SlotOutcome, status: str) -> None:
        self.counters.add(outcome, status)
        self._finished.append(outcome)

    def _fail(self, slot: int, fault: GpuFaultError) -> None:
        """Counts a fault; if the GPU no longer works, ends what is under way and starts anew."""
        is_end = self._lane.count(fault)
        self._on_alarm(Alarm(slot, math.nan, fault))
        if not is_end:
            return
        self._give_up_prepared()
        for lost in self._under_way:
            self._lose(lost, fault)
        self._under_way.clear()
        self.counters.lost_soft_values += self._books.forget_values()
        self._lane.end()


def _key(grant: Grant) -> HarqKey:
    return HarqKey(grant.ue.cell, grant.ue.config.rnti, grant.process_id)


def _sinr_db(results: npt.NDArray[Any]) -> list[float]:
    noise = np.maximum(results["symbol_noise_var"], 1e-12)
    out: list[float] = (-10 * np.log10(noise)).tolist()
    return out
