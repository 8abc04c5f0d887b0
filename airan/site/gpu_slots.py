"""Slots of all cells on the GPU at the radio's pace, and the fast path between them.

One thread does it all: it starts the slot that is due, prepares the next, collects what has ended,
and tells the fast path of each. A new gear is ordered on the board, where the engine sees it, and
holds from the next slot on, but for the last one, which is all of the GPU: the engine has to be out
of its part first. When the last slot of the former gear has ended, that is acknowledged, and the
engine may grow into what it had.
"""

from __future__ import annotations

import gc
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from airan.site.gpu_radio import SimulatedRadio, Slot
from airan.site.gpu_window import DownlinkCounts, GpuWindow
from airan.site.slot_journal import Fate, SlotJournal
from orchestrator.fast_path import FastOrder, FastPath, SlotExpected, SlotSeen
from orchestrator.gear_costs import GearCosts
from orchestrator.sm_board import NO_ORDER, GearOrder, SmBoard
from phy.gpu.cell_group import CellGroup
from phy.gpu.downlink_group import PDSCH_BUDGET_US
from phy.gpu.faults import GpuFaultError
from phy.gpu.outcome import SentSlot, SlotOutcome
from phy.gpu.pipeline import N_SIDES
from phy.gpu.uplink_options import PUSCH_BUDGET_US
from phy.runtime.slot import SlotWindow

log = logging.getLogger(__name__)

BUDGET_US = {"pusch": PUSCH_BUDGET_US, "pdsch": PDSCH_BUDGET_US}
"""On the GPU, copies left out, as cuPHY states its own."""
HOST_US = 600.0
"""Assumed: what copies and the host may take besides where slots are judged by the GPU's time."""
SLOT_S = 0.0005
ANSWER_NS = 1_000_000_000
"""An engine that has had an order before it for so long, and taken none, is none."""
SLOTS_UNDER_WAY = N_SIDES + 1
"""In so many slots a direction begins as many as may be under way: one of five is the other's."""
MOST_BEHIND = 10
"""Slots; when the host comes later than that to a slot, those before it are given up."""


def without_collections() -> None:
    """From now on garbage is collected only when it is asked for: looking through all objects takes
    tens of milliseconds, and would come between two slots."""
    gc.collect()
    gc.freeze()
    gc.disable()


def latency_limits_us(judged_by: str) -> dict[str, float]:
    """By channel, from when a slot is due to its results on the host; see GpuConfig.judged_by."""
    more_us = HOST_US if judged_by == "gpu" else 0.0
    return {channel: us + more_us for channel, us in BUDGET_US.items()}


@dataclass(frozen=True)
class _UnderWay:
    gear: int
    n_cells: int
    us_by_gear: tuple[float, ...]
    is_behind: bool
    """The host came to it, or to one just before it, more than a slot's time too late."""


