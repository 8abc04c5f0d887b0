"""How many slots are late when the RAN has so much of the GPU and needs so much.

Calibrated: 20 peak cells on a GH200 that is all theirs are on time at 99.98 % (cuPHY, published),
so that a part that is just what is needed has 0.02 % late. The spread of a slot's need around
the mean is the scenario's, assumed.
"""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import NormalDist

from orchestrator.alarm import AlarmSettings

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


def alarm_settings(speed: float) -> AlarmSettings:
    """The live alarm's, on a clock that runs so many times faster than wall time."""
    settings = AlarmSettings()
    return replace(
        settings,
        near_miss_s=settings.near_miss_s * speed,
        hold_s=settings.hold_s * speed,
        max_hold_s=settings.max_hold_s * speed,
        repeat_s=settings.repeat_s * speed,
    )
