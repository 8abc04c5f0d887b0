"""How a slot's time changes from gear to gear: assumed at first, then learnt from what was seen.

A gear is a division of one GPU's SMs; the higher, the more of them are the RAN's. A slot's time
falls with SMs as a power of them, or, where a cost model says how it falls, differs from what the
model says by such a power. The power lies between two bounds for each pair of neighbouring gears:
the lower one is used to say what going up gains, the higher one what going down costs, so that
both answers are cautious. What is seen when the gear changes draws the bounds together. Pure.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Powers:
    """Bounds of the power of SMs by which a slot's time falls.

    Attributes:
        gain: at least, going up.
        loss: at most, going down.
        least, most: what is seen outside of them is a change of load, and teaches nothing.
    """

    gain: float
    loss: float
    least: float
    most: float


ALONE = Powers(gain=0.5, loss=2.0, least=0.0, most=3.0)
"""Assumed of the whole time: with twice the SMs a slot takes at most 1/1.4 of it, with half of them
at most four times as long (20 peak cells' PUSCH on an H100: 1.4 times from 96 to 64 SMs, 1.9 times
from 132 to 96)."""
BESIDE_A_MODEL = Powers(gain=-0.25, loss=0.5, least=-1.5, most=1.5)
"""Assumed of what a measured model of the slot's cost leaves over."""
_WEIGHT = 0.5


class GearTimes:
    """Of one channel's slots, relative from gear to gear."""

    def __init__(self, gears: Sequence[int], powers: Powers) -> None:
        """`gears` are the RAN's SMs, ascending."""
        self._log_sms = [math.log(sms) for sms in gears]
        self._powers = powers
        self._bounds = [(powers.gain, powers.loss) for _ in itertools.pairwise(gears)]

    def ratio(self, known: int, asked: int) -> float:
        """What a slot takes in gear `asked` at most, relative to `known`."""
        low, high = sorted((known, asked))
        which = 0 if asked > known else 1
        power = sum(
            self._bounds[pair][which] * (self._log_sms[pair + 1] - self._log_sms[pair])
            for pair in range(low, high)
        )
        return math.exp(-power if asked > known else power)

    def learn(self, known: int, known_us: float, now: int, now_us: float) -> None:
        """The same load took `known_us` in one gear and `now_us` in another."""
        if known == now or not (known_us > 0 and now_us > 0):
            return
        gained = self._log_sms[now] - self._log_sms[known]
        seen = (math.log(known_us) - math.log(now_us)) / gained
        if not self._powers.least <= seen <= self._powers.most:
            return
        for pair in range(*sorted((known, now))):
            low, high = self._bounds[pair]
            self._bounds[pair] = (low + _WEIGHT * (seen - low), high + _WEIGHT * (seen - high))
