"""Timing and frequency offsets: measured on channel estimates, taken out of a resource grid.

Estimates are least-squares ones of single ports: where several ports share pilots by orthogonal
covers, the covers have to be taken off first, or `first_lag` be a whole number of covers.

Where nothing can be measured (no power, or no finite value) the answer is NaN, and taking out an
offset of NaN leaves the grid as it is.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from airan.core.errors import InvalidInputError
from phy.array import Array, array_module, to_host
from phy.checks import check_choice, check_integer, check_range
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
    return -1e9 * best_frequency(products, lags * pilot_spacing_hz)


def frequency_offset_hz(raw: Array, symbol_times_s: npt.ArrayLike) -> float:
    """Estimates the carrier frequency offset (with the mean Doppler shift) of a slot.

    The most likely frequency for unknown, constant channel coefficients: the one that best lines
    up the phases of all pairs of DM-RS symbols, each weighted with the power they share.

    Args:
        raw: complex64[rx, layer, dmrs symbol, pilot], least-squares estimates.
        symbol_times_s: float[dmrs symbol], when each of the symbols is sent, in s, rising.

    Returns:
        Hz, positive if the received signal's frequency is too high, within +-1 / (2 d) for symbols
        at least d s apart; NaN with one symbol only, or if there is nothing to measure.

    Raises:
        InvalidInputError: wrong shape or dtype, or times that do not fit the symbols.
    """
    _check_estimates(raw)
    times = np.asarray(symbol_times_s, dtype=np.float64)
    if times.shape != (raw.shape[2],):
        raise InvalidInputError(
            "symbol_times_s", f"must have shape ({raw.shape[2]},), got {times.shape}"
        )
    if not np.all(np.diff(times) > 0):
        raise InvalidInputError("symbol_times_s", "must rise")
    if times.size < 2:
        return math.nan
    rows = _normalised(raw).swapaxes(0, 2).reshape(times.size, -1)
    shared = np.asarray(to_host(rows.conj() @ rows.T), dtype=np.complex128)
    first, second = np.triu_indices(times.size, 1)
    products = shared[first, second]
    if not np.any(products):
        return math.nan
    return best_frequency(products, times[second] - times[first])


def remove_timing_offset(grid: Array, offset_ns: float, scs_khz: int) -> Array:
    """Advances a grid by `offset_ns`: a phase ramp over the subcarriers, 0 on the first.

    Args:
        grid: complex64[..., subcarrier].
        offset_ns: as `timing_offset_ns` gives it; NaN changes nothing.
        scs_khz: subcarrier spacing.

    Returns:
        complex64[..., subcarrier].

    Raises:
        InvalidInputError: no complex array, or an unknown subcarrier spacing.
    """
    _check_grid(grid, 1)
    check_choice("scs_khz", scs_khz, (15, 30, 60, 120))
    if not math.isfinite(offset_ns):
        return grid
    turns = np.arange(grid.shape[-1]) * (scs_khz * 1e-6 * offset_ns)
    return grid * array_module(grid).asarray(_rotation(turns))


def remove_frequency_offset(grid: Array, offset_hz: float, symbol_times_s: npt.ArrayLike) -> Array:
    """Turns every symbol back by the phase that a frequency offset has reached at its time.

    What the offset does within a symbol, interference between subcarriers, stays: some -35 dB at
    1% of the subcarrier spacing.

    Args:
        grid: complex64[..., symbol, subcarrier].
        offset_hz: as `frequency_offset_hz` gives it; NaN changes nothing.
        symbol_times_s: float[symbol], in s.

    Returns:
        complex64[..., symbol, subcarrier].

    Raises:
        InvalidInputError: no complex array, or times that do not fit the grid.
    """
    _check_grid(grid, 2)
    times = np.asarray(symbol_times_s, dtype=np.float64)
    if times.shape != (grid.shape[-2],):
        raise InvalidInputError(
            "symbol_times_s", f"must have shape ({grid.shape[-2]},), got {times.shape}"
        )
    if not math.isfinite(offset_hz):
        return grid
    return grid * array_module(grid).asarray(_rotation(-offset_hz * times))[:, None]


def best_frequency(
    products: npt.NDArray[np.complex128], distances: npt.NDArray[np.float64]
) -> float:
    """Returns the f that maximises Re sum(products exp(-j 2 pi f distances)).

    A search on a grid, then Newton's method.

    Args:
        products: complex128[pair], conj(first) * second of each pair, summed over all it was seen
            on.
        distances: float64[pair], how far apart the two are, positive; f has the inverse unit.
    """
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


def _rotation(turns: npt.NDArray[np.float64]) -> npt.NDArray[np.complex64]:
    rotation: npt.NDArray[np.complex128] = np.exp(2j * np.pi * np.mod(turns, 1.0))
    return rotation.astype(np.complex64)


def _check_estimates(raw: Array) -> None:
    if getattr(getattr(raw, "dtype", None), "kind", None) != "c":
        kind = getattr(raw, "dtype", type(raw).__name__)
        raise InvalidInputError("raw", f"must be an array of complex numbers, got {kind}")
    if raw.ndim != 4 or raw.size == 0:
        raise InvalidInputError(
            "raw", f"must have shape (rx, layer, dmrs symbol, pilot), got {raw.shape}"
        )


def _check_grid(grid: Array, least_axes: int) -> None:
    if getattr(getattr(grid, "dtype", None), "kind", None) != "c":
        kind = getattr(grid, "dtype", type(grid).__name__)
        raise InvalidInputError("grid", f"must be an array of complex numbers, got {kind}")
    if grid.ndim < least_axes:
        raise InvalidInputError("grid", f"must have at least {least_axes} axes, got {grid.ndim}")
