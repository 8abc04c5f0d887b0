"""How far single jobs are from what was predicted for them, as measured."""

from __future__ import annotations

_KEEP = 0.97


class Spread:
    """Decaying mean squares, by model. Waits are sums of many jobs, and their squares add up."""

    def __init__(self) -> None:
        self._square: dict[str, float] = {}

    def note(self, model: str, predicted_s: float, slot_s: float) -> None:
        """A job took `slot_s` of a slot, and `predicted_s` had been predicted."""
        square = (slot_s - predicted_s) ** 2
        known = self._square.get(model)
        self._square[model] = square if known is None else _KEEP * known + (1 - _KEEP) * square

    def square_s2(self, model: str) -> float:
        """Of one job, slot seconds squared; 0 before the first."""
        return self._square.get(model, 0.0)
