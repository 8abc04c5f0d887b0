"""What a receiver reports of its signal: reference signal received power, and SINR.

Spec: TS 38.215 5.1.1 (the definition of RSRP)
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from airan.core.errors import InvalidInputError
from phy.array import Array, array_module, to_host
from phy.checks import check_range

# The demapper takes smaller noise variances as this, too.
_LEAST_NOISE_VAR = 1.0e-10


def rsrp_db(raw: Array, noise_var: float, pilot_power: float = 1.0) -> npt.NDArray[np.float64]:
    """Estimates the reference signal received power of every port: float64[layer], in dB.

    It is the linear mean of the power on the resource elements that carry the port's pilots, over
    pilots and receive antennas, less the noise; 0 dB is a power of 1 on a resource element.

    Args:
        raw: complex64[rx, layer, dmrs symbol, pilot], least-squares estimates of the channel, that
            is, received samples divided by pilots. Non-finite ones are left out.
        noise_var: variance of the complex noise on a resource element.
        pilot_power: power of the pilots that `raw` was divided by.

    Returns:
        dB; -inf where no more power than noise was found, NaN where no finite value was.

    Raises:
        InvalidInputError: wrong shape or dtype, a negative noise variance, or no pilot power.

    Spec: TS 38.215 5.1.1
    """
    if getattr(getattr(raw, "dtype", None), "kind", None) != "c":
        kind = getattr(raw, "dtype", type(raw).__name__)
        raise InvalidInputError("raw", f"must be an array of complex numbers, got {kind}")
    if raw.ndim != 4 or raw.size == 0:
        raise InvalidInputError(
            "raw", f"must have shape (rx, layer, dmrs symbol, pilot), got {raw.shape}"
        )
    check_range("noise_var", noise_var, 0.0, float("inf"))
    check_range("pilot_power", pilot_power, 1e-12, 1e12)
    xp = array_module(raw)
    finite = xp.isfinite(raw)
    usable = xp.where(finite, raw, 0).astype(xp.complex128)
    total = np.asarray(to_host((usable.real**2 + usable.imag**2).sum(axis=(0, 2, 3))))
    count = np.asarray(to_host(finite.sum(axis=(0, 2, 3))))
    with np.errstate(divide="ignore", invalid="ignore"):
        power = pilot_power * (total / count) - noise_var
        decibels: npt.NDArray[np.float64] = 10 * np.log10(np.maximum(power, 0.0))
    return decibels


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
