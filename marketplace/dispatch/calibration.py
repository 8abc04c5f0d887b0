"""How much longer waits in line are than they were predicted."""

from __future__ import annotations

from marketplace.dispatch.queue import Tier

_KEEP = 0.9
_PRIOR_S = 30.0
"""Seconds of waits that came as predicted, which are taken for granted at the beginning."""
_MOST = 4.0


class Calibration:
    """Decaying sums of waits as they came and as they were predicted, by model and tier."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, Tier], tuple[float, float]] = {}

    def note(self, model: str, tier: Tier, predicted_s: float, came_s: float) -> None:
        """A request waited `came_s`; `predicted_s` is what was predicted without correction."""
        came, predicted = self._sums.get((model, tier), (0.0, 0.0))
        came = came * _KEEP + max(0.0, came_s)
        self._sums[model, tier] = (came, predicted * _KEEP + predicted_s)

    def factor(self, model: str, tier: Tier) -> float:
        """What a predicted wait is to be multiplied by: never less than 1.

        What came early came so before the line was long: to believe it lets too many in.
        """
        came, predicted = self._sums.get((model, tier), (0.0, 0.0))
        return min(_MOST, max(1.0, (_PRIOR_S + came) / (_PRIOR_S + predicted)))
