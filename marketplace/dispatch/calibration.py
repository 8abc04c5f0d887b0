"""How much longer waits in line are than they were predicted, and how far they are off."""

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
        self._late_s: dict[tuple[str, Tier], float] = {}

    def note(self, model: str, tier: Tier, predicted_s: float, came_s: float) -> None:
        """A request waited `came_s`; `predicted_s` is what was predicted without correction."""
        came, predicted = self._sums.get((model, tier), (0.0, 0.0))
        came = came * _KEEP + max(0.0, came_s)
        late_s = max(0.0, came_s - predicted_s * self.factor(model, tier))
        self._late_s[model, tier] = _mixed(self._late_s.get((model, tier), 0.0), late_s)
        self._sums[model, tier] = (came, predicted * _KEEP + predicted_s)

    def margin_s(self, model: str, tier: Tier) -> float:
        """By how much waits come later than predicted, corrected, on average; early is 0.

        A promise that half of the requests miss by a little is none: so much is kept free.
        """
        return self._late_s.get((model, tier), 0.0)

    def factor(self, model: str, tier: Tier) -> float:
        """What a predicted wait is to be multiplied by: never less than 1.

        What came early came so before the line was long: to believe it lets too many in.
        """
        came, predicted = self._sums.get((model, tier), (0.0, 0.0))
        return min(_MOST, max(1.0, (_PRIOR_S + came) / (_PRIOR_S + predicted)))


def _mixed(known: float, value: float) -> float:
    return _KEEP * known + (1.0 - _KEEP) * value
