"""Interpolation of the channel in time, with the frequency offset and Doppler spread it shows.

Between DM-RS positions the channel turns with the UE's frequency offset and fades with a Doppler
spread of Jakes' correlation J0; both are read from the estimates, and the Wiener weights follow. A
still channel is averaged over the positions, a fast one interpolated.

Paper: Hoeher, Kaiser and Robertson, "Two-dimensional pilot-symbol-aided channel estimation by
Wiener filtering" (1997).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from phy.array import Array
from phy.receiver.offsets import frequency_offset_hz, position_products

_ANGLES = np.sin((np.arange(64) + 0.5) * (np.pi / 64))
# Arguments of J0 up to its first zero, where it can be inverted.
_ARGUMENTS = np.linspace(0.0, 2.4, 241)


@dataclass(frozen=True)
class TimeModel:
    """How one UE's channel moves through the slot.

    Attributes:
        frequency_offset_hz: mean rotation; NaN with a single DM-RS position or without a signal.
        doppler_hz: largest Doppler shift of Jakes' spectrum that fits.
        weights: complex64[14, position], channel of a symbol from the estimates.
    """

    frequency_offset_hz: float
    doppler_hz: float
    weights: npt.NDArray[np.complex64]


def fit(
    channel: Array,
    times_s: npt.NDArray[np.float64],
    symbol_times_s: npt.NDArray[np.float64],
    error_var: float,
) -> TimeModel:
    """Fits the motion of a channel and returns its interpolation weights.

    Args:
        channel: complex64[rx, layer, position, subcarrier].
        times_s: float64[position], when the estimates were taken.
        symbol_times_s: float64[14].
        error_var: variance of the estimates' error.
    """
    return fit_products(position_products(channel), times_s, symbol_times_s, error_var)


def fit_products(
    products: npt.NDArray[np.complex128],
    times_s: npt.NDArray[np.float64],
    symbol_times_s: npt.NDArray[np.float64],
    error_var: float,
) -> TimeModel:
    """As `fit`, from the mean of conj(h_d) h_e: complex128[position, position]."""
    if times_s.size == 1:
        return TimeModel(math.nan, 0.0, np.ones((symbol_times_s.size, 1), np.complex64))
    seen_hz = frequency_offset_hz(products, times_s)
    offset_hz = 0.0 if math.isnan(seen_hz) else seen_hz
    doppler_hz = _doppler(products, times_s, error_var)
    power = max(float(np.real(np.diag(products)).mean()) - error_var, 1e-30)
    among = power * _bessel_j0(2 * np.pi * doppler_hz * np.subtract.outer(times_s, times_s))
    among += max(error_var, 1e-4 * power) * np.eye(times_s.size)
    away = np.subtract.outer(symbol_times_s, times_s)
    cross = power * _bessel_j0(2 * np.pi * doppler_hz * away)
    weights = np.linalg.solve(among, cross.T).T * np.exp(2j * np.pi * offset_hz * away)
    return TimeModel(seen_hz, doppler_hz, weights.astype(np.complex64))


def _doppler(
    products: npt.NDArray[np.complex128], times_s: npt.NDArray[np.float64], error_var: float
) -> float:
    """Largest Doppler shift whose J0 explains how alike neighbouring positions are."""
    power = np.maximum(np.real(np.diag(products)) - error_var, 1e-30)
    alike = np.abs(np.diagonal(products, 1)) / np.sqrt(power[:-1] * power[1:])
    j0 = _bessel_j0(_ARGUMENTS)
    arguments = np.interp(-np.minimum(alike, 1.0), -j0, _ARGUMENTS)
    return float((arguments / (2 * np.pi * np.diff(times_s))).mean())


def _bessel_j0(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """J0 by its integral: the midpoint rule is exact to rounding for arguments below 40."""
    return np.asarray(np.cos(np.multiply.outer(x, _ANGLES)).mean(axis=-1))
