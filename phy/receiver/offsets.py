"""Timing and frequency offsets, measured on channel estimates.

Where several ports share pilots by orthogonal covers, the covers have to be taken off the
least-squares estimates first, or `first_lag` be a whole number of covers. Where nothing can be
measured (no power, or no finite value) the answer is NaN.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from airan.core.errors import InvalidInputError
from phy.array import Array, array_module, to_host
from phy.checks import check_integer, check_range
from phy.ofdm import N_SYMBOLS, PARTS_PER_SYMBOL, cp_parts

_LONGEST_LAG = 8
# Points of the search in one turn of the phase over the longest distance.
_POINTS_PER_TURN = 16


def symbol_times_s(scs_khz: int, slot_number: int) -> npt.NDArray[np.float64]:
    """Returns when the useful part of each symbol starts, in s from the slot's start: float64[14].

    Raises:
        InvalidInputError: an unknown subcarrier spacing, or a slot number out of range.

    Spec: TS 38.211 5.3.1
    """
    prefixes = np.cumsum(cp_parts(scs_khz, slot_number)) / PARTS_PER_SYMBOL
    times: npt.NDArray[np.float64] = (prefixes + np.arange(N_SYMBOLS)) / (scs_khz * 1e3)
    return times


def timing_offset_ns(raw: Array, pilot_spacing_hz: float, first_lag: int = 1) -> float:
    """Estimates how late the signal arrives: the channel's mean delay, weighted by power.

    The delay that best lines up the phases between pilots one to eight apart, each weighted with
    the power they share; the channel's paths are not told apart below some 2 us (at 60 kHz).

    Args:
        raw: complex64[rx, layer, dmrs symbol, pilot], least-squares estimates on evenly spaced
            pilots.
        pilot_spacing_hz: distance of neighbouring pilots.
        first_lag: pilots from one to the next that it is compared with; 2 where neighbouring
            pilots carry different covers.

    Returns:
        ns, positive for late, within +-1 / (2 first_lag pilot_spacing_hz); NaN if there is nothing
        to measure.

    Raises:
        InvalidInputError: wrong shape or dtype, or fewer than `first_lag` + 1 pilots.
    """
    _check_estimates(raw)
    check_range("pilot_spacing_hz", pilot_spacing_hz, 1.0, 1e9)
    check_integer("first_lag", first_lag, 1, raw.shape[-1] - 1)
    usable = _normalised(raw)
    longest = max(first_lag, min(_LONGEST_LAG, raw.shape[-1] // 2))
    lags = np.arange(first_lag, longest + 1, first_lag)
    products = np.array(
        [complex((usable[..., :-lag].conj() * usable[..., lag:]).sum()) for lag in lags]
    )
    if not np.any(products):
        return math.nan
    return -1e9 * _best_frequency(products, lags * pilot_spacing_hz)


def position_products(channel: Array) -> npt.NDArray[np.complex128]:
    """Returns the mean of conj(h_d) h_e for DM-RS positions d, e: complex128[position, position].

    Args:
        channel: complex64[rx, layer, position, subcarrier or pilot].
    """
    xp = array_module(channel)
    by_position = xp.moveaxis(channel, 2, 0).reshape(channel.shape[2], -1)
    products = to_host(by_position.conj() @ by_position.T).astype(np.complex128)
    scaled: npt.NDArray[np.complex128] = products / by_position.shape[1]
    return scaled


def frequency_offset_hz(
    products: npt.NDArray[np.complex128], times_s: npt.NDArray[np.float64]
) -> float:
    """Estimates the carrier frequency offset (with the mean Doppler shift) of a slot.

    The most likely frequency for unknown, constant channel coefficients: the one that best lines
    up the phases of all pairs of DM-RS positions, each weighted with the power they share.

    Args:
        products: complex128[position, position], see `position_products`.
        times_s: float64[position], when each of them was sent, rising.

    Returns:
        Hz, positive if the received signal's frequency is too high, within +-1 / (2 d) for
        positions at least d s apart; NaN with one position only, or if there is nothing to
        measure.

    Raises:
        InvalidInputError: times that do not fit the positions.
    """
    if times_s.shape != products.shape[:1]:
        raise InvalidInputError(
            "times_s", f"must have shape {products.shape[:1]}, got {times_s.shape}"
        )
    if not np.all(np.diff(times_s) > 0):
        raise InvalidInputError("times_s", "must rise")
    first, second = np.triu_indices(times_s.size, 1)
    if not np.any(products[first, second]):
        return math.nan
    return _best_frequency(products[first, second], times_s[second] - times_s[first])


def _best_frequency(
    products: npt.NDArray[np.complex128], distances: npt.NDArray[np.float64]
) -> float:
    """The f that maximises Re sum(products exp(-j 2 pi f distances)): a search, then Newton."""
    limit = 1 / (2 * float(distances.min()))
    n_points = 2 * math.ceil(_POINTS_PER_TURN * limit * float(distances.max()))
    candidates = np.linspace(-limit, limit, n_points, endpoint=False)
    angle = 2 * np.pi * distances
    aligned = products * np.exp(-1j * np.outer(candidates, angle))
    frequency = float(candidates[np.argmax(aligned.real.sum(axis=1))])
    for _ in range(4):
        aligned_here = products * np.exp(-1j * frequency * angle)
        curvature = float((angle**2 * aligned_here.real).sum())
        if curvature <= 0:
            break
        frequency += float((angle * aligned_here.imag).sum()) / curvature
    return (frequency + limit) % (2 * limit) - limit


def _normalised(raw: Array) -> Array:
    """Estimates of amplitude 1 at most, so that no product overflows; 0 for non-finite ones."""
    xp = array_module(raw)
    usable = xp.where(xp.isfinite(raw), raw, 0)
    largest = float(xp.maximum(xp.abs(usable.real).max(), xp.abs(usable.imag).max()))
    return usable / xp.float32(largest) if largest > 0 else usable


def _check_estimates(raw: Array) -> None:
    if getattr(getattr(raw, "dtype", None), "kind", None) != "c":
        kind = getattr(raw, "dtype", type(raw).__name__)
        raise InvalidInputError("raw", f"must be an array of complex numbers, got {kind}")
    if raw.ndim != 4 or raw.size == 0:
        raise InvalidInputError(
            "raw", f"must have shape (rx, layer, dmrs symbol, pilot), got {raw.shape}"
        )
