"""When slots arrive and when they are due. Pure arithmetic, no clock."""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property

from airan.core.errors import InvalidInputError
from phy.checks import check_choice, check_integer, check_range


@dataclass(frozen=True)
class SlotTiming:
    """The slot clock. Slots are counted from 0; times are us of wall time after slot 0's start.

    Attributes:
        scs_khz: subcarrier spacing; sets the slot's length.
        slowdown: the slot clock and the budget run this many times slower than a radio's.
        budget_us: time allowed for receiving an uplink slot, at radio speed.
        tdd_pattern: one letter a slot: D downlink, S special, U uplink. Uplink slots are received.
        max_backlog: uplink slots that may wait, the one to be received included; beyond that the
            oldest is dropped unreceived.
        alarm_fraction: latency above this part of the budget raises the alarm.

    Raises:
        InvalidInputError: a field is out of range.
    """

    scs_khz: int = 30
    slowdown: float = 1.0
    budget_us: float = 1250.0
    tdd_pattern: str = "DDDSU"
    max_backlog: int = 3
    alarm_fraction: float = 0.8

    def __post_init__(self) -> None:
        check_choice("scs_khz", self.scs_khz, (15, 30, 60, 120))
        check_range("slowdown", self.slowdown, 1.0, 1e6)
        check_range("budget_us", self.budget_us, 1.0, 1e9)
        if not re.fullmatch("[DSU]*U[DSU]*", self.tdd_pattern):
            raise InvalidInputError(
                "tdd_pattern",
                f"must consist of D, S and at least one U, got {self.tdd_pattern!r}",
            )
        check_integer("max_backlog", self.max_backlog, 1, 1000)
        check_range("alarm_fraction", self.alarm_fraction, 0.0, 1.0)

    @property
    def slot_us(self) -> float:
        """Length of a slot on the slowed clock."""
        return 15_000.0 / self.scs_khz * self.slowdown

    @property
    def deadline_us(self) -> float:
        """Budget on the slowed clock, counted from a slot's arrival."""
        return self.budget_us * self.slowdown

    @property
    def alarm_us(self) -> float:
        """Latency above which the alarm is raised."""
        return self.deadline_us * self.alarm_fraction

    @property
    def slots_per_frame(self) -> int:
        """Slots in a radio frame."""
        return 10 * self.scs_khz // 15

    @cached_property
    def _uplink_offsets(self) -> list[int]:
        return [i for i, kind in enumerate(self.tdd_pattern) if kind == "U"]

    def uplink_slot(self, count: int) -> int:
        """Returns the index of the `count`-th uplink slot, counted from 0."""
        turns, rest = divmod(count, len(self._uplink_offsets))
        return turns * len(self.tdd_pattern) + self._uplink_offsets[rest]

    def arrival_us(self, slot: int) -> float:
        """Returns when the last sample of `slot` is there: the slot's end."""
        return (slot + 1) * self.slot_us

    def arrived_uplinks(self, now_us: float) -> int:
        """Returns how many uplink slots have arrived by `now_us`."""
        slots = int(now_us // self.slot_us)
        turns, rest = divmod(max(slots, 0), len(self.tdd_pattern))
        return turns * len(self._uplink_offsets) + bisect_right(self._uplink_offsets, rest - 1)

    def is_to_be_dropped(self, count: int, now_us: float) -> bool:
        """Tells whether, with `count` uplink slots done, too many wait to receive the next one."""
        return self.arrived_uplinks(now_us) - count > self.max_backlog

    def is_late(self, latency_us: float) -> bool:
        """Tells whether a slot that took `latency_us` from its arrival missed its deadline."""
        return not latency_us <= self.deadline_us
