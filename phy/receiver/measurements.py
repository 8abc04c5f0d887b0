"""Measurements on received slots."""

from __future__ import annotations

import numpy as np

from phy.array import Array


def sinr_db(noise_var: Array) -> float:
    """Returns the SINR of symbols of power 1 with float[...] noise variances."""
    return float(-10 * np.log10(float(noise_var.mean())))
