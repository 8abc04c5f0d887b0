"""A simulated GPU in gears, for tests of the fast path: slots of a known law, and lag.

No measurement: a slot takes `fixed_us + work / SMs ** power`, an order shows in slots started
`lag_slots` after it, and the engine's steps take a time by tokens and SMs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

from orchestrator.fast_path import FastOrder, FastPath, FastPathSettings, SlotSeen

SLOT_S = 0.0005
BUDGETS_US = {"pusch": 1250.0, "pdsch": 375.0}
PATTERN = ("pdsch", "pdsch", "pdsch", "pdsch", "pusch")


@dataclass
class SimulatedGpu:
    """A closed loop of slots and the controller."""

    settings: FastPathSettings
    lag_slots: int = 2
    fixed_us: float = 40.0
    power: float = 1.0
    controller: FastPath = field(init=False)
    slot: int = 0
    late: list[int] = field(default_factory=list)
    gears: list[int] = field(default_factory=list)
    """Of every slot."""

    def __post_init__(self) -> None:
        self.controller = FastPath(self.settings)
        self._orders: list[int] = [self.controller.gear] * (self.lag_slots + 1)

    @property
    def now_s(self) -> float:
        return self.slot * SLOT_S

    @property
    def changes(self) -> int:
        return sum(a != b for a, b in pairwise(self.gears))

    def slot_us(self, channel: str, load: float, gear: int) -> float:
        """At load 1 a slot takes 70% of its budget on the whole GPU."""
        full = 0.7 * BUDGETS_US[channel] - self.fixed_us
        sms = self.settings.gears[gear] / self.settings.total_sms
        return self.fixed_us + load * full / sms**self.power

    def run(self, n_slots: int, load: float) -> FastOrder:
        """Plays slots of one load; returns the last order."""
        order = self.controller.order(self.now_s)
        for _ in range(n_slots):
            channel, gear = PATTERN[self.slot % 5], self._orders.pop(0)
            latency_us, budget_us = self.slot_us(channel, load, gear), BUDGETS_US[channel]
            is_late = latency_us > budget_us
            self.gears.append(gear)
            if is_late:
                self.late.append(self.slot)
            order = self.controller.see(
                SlotSeen(self.now_s, channel, latency_us, budget_us, gear, is_late)
            )
            self._orders.append(order.gear)
            self.slot += 1
        return order