class SlotLoop:
    """The slots, one after the other. Belongs to one thread.

    Attributes:
        window: what they came to.
        alarm: a slot was lost, or too near its budget, since it was last set to False.
        gear: in which slots are started now.
        journal: where a record of each slot goes; None, as at first: nowhere.
    """

    def __init__(
        self,
        group: CellGroup,
        radio: SimulatedRadio,
        fast: FastPath,
        board: SmBoard,
        costs: GearCosts,
        *,
        judged_by: str = "latency",
        now_s: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`now_s` is the group's clock; `judged_by` see GpuConfig."""
        self._group, self._radio, self._fast, self._board = group, radio, fast, board
        self._costs, self._now_s = costs, now_s
        self._by_gpu = judged_by == "gpu"
        self.window = GpuWindow(group.timing, latency_limits_us(judged_by))
        self.alarm = False
        self.journal: SlotJournal | None = None
        self.gear = fast.gear
        self._under_way: dict[tuple[str, int], _UnderWay] = {}
        self._copies_us = dict.fromkeys(BUDGET_US, math.inf)
        self._n_steps = board.last_beat.n_steps
        self._taken = board.acknowledged("ai")
        self._answered_ns = -math.inf
        """When the engine was seen to answer last; `_taken` is the order that it had taken then."""
        self._index = 0
        self._behind_until = -1
        self._start_s = 0.0
        self._next: Slot | None = None
        self.is_empty = True
        """The GPU's memory has no samples: at first, and after it was set up again."""

    def begin(self) -> None:
        """Fills the GPU's memory; the first slot is due a slot's time later."""
        self._follow(self._fast.order(self._now_s()))
        self._group.shift(self.gear)
        self._fill()
        self._prepare()
        self.resume()

    def resume(self) -> None:
        """The next slot is due a slot's time from now; for the start, and after a rest."""
        self._start_s = self._now_s() + SLOT_S * (1 - self._index)
        self.window.start(self._now_s() * 1e6)

    def under_way(self, channel: str, number: int) -> tuple[int, int]:
        """The gear that a slot under way runs in, and its cells; -1: it is not known."""
        ran = self._under_way.get((channel, number))
        return (-1, -1) if ran is None else (ran.gear, ran.n_cells)

    def step(self) -> None:
        """Waits for the next slot, collecting meanwhile, starts it and prepares the one after."""
        if self.is_empty and self._group.is_ready():
            try:
                self._fill()
                self._prepare()
            except GpuFaultError as fault:
                # It failed again; the next slots find it set up once more, or not.
                log.warning("the GPU could not be filled: %s", fault)
        self._give_up_missed()
        due_s = self._start_s + self._index * SLOT_S
        while self._now_s() < due_s:
            self._collect()
        slot = self._next
        if slot is not None:
            if self._now_s() > due_s + SLOT_S:
                self._behind_until = self._index + SLOTS_UNDER_WAY
            is_behind = self._index <= self._behind_until
            self._under_way[slot.channel, slot.number] = _UnderWay(
                self.gear, slot.n_cells, self._expected_us(slot), is_behind
            )
            if slot.channel == "pusch":
                self._group.uplink.start(due_s)
            elif self._group.downlink is not None:
                self._group.downlink.start(due_s)
        self._index += 1
        self._prepare()
        self._hear()
        self._collect()

    def _fill(self) -> None:
        self._radio.fill(self._group)
        self._under_way.clear()
        self.is_empty = False

    def bound(self, least: int) -> None:
        """Keeps to the gears from `least` on: what the plan gives the RAN. The last one is a pause
        of the engine: where none answers, one that is being loaded does not keep to it, and slots
        on all of the GPU and the engine's in a part of it would take turns."""
        most = self._fast.top if self._engine_answers() else max(0, self._fast.top - 1)
        self._follow(self._fast.bound(min(least, most), most, self._now_s()))

    def _engine_answers(self) -> bool:
        """It has the newest order, or has taken another one, or did a short while ago. When the
        newest was given says nothing: many may come while an engine is loaded, which takes none."""
        before, self._taken = self._taken, self._board.acknowledged("ai")
        now_ns = time.monotonic_ns()
        has_newest = self._taken == self._board.current.generation
        if has_newest or self._taken not in (before, NO_ORDER):
            self._answered_ns = now_ns
        return now_ns - self._answered_ns <= ANSWER_NS

    def close_window(self) -> tuple[SlotWindow, DownlinkCounts]:
        """What slots came to since the last call."""
        return self.window.close(self._now_s() * 1e6)

    def _prepare(self) -> None:
        """The next slot's tables; and the gear that it needs, by the cost model."""
        slot = self._next = self._radio.next(self._group.kind(self._index))
        coming = SlotExpected(slot.channel, BUDGET_US[slot.channel], self._expected_us(slot))
        self._follow(self._fast.expect([coming], self._now_s()))
        if slot.channel == "pusch":
            self._group.uplink.prepare(slot.number, slot.grants)
        elif self._group.downlink is not None:
            self._group.downlink.prepare(slot.number, slot.assignments)

    def _collect(self) -> None:
        collected = self._group.collect()
        for received in collected.received:
            self.window.add_received(received)
            self._see("pusch", received)
        for sent in collected.sent:
            self.window.add_sent(sent)
            self._see("pdsch", sent)

    def _hear(self) -> None:
        """Takes in the engine's last step."""
        beat, now_s = self._board.last_beat, self._now_s()
        is_new = beat.n_steps != self._n_steps
        self._n_steps = beat.n_steps
        if is_new and beat.gear <= self._fast.top:
            self._follow(self._fast.beat(beat.step_us, beat.tokens, beat.gear, now_s))
        else:
            # An alarm ends by itself.
            self._follow(self._fast.order(now_s))

    def _see(self, channel: str, ended: SlotOutcome | SentSlot) -> None:
        ran = self._under_way.pop((channel, ended.slot), None)
        if ran is None:
            return
        self._note(channel, ended.latency_us, ran)
        budget_us = BUDGET_US[channel]
        latency_us = self._gpu_us(channel, ended) if self._by_gpu else ended.latency_us
        is_lost = not latency_us <= budget_us
        if self._by_gpu and ran.is_behind and math.isnan(latency_us):
            # It found the slots before it under way, which were begun as late: no gear helps.
            self.alarm = True
            return
        order = self._fast.see(
            SlotSeen(
                time_s=self._now_s(),
                channel=channel,
                latency_us=latency_us,
                budget_us=budget_us,
                gear=ran.gear,
                is_lost=is_lost,
                us_by_gear=ran.us_by_gear,
            )
        )
        self.alarm = self.alarm or is_lost
        self._follow(order)

    def _note(self, channel: str, latency_us: float, ran: _UnderWay) -> None:
        if self.journal is None:
            return
        if ran.n_cells == 0:
            fate = Fate.IDLE
        elif math.isnan(latency_us):
            fate = Fate.DROPPED
        else:
            is_late = latency_us > self.window.budget_us[channel]
            fate = Fate.LATE if is_late else Fate.ON_TIME
        self.journal.add(self._now_s(), channel, fate, latency_us, ran.gear)

    def _gpu_us(self, channel: str, ended: SlotOutcome | SentSlot) -> float:
        """A slot's kernels, and what they waited for others'; NaN if it was dropped. The shortest
        time besides kernels that was seen is what copies take."""
        besides_us = ended.with_copies_us - ended.kernels_us
        if besides_us < self._copies_us[channel]:
            self._copies_us[channel] = besides_us
        return ended.kernels_us + besides_us - self._copies_us[channel]

    def _follow(self, order: FastOrder) -> None:
        ordered = self._board.order(order.gear, order.step_tokens)
        gear = self._part_now(ordered)
        if gear != self.gear:
            self.gear = gear
            self._group.shift(gear)
        if self._board.acknowledged("ran") != ordered.generation and all(
            ran.gear == gear for ran in self._under_way.values()
        ):
            self._board.acknowledge("ran", ordered.generation)

    def _part_now(self, ordered: GearOrder) -> int:
        """The gear of whose part slots are. All of the GPU they take only when the engine has left
        its own part: until then, or while one is loaded that hears of no pause, its kernels would
        be in the way on any of it. Parts of a lower gear are divided from the engine's."""
        is_paused = self._board.gears[ordered.gear].ai_sms == 0
        if is_paused and self._board.acknowledged("ai") != ordered.generation:
            return max(0, ordered.gear - 1)
        return ordered.gear

    def _expected_us(self, slot: Slot) -> tuple[float, ...]:
        return self._costs.us_by_gear(slot.channel, slot.n_cells)

    def _give_up_missed(self) -> None:
        behind = math.floor((self._now_s() - self._start_s) / SLOT_S) - self._index
        if behind <= MOST_BEHIND:
            return
        for _ in range(behind):
            channel = "pusch" if self._group.kind(self._index) == "U" else "pdsch"
            self.window.add_missed(channel)
            if self.journal is not None:
                self.journal.add(self._now_s(), channel, Fate.DROPPED, math.nan, self.gear)
            self._index += 1
        self.alarm = True
        self._prepare()
