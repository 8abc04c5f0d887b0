"""How much work of each tier comes in, as measured: it goes before the work of lower tiers."""

from __future__ import annotations

import math

from marketplace.dispatch.queue import TIERS, Tier

_MEMORY_S = 60.0
"""Time constant with which what came earlier is forgotten."""
_MOST = 0.95
"""Higher tiers never take all: a tier that waits gets its turn."""


class Demand:
    """Slot seconds that accepted work takes, for each second that passes, by model and tier."""

    def __init__(self) -> None:
        self._came: dict[tuple[str, Tier], tuple[float, float, float]] = {}
        """Decayed slot seconds, when they were decayed last, and when the first came."""

    def note(self, model: str, tier: Tier, slot_s: float, now_s: float) -> None:
        """Work was accepted that will take so many slot seconds."""
        came_s, last_s, first_s = self._came.get((model, tier), (0.0, now_s, now_s))
        kept_s = came_s * math.exp((last_s - now_s) / _MEMORY_S)
        self._came[model, tier] = (kept_s + slot_s, now_s, first_s)

    def slots_taken_above(self, model: str, tier: Tier, now_s: float) -> float:
        """Slots that work of higher tiers keeps busy on average, as it comes in."""
        higher = TIERS[: TIERS.index(tier)]
        return sum(self._rate(self._came.get((model, one)), now_s) for one in higher)

    def share_left(self, model: str, tier: Tier, n_slots: int, now_s: float) -> float:
        """The part of the model's slots that is left to that tier."""
        return 1.0 - min(_MOST, self.slots_taken_above(model, tier, now_s) / max(1, n_slots))

    @staticmethod
    def _rate(came: tuple[float, float, float] | None, now_s: float) -> float:
        if came is None:
            return 0.0
        slot_s, last_s, first_s = came
        kept_s = slot_s * math.exp((last_s - now_s) / _MEMORY_S)
        # Of a short time nothing can be said: it counts as a good part of the memory.
        seen_s = max(now_s - first_s, 0.25 * _MEMORY_S)
        return kept_s / (_MEMORY_S * (1.0 - math.exp(-seen_s / _MEMORY_S)))
