"""How far jobs and waits are from what was predicted for them, as measured."""

from __future__ import annotations

from marketplace.dispatch.queue import Tier

_KEEP = 0.97
_KEEP_WAITS = 0.95
_PRIOR_S2 = 50.0
"""Of waits that came as predicted, taken for granted: short ones say little of long ones."""
Line = tuple[str, Tier]


class Spread:
    """Decaying mean squares, by model. Waits are sums of many jobs, and their squares add up."""

    def __init__(self) -> None:
        self._square: dict[str, float] = {}
        self._pace: dict[Line, tuple[float, float]] = {}
        """Decaying sums of squares: what waits were late by, and were predicted at."""

    def note(self, model: str, predicted_s: float, slot_s: float) -> None:
        """A job took `slot_s` of a slot, and `predicted_s` had been predicted."""
        square = (slot_s - predicted_s) ** 2
        known = self._square.get(model)
        self._square[model] = square if known is None else _KEEP * known + (1 - _KEEP) * square

    def waited(self, line: Line, predicted_s: float, spread_s: float, waited_s: float) -> None:
        """A wait came out at `waited_s`, of which so much was predicted, give or take the spread.

        What is later than the spread accounts for is due to the engine's own pace, which changes.
        """
        late_s2 = max(0.0, waited_s - predicted_s) ** 2
        late, predicted = self._pace.get(line, (0.0, 0.0))
        late = _KEEP_WAITS * late + max(0.0, late_s2 - spread_s**2)
        self._pace[line] = late, _KEEP_WAITS * predicted + predicted_s**2

    def pace_square(self, line: Line) -> float:
        """Of a wait, what it is off by with the pace, as a part of it, squared."""
        late, predicted = self._pace.get(line, (0.0, 0.0))
        return min(1.0, late / (_PRIOR_S2 + predicted))

    def square_s2(self, model: str) -> float:
        """Of one job, slot seconds squared; 0 before the first."""
        return self._square.get(model, 0.0)
