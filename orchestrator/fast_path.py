"""The fast path on one GPU: every slot's time moves the border between RAN and AI at once. Pure.

A slot that is late, dropped or too near its budget moves the gear up, straight to the smallest one
in which it is expected to be fine, and further with every such slot. Down goes one gear at a time,
after a hold in which every slot would have been well within its budget in the lower gear too; the
hold doubles when the gear has to go up again soon. Where the next slots' cost is known (`expect`),
a load step is met before its first slot. No clock, no randomness: times come with what is told.

Changes are bounded for any input: one down in a hold, and no more ups than downs and gears.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from airan.core.errors import InvalidInputError
from airan.core.gpu_config import SLOT_LIMITS, check_slot_limits
from orchestrator.cost_correction import CostCorrection
from orchestrator.gear_times import ALONE, BESIDE_A_MODEL, GearTimes
from orchestrator.step_budget import StepBudget, StepLimits


@dataclass(frozen=True)
class FastPathSettings:
    """Gears, and when they change. Times are seconds.

    Raises:
        InvalidInputError: gears that do not ascend or do not fit the GPU, or fractions and times
            out of order.
    """

    gears: tuple[int, ...]
    """SMs of the RAN's part in each gear, ascending."""
    total_sms: int
    """Of the GPU."""
    ai_sms: tuple[int, ...] = ()
    """SMs of the engine's part in each gear; empty: what the RAN's part leaves."""
    raise_fraction: float = SLOT_LIMITS[0]
    """Of the budget: a slot that takes more moves the gear up."""
    aim_fraction: float = SLOT_LIMITS[1]
    """Of the budget: the gear moved to is the smallest in which the slot is expected below it."""
    lower_fraction: float = SLOT_LIMITS[2]
    """Of the budget: the gear moves down while every slot is expected below it there."""
    hold_s: float = 0.05
    max_hold_s: float = 3.2
    repeat_s: float = 2.0
    """Going up within this time of going down doubles the hold."""
    alarm_s: float = 0.1
    """After a slot that was lost the engine only decodes for this long."""
    step: StepLimits = field(default_factory=StepLimits)

    def __post_init__(self) -> None:
        gears = self.gears
        if not gears or gears[0] < 1 or any(a >= b for a, b in pairwise(gears)):
            raise InvalidInputError("gears", f"must be positive and ascend, got {gears}")
        if self.ai_sms and len(self.ai_sms) != len(gears):
            raise InvalidInputError("ai_sms", f"must be {len(gears)}, got {len(self.ai_sms)}")
        most = max(ran + ai for ran, ai in zip(gears, self.engine_sms, strict=True))
        if most > self.total_sms:
            raise InvalidInputError("gears", f"{most} SMs are more than {self.total_sms}")
        try:
            check_slot_limits((self.raise_fraction, self.aim_fraction, self.lower_fraction))
        except ValueError as error:
            raise InvalidInputError("fractions", str(error)) from None
        if not 0 < self.hold_s <= self.max_hold_s:
            raise InvalidInputError("hold_s", "must be positive and at most max_hold_s")

    @property
    def engine_sms(self) -> tuple[int, ...]:
        """SMs of the engine's part in each gear."""
        return self.ai_sms or tuple(max(0, self.total_sms - sms) for sms in self.gears)


@dataclass(frozen=True)
class SlotSeen:
    """What became of one slot."""

    time_s: float
    """When that was known."""
    channel: str
    latency_us: float
    """NaN: it was dropped, or failed."""
    budget_us: float
    gear: int
    """In which it was started."""
    is_lost: bool = False
    """Late or dropped."""
    us_by_gear: tuple[float, ...] = ()
    """What the cost model says of it, by gear, all above 0; empty: nothing."""


@dataclass(frozen=True)
class SlotExpected:
    """A slot that is to come, by the cost model."""

    channel: str
    budget_us: float
    us_by_gear: tuple[float, ...]


@dataclass(frozen=True)
class FastOrder:
    """What both sides are to do."""

    gear: int
    step_tokens: int
    """Tokens that a step of the engine may hold; 0 in a gear that leaves it no SMs."""
    alarm: bool = False
    """A slot was lost just now."""


