"""The spot price: flex work costs less the more of the site is free."""

from __future__ import annotations

from collections.abc import Callable

FULL_PERMILLE = 1000


class SpotPrice:
    """A price level between 0 (all free) and 1000 (nothing free) that follows the free share.

    It moves in steps: a small change of the load leaves it as it is, so that two quotes a moment
    apart seldom differ. The ends of the range are always reached.
    """

    def __init__(self, free_share: Callable[[], float], hysteresis_permille: int = 50) -> None:
        self._free_share = free_share
        self._hysteresis = hysteresis_permille
        self._level = FULL_PERMILLE

    def level_permille(self) -> int:
        """The level now."""
        share = min(max(self._free_share(), 0.0), 1.0)
        target = round(FULL_PERMILLE * (1.0 - share))
        if target in (0, FULL_PERMILLE) or abs(target - self._level) >= self._hysteresis:
            self._level = target
        return self._level


def spot_permille(level_permille: int, floor_permille: int) -> int:
    """The part of the full price to pay at a level, never under the floor nor over the whole."""
    span = FULL_PERMILLE - floor_permille
    return floor_permille + (span * level_permille + FULL_PERMILLE // 2) // FULL_PERMILLE
