"""How many slots are late when the RAN has so much of the GPU and needs so much.

Calibrated: 20 peak cells on a GH200 that is all theirs are on time at 99.98 % (cuPHY, published),
so that a part that is just what is needed has 0.02 % late. The spread of a slot's need around
the mean is the scenario's, assumed.
"""

from __future__ import annotations

import math
from statistics import NormalDist

SLOTS_PER_CELL_S = 2000.0
"""At 30 kHz subcarrier spacing."""
_ON_TIME = 0.9998
_AT_NEED = NormalDist().inv_cdf(_ON_TIME)


def late_share(held: float, needed: float, variation: float) -> float:
    """Part of the slots that are late; `held` and `needed` in the same unit."""
    if needed <= 0.0:
        return 0.0
    sigmas = _AT_NEED + (held / needed - 1.0) / variation
    return 0.5 * math.erfc(sigmas / math.sqrt(2.0))
