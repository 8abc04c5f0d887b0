"""Times within a slot. Spec: TS 38.211 5.3.1"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def symbol_times_s(scs_khz: int, slot_number: int) -> npt.NDArray[np.float64]:
    """Returns when the useful part of each symbol starts, from the slot's start: float64[14]."""
    del slot_number
    return np.arange(14) * (1e-3 / 14 / (scs_khz / 15))
