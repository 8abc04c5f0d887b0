"""How much work of each tier comes in, as measured: it goes before the work of lower tiers."""

from __future__ import annotations

from marketplace.dispatch.queue import TIERS, Tier
from marketplace.dispatch.rates import MEMORY_S, VariedRate

_MOST = 0.95
"""Higher tiers never take all: a tier that waits gets its turn."""


_FLEX_MEMORY_S = 300.0
"""Flex work has half an hour: a busy minute of the higher tiers does not take it from it."""


class Demand:
    """Slot seconds that accepted work takes, for each second that passes, by model and tier."""

    def __init__(self) -> None:
        self._came: dict[tuple[str, Tier, float], VariedRate] = {}

    def note(
        self, model: str, tier: Tier, slot_s: float, now_s: float, n_jobs: float = 1.0
    ) -> None:
        """Work was accepted that will take so many slot seconds, in so many jobs."""
        for memory_s, seen in ((MEMORY_S, 0.5), (_FLEX_MEMORY_S, 1.0)):
            rate = self._came.setdefault((model, tier, memory_s), VariedRate(now_s, memory_s, seen))
            rate.add(slot_s, now_s, n_jobs)

    def slots_taken_above(self, model: str, tier: Tier, now_s: float) -> float:
        """Slots that work of higher tiers keeps busy on average, as it comes in."""
        return sum(came.per_s(now_s) for came in self._above(model, tier))

    def variance_above(self, model: str, tier: Tier, ahead_s: float, now_s: float) -> float:
        """Of the slot seconds that higher tiers will take in a time to come, squared."""
        return sum(came.variance(ahead_s, now_s) for came in self._above(model, tier))

    def share_left(self, model: str, tier: Tier, n_slots: float, now_s: float) -> float:
        """The part of the model's slots that is left to that tier."""
        taken = self.slots_taken_above(model, tier, now_s)
        return 1.0 - min(_MOST, taken / n_slots if n_slots else 0.0)

    def _above(self, model: str, tier: Tier) -> list[VariedRate]:
        memory_s = _FLEX_MEMORY_S if tier == "flex" else MEMORY_S
        higher = (self._came.get((model, one, memory_s)) for one in TIERS[: TIERS.index(tier)])
        return [rate for rate in higher if rate is not None]
