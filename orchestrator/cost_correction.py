"""What slots take beyond what the cost model says of them: a fixed time, and a part. Pure.

A model measured elsewhere, or without a neighbour on the GPU, is off in two ways: every slot takes
a little more, whatever it holds, and long ones take so many times as long. Short slots show the
first, long ones the second; a short slot's excess, taken for a part, would make every long slot
look impossible.
"""

from __future__ import annotations

_SHORT = 0.2
"""Of the budget: slots expected to be shorter show the fixed time."""
_TELLING = 0.3
"""Of the budget: slots expected to be longer may raise the part."""
_WEIGHT = 0.02
_MOST_RISE = 1.1
"""By which one slot raises the part at most: a single one may have waited for something else."""
_LEAST, _MOST = 0.5, 3.0


class CostCorrection:
    """Of one channel's slots.

    Attributes:
        fixed_us: what every slot takes more.
        part: what a slot takes besides, of what the model says.
    """

    def __init__(self) -> None:
        self.fixed_us = 0.0
        self.part = 1.0

    def us(self, model_us: float) -> float:
        """What a slot takes of which the model says `model_us`."""
        return self.fixed_us + self.part * model_us

    def learn(self, model_us: float, seen_us: float, budget_us: float) -> None:
        """A slot of which the model says `model_us`, above 0, took `seen_us`.

        The part rises at once and falls slowly: what was seen under the worst neighbour counts.
        """
        if model_us < _SHORT * budget_us:
            excess_us = max(0.0, seen_us - self.part * model_us)
            self.fixed_us += _WEIGHT * (min(excess_us, budget_us) - self.fixed_us)
            return
        seen = min(_MOST, max(_LEAST, (seen_us - self.fixed_us) / model_us))
        if seen <= self.part:
            self.part += _WEIGHT * (seen - self.part)
        elif model_us >= _TELLING * budget_us:
            self.part = min(seen, _MOST_RISE * self.part)
