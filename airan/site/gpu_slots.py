"""Slots of all cells on the GPU at the radio's pace, and the fast path between them.

One thread does it all: it starts the slot that is due, prepares the next, collects what has ended,
and tells the fast path of each. A new gear holds from the next slot on. When it is a higher one
the engine is told first; when it is a lower one, only after the last slot of the former has ended,
so that no slot shares its multiprocessors with the engine.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from airan.site.gpu_radio import SimulatedRadio, Slot
from airan.site.gpu_window import GpuWindow
from orchestrator.fast_path import FastOrder, FastPath, SlotExpected, SlotSeen
from orchestrator.gear_costs import GearCosts
from phy.gpu.cell_group import CellGroup
from phy.gpu.downlink_group import PDSCH_BUDGET_US
from phy.gpu.outcome import SentSlot, SlotOutcome
from phy.gpu.uplink_options import PUSCH_BUDGET_US

BUDGET_US = {"pusch": PUSCH_BUDGET_US, "pdsch": PDSCH_BUDGET_US}
SLOT_S = 0.0005
MOST_BEHIND = 10
"""Slots; when the host comes later than that to a slot, those before it are given up."""


@dataclass(frozen=True)
class Beat:
    """A step of the engine, as it tells it."""

    number: int
    gear: int
    step_us: float
    tokens: int


class Gears(Protocol):
    """What a new gear is told to."""

    def take(self, gear: int) -> None:
        """Slots started from now on run in that gear."""

    def order(self, gear: int, step_tokens: int) -> None:
        """Tells the engine its gear and its steps' tokens."""

    def beat(self) -> Beat | None:
        """The engine's last step, if it tells any."""


@dataclass(frozen=True)
class _UnderWay:
    gear: int
    expected_us: float


class SlotLoop:
    """The slots, one after the other. Belongs to one thread.

    Attributes:
        window: what they came to.
        alarm: a slot was lost, or too near its budget, since it was last set to False.
        gear: in which slots are started now.
    """

    def __init__(
        self,
        group: CellGroup,
        radio: SimulatedRadio,
        fast: FastPath,
        gears: Gears,
        costs: GearCosts,
        now_s: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`now_s` is the group's clock."""
        self._group, self._radio, self._fast, self._gears = group, radio, fast, gears
        self._costs, self._now_s = costs, now_s
        self.window = GpuWindow(group.timing, BUDGET_US)
        self.alarm = False
        self.gear = fast.gear
        self._under_way: dict[tuple[str, int], _UnderWay] = {}
        self._told: tuple[int, int] | None = None
        self._beat = -1
        self._index = 0
        self._start_s = 0.0
        self._next: Slot | None = None
        self.is_empty = True
        """The GPU's memory has no samples: at first, and after it was set up again."""

    def begin(self) -> None:
        """Fills the GPU's memory; the first slot is due a slot's time later."""
        self._radio.fill(self._group)
        self.is_empty = False
        self._gears.take(self.gear)
        self._follow(self._fast.order(self._now_s()))
        self._index, self._start_s = 0, self._now_s() + SLOT_S
        self.window.start(self._start_s * 1e6)
        self._prepare()

    def step(self) -> None:
        """Waits for the next slot, collecting meanwhile, starts it and prepares the one after."""
        if self.is_empty and self._group.is_ready():
            self._radio.fill(self._group)
            self._gears.take(self.gear)
            self.is_empty = False
        self._give_up_missed()
        due_s = self._start_s + self._index * SLOT_S
        while self._now_s() < due_s:
            self._collect()
        slot = self._next
        if slot is not None:
            self._under_way[slot.channel, slot.number] = _UnderWay(
                self.gear, self._expected_us(slot)[self.gear]
            )
            if slot.channel == "pusch":
                self._group.uplink.start(due_s)
            elif self._group.downlink is not None:
                self._group.downlink.start(due_s)
        self._index += 1
        self._prepare()
        self._hear()
        self._collect()

    def bound(self, least: int) -> None:
        """Keeps to the gears from `least` on: what the plan gives the RAN."""
        self._follow(self._fast.bound(least, self._fast.top, self._now_s()))

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
        beat, now_s = self._gears.beat(), self._now_s()
        if beat is not None and beat.number != self._beat:
            self._beat = beat.number
            self._follow(self._fast.beat(beat.step_us, beat.tokens, beat.gear, now_s))
        else:
            # An alarm ends by itself.
            self._follow(self._fast.order(now_s))

    def _see(self, channel: str, ended: SlotOutcome | SentSlot) -> None:
        ran = self._under_way.pop((channel, ended.slot), None)
        if ran is None:
            return
        budget_us, latency_us = BUDGET_US[channel], ended.latency_us
        is_lost = not latency_us <= budget_us
        order = self._fast.see(
            SlotSeen(
                time_s=self._now_s(),
                channel=channel,
                latency_us=latency_us,
                budget_us=budget_us,
                gear=ran.gear,
                is_lost=is_lost,
                expected_us=ran.expected_us,
            )
        )
        self.alarm = self.alarm or is_lost
        self._follow(order)

    def _follow(self, order: FastOrder) -> None:
        """A higher gear holds for the engine first, a lower one for the slots."""
        if order.gear > self.gear:
            self._say(order)
        if order.gear != self.gear:
            self._gears.take(order.gear)
            self.gear = order.gear
        # A lower one only once no slot runs in a higher one any more.
        if all(ran.gear <= order.gear for ran in self._under_way.values()):
            self._say(order)

    def _say(self, order: FastOrder) -> None:
        if self._told != (order.gear, order.step_tokens):
            self._told = (order.gear, order.step_tokens)
            self._gears.order(*self._told)

    def _expected_us(self, slot: Slot) -> tuple[float, ...]:
        return self._costs.us_by_gear(slot.channel, slot.n_cells)

    def _give_up_missed(self) -> None:
        behind = math.floor((self._now_s() - self._start_s) / SLOT_S) - self._index
        if behind <= MOST_BEHIND:
            return
        for _ in range(behind):
            channel = "pusch" if self._group.kind(self._index) == "U" else "pdsch"
            self.window.add_missed(channel)
            self._index += 1
        self.alarm = True
        self._prepare()
