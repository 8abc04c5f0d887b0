"""What a receiver reports of its signal's quality."""

from __future__ import annotations

import numpy as np

from airan.core.errors import InvalidInputError
from phy.array import Array, array_module

# The demapper takes smaller noise variances as this, too.
_LEAST_NOISE_VAR = 1.0e-10


def sinr_db(symbol_noise_var: Array) -> float:
    """Returns the effective SINR of equalised symbols of power 1.

    The mean is taken over capacities: the SINR of a channel without fading that carries as much,
    2^mean(log2(1 + SINR)) - 1. It lies between the harmonic mean, which a single faded symbol
    would drag down, and the arithmetic one, and predicts what a code over all symbols can do.

    Args:
        symbol_noise_var: float[...], variance of noise and interference on each symbol after the
            equaliser; infinite for a symbol that carries nothing. NaN ones are left out.

    Returns:
        dB, at most 100; -inf if no symbol carries anything, NaN if there is none.

    Raises:
        InvalidInputError: no array of real floats, or a negative variance.
    """
    if getattr(getattr(symbol_noise_var, "dtype", None), "kind", None) != "f":
        kind = getattr(symbol_noise_var, "dtype", type(symbol_noise_var).__name__)
        raise InvalidInputError("symbol_noise_var", f"must be an array of floats, got {kind}")
    xp = array_module(symbol_noise_var)
    known = symbol_noise_var[~xp.isnan(symbol_noise_var)]
    if known.size == 0:
        return float("nan")
    if bool((known < 0).any()):
        raise InvalidInputError("symbol_noise_var", "must not be negative")
    sinr = 1 / xp.maximum(known, xp.float32(_LEAST_NOISE_VAR))
    effective = float(np.expm1(float(xp.log1p(sinr).mean(dtype=xp.float64))))
    return 10 * float(np.log10(effective)) if effective > 0 else -float("inf")
