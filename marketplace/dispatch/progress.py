"""How much of the work that was predicted gets done in the slots' time, as measured."""

from __future__ import annotations

import math

_MEMORY_S = 60.0
"""Time constant with which what was earlier is forgotten."""
_PRIOR_S = 10.0
"""Slot seconds that came as predicted, which are taken for granted at the beginning."""
_LEAST = 0.1


class Progress:
    """Slot seconds as they were predicted for the work that ended, over those that passed.

    Less than 1 where answers are longer than predicted, where requests on the same engine slow
    each other down more than measured, where work is interrupted and has to be read again, and
    where the engine is without a lease again and again while work waits. All these would
    otherwise show in the waits themselves, which is as late as the waits are long.
    """

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, float, float]] = {}
        """By model: decayed sums of what was done and of what it took, and when that was."""

    def took(self, model: str, slot_s: float, now_s: float) -> None:
        """So many slot seconds passed with work, or without an engine while work waited."""
        self._add(model, 0.0, slot_s, now_s)

    def did(self, model: str, slot_s: float, now_s: float) -> None:
        """Work ended for which so many slot seconds were predicted."""
        self._add(model, slot_s, 0.0, now_s)

    def rate(self, model: str, now_s: float) -> float:
        """Predicted work done in a second of a slot; at most 1.

        What goes faster than predicted does so before a line is long: to believe it lets too many
        in.
        """
        did_s, took_s, last_s = self._sums.get(model, (0.0, 0.0, now_s))
        kept = math.exp((last_s - now_s) / _MEMORY_S)
        found = (_PRIOR_S + did_s * kept) / (_PRIOR_S + took_s * kept)
        return min(1.0, max(_LEAST, found))

    def _add(self, model: str, did_s: float, took_s: float, now_s: float) -> None:
        before_did_s, before_took_s, last_s = self._sums.get(model, (0.0, 0.0, now_s))
        kept = math.exp((last_s - now_s) / _MEMORY_S)
        self._sums[model] = (before_did_s * kept + did_s, before_took_s * kept + took_s, now_s)