class FastPath:
    """Moves between the bounds that the plan has set; starts in the highest gear."""

    def __init__(self, settings: FastPathSettings) -> None:
        self._settings = settings
        self._least, self._most = 0, len(settings.gears) - 1
        self._gear = self._most
        self._times: dict[tuple[str, bool], GearTimes] = {}
        self._steps = StepBudget(settings.engine_sms, settings.step)
        self._hold_s = settings.hold_s
        self._calm_s = math.inf
        """Since when every slot would have been fine one gear lower."""
        self._went_down_s = self._lost_s = -math.inf
        self._recent: dict[tuple[str, bool], tuple[int, float]] = {}
        """By channel the gear that its last slots ran in, and the longest of them (fading); in
        parts of what the cost model says where it says something."""
        self._corrections: dict[str, CostCorrection] = {}
        """By channel what slots take beyond what the cost model says."""
        self.reason = ""
        """Why the gear changed last."""

    @property
    def gear(self) -> int:
        """The gear ordered now."""
        return self._gear

    @property
    def top(self) -> int:
        """The highest gear there is."""
        return len(self._settings.gears) - 1

    def order(self, now_s: float) -> FastOrder:
        """What holds now."""
        alarm = now_s < self._lost_s + self._settings.alarm_s
        return FastOrder(self._gear, self._steps.tokens(self._gear, alarm=alarm), alarm)

    def bound(self, least: int, most: int, now_s: float) -> FastOrder:
        """Keeps to the gears that the plan allows, from now on.

        Raises:
            InvalidInputError: there are no such gears.
        """
        if not 0 <= least <= most < len(self._settings.gears):
            raise InvalidInputError(
                "bounds", f"need 0 <= {least} <= {most} < {len(self._settings.gears)}"
            )
        self._least, self._most = least, most
        if not least <= self._gear <= most:
            self._move(min(most, max(least, self._gear)), now_s, "the plan's bounds")
        return self.order(now_s)

    def see(self, slot: SlotSeen) -> FastOrder:
        """Takes a slot in."""
        if slot.is_lost:
            self._lost_s = max(self._lost_s, slot.time_s)
        if math.isnan(slot.latency_us):
            self._rise(self._most, slot.time_s, f"a {slot.channel} slot was dropped")
            return self.order(slot.time_s)
        self._learn(slot)
        now_us = self._in_gear(slot, self._gear)
        is_here = slot.gear == self._gear
        if now_us > self._settings.raise_fraction * slot.budget_us or (is_here and slot.is_lost):
            self._rise(
                self._smallest_fine(slot, at_least=self._gear + is_here),
                slot.time_s,
                f"a {slot.channel} slot took {slot.latency_us:.0f} us of {slot.budget_us:.0f} us",
            )
        else:
            self._sink(slot)
        return self.order(slot.time_s)

    def expect(self, slots: Sequence[SlotExpected], now_s: float) -> FastOrder:
        """Moves up for slots that are to come; the gear stays up while they keep coming."""
        fractions = self._settings
        for slot in slots:
            correction = self._corrections.setdefault(slot.channel, CostCorrection())
            parts = [correction.us(us) / slot.budget_us for us in slot.us_by_gear]
            if parts[self._gear] > fractions.raise_fraction:
                fine = [g for g in range(self._gear, self._most) if self._is_fine(parts[g])]
                coming_us = parts[self._gear] * slot.budget_us
                why = f"a {slot.channel} slot of {coming_us:.0f} us comes"
                self._rise(min(fine, default=self._most), now_s, why)
            if self._gear and parts[self._gear - 1] > fractions.lower_fraction:
                self._calm_s = now_s
        return self.order(now_s)

    def beat(self, step_us: float, tokens: int, gear: int, now_s: float) -> FastOrder:
        """Takes a step of the engine in, which ran in `gear`."""
        self._steps.learn(gear, step_us, tokens)
        return self.order(now_s)

    def _is_fine(self, part: float) -> bool:
        return part <= self._settings.aim_fraction

    def _smallest_fine(self, slot: SlotSeen, at_least: int) -> int:
        for gear in range(at_least, self._most):
            if self._is_fine(self._in_gear(slot, gear) / slot.budget_us):
                return gear
        return self._most

    def _rise(self, gear: int, now_s: float, why: str) -> None:
        self._calm_s = now_s
        gear = min(self._most, gear)
        if gear <= self._gear:
            return
        if now_s - self._went_down_s < self._settings.repeat_s:
            self._hold_s = min(self._settings.max_hold_s, 2 * self._hold_s)
        else:
            self._hold_s = self._settings.hold_s
        self._move(gear, now_s, why)

    def _sink(self, slot: SlotSeen) -> None:
        """One gear down, if this and all slots of a hold would have been fine there."""
        lower = self._gear - 1
        if lower < self._least:
            return
        expected_us = self._in_gear(slot, lower)
        is_first = self._calm_s == math.inf
        if is_first or expected_us > self._settings.lower_fraction * slot.budget_us:
            self._calm_s = slot.time_s
        elif slot.time_s - self._calm_s >= self._hold_s:
            self._went_down_s = slot.time_s
            self._move(lower, slot.time_s, f"{self._hold_s:g} s of short slots")

    def _move(self, gear: int, now_s: float, why: str) -> None:
        self._gear, self._calm_s, self.reason = gear, now_s, why

    def _in_gear(self, slot: SlotSeen, gear: int) -> float:
        """What the slot would have taken in another gear, by a cautious estimate."""
        factor = self._times_of(slot).ratio(slot.gear, gear)
        if slot.us_by_gear:
            us = self._corrections[slot.channel].us
            factor *= us(slot.us_by_gear[gear]) / us(slot.us_by_gear[slot.gear])
        factor = max(1.0, factor) if gear < slot.gear else min(1.0, factor)
        return slot.latency_us * factor

    def _times_of(self, slot: SlotSeen) -> GearTimes:
        key = slot.channel, bool(slot.us_by_gear)
        if key not in self._times:
            powers = BESIDE_A_MODEL if slot.us_by_gear else ALONE
            self._times[key] = GearTimes(self._settings.gears, powers)
        return self._times[key]

    def _learn(self, slot: SlotSeen) -> None:
        """The first slot in another gear, beside the longest of the last ones in the former."""
        key, part = (slot.channel, bool(slot.us_by_gear)), slot.latency_us
        if slot.us_by_gear:
            correction = self._corrections.setdefault(slot.channel, CostCorrection())
            model_us = slot.us_by_gear[slot.gear]
            part /= correction.us(model_us)
            correction.learn(model_us, slot.latency_us, slot.budget_us)
        gear, longest = self._recent.get(key, (slot.gear, 0.0))
        if gear != slot.gear:
            self._times_of(slot).learn(gear, longest, slot.gear, part)
            longest = 0.0
        longest = max(part, longest - 0.2 * (longest - part))
        self._recent[key] = (slot.gear, longest)
