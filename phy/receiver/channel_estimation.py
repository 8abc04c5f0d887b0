"""Channel and noise estimation from one comb of pilots.

The least-squares estimates are smoothed and interpolated in frequency by a Wiener filter that
assumes a flat delay profile up to a given delay, block by block, then linearly in time.

Paper: Edfors et al., "OFDM channel estimation by singular value decomposition" (1998), for the
robust design with a flat profile.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from phy.array import Array, array_module

# A filter block: so many pilots in, so many subcarriers out (eight PRBs in, four out).
_WINDOW_PILOTS = 48
_BLOCK_SUBCARRIERS = 48
_SNR_STEP_DB = 3
_SNR_RANGE_DB = (-9, 39)
_PILOT_SPACING = 2


@dataclass(frozen=True)
class DelayWindow:
    """Where the channel's energy is expected, in ns after the receiver's time reference."""

    earliest_ns: float = -100.0
    latest_ns: float = 1200.0


def least_squares(received: Array, pilots: Array) -> Array:
    """Returns received / pilots: complex64[..., symbol, pilot], for pilots of equal power."""
    xp = array_module(received)
    power = xp.abs(pilots[..., :1]) ** 2
    return received * pilots.conj() / power


def noise_variance(estimates: Array) -> Array:
    """Returns the noise variance of least-squares estimates.

    A channel is smooth over neighbouring pilots, so their fourth difference is almost all noise;
    a path with 1 us of delay at 30 kHz leaks 52 dB below its own power.

    Args:
        estimates: complex64[..., symbol, pilot], at least 6 pilots.

    Returns:
        float32[...], averaged over symbols and pilots.
    """
    xp = array_module(estimates)
    difference = xp.diff(estimates, n=4, axis=-1)
    return (xp.abs(difference) ** 2).mean(axis=(-2, -1)) / 70.0


class FrequencyInterpolator:
    """Turns estimates on a comb of pilots into estimates on every subcarrier."""

    def __init__(
        self, n_pilots: int, offset: int, scs_khz: int, window: DelayWindow | None = None
    ) -> None:
        """`offset` is the subcarrier of the first pilot; the others follow every second one."""
        self._n_pilots = n_pilots
        self._offset = offset
        self._scs_khz = scs_khz
        self._window = window or DelayWindow()
        self._blocks = _blocks(n_pilots)

    def __call__(self, estimates: Array, snr_db: float) -> Array:
        """Filters complex64[..., pilot] to complex64[..., subcarrier].

        `snr_db` is that of the estimates; the filter is designed for the nearest step.
        """
        xp = array_module(estimates)
        low, high = _SNR_RANGE_DB
        snr_db = low if np.isnan(snr_db) else min(max(snr_db, low), high)
        step = _SNR_STEP_DB * round(snr_db / _SNR_STEP_DB)
        out = xp.empty((*estimates.shape[:-1], _PILOT_SPACING * self._n_pilots), xp.complex64)
        for n_in, n_out, lead, starts in self._blocks:
            taps = xp.asarray(
                _wiener(n_in, n_out, lead - self._offset, self._scs_khz, self._window, step)
            )
            pilots = np.asarray([pilot for pilot, _ in starts])[:, None] + np.arange(n_in)
            targets = np.asarray([target for _, target in starts])[:, None] + np.arange(n_out)
            out[..., xp.asarray(targets)] = estimates[..., xp.asarray(pilots)] @ taps
        return out


def time_weights(pilot_symbols: tuple[int, ...], n_symbols: int) -> npt.NDArray[np.float32]:
    """Returns linear interpolation weights in time: float32[n_symbols, pilot symbol].

    Before the first and after the last pilot symbol the nearest estimate is held.
    """
    columns = [
        np.interp(np.arange(n_symbols), pilot_symbols, unit) for unit in np.eye(len(pilot_symbols))
    ]
    return np.stack(columns, axis=1).astype(np.float32)


@lru_cache(maxsize=300)
def _blocks(n_pilots: int) -> list[tuple[int, int, int, list[tuple[int, int]]]]:
    """Groups of equal blocks: (pilots in, subcarriers out, first subcarrier out relative to the
    first pilot in, [(first pilot, first subcarrier) of each block])."""
    n_subcarriers = _PILOT_SPACING * n_pilots
    n_in = min(_WINDOW_PILOTS, n_pilots)
    n_out = min(_BLOCK_SUBCARRIERS, n_subcarriers)
    margin = (_PILOT_SPACING * n_in - n_out) // (2 * _PILOT_SPACING)
    groups: dict[int, list[tuple[int, int]]] = {}
    starts = [*range(0, n_subcarriers - n_out, n_out), n_subcarriers - n_out]
    for target in starts:
        pilot = min(max(target // _PILOT_SPACING - margin, 0), n_pilots - n_in)
        groups.setdefault(target - _PILOT_SPACING * pilot, []).append((pilot, target))
    return [(n_in, n_out, lead, blocks) for lead, blocks in groups.items()]


@lru_cache(maxsize=512)
def _wiener(
    n_in: int, n_out: int, lead: int, scs_khz: int, window: DelayWindow, snr_db: int
) -> npt.NDArray[np.complex64]:
    """Filter taps complex64[n_in, n_out]: R_hp (R_pp + I / SNR)^-1, transposed."""
    pilots = _PILOT_SPACING * np.arange(n_in)
    targets = lead + np.arange(n_out)
    among = _correlation(pilots[:, None] - pilots[None, :], scs_khz, window)
    cross = _correlation(targets[:, None] - pilots[None, :], scs_khz, window)
    noise = 10 ** (-snr_db / 10) * np.eye(n_in)
    taps = np.linalg.solve((among + noise).T, cross.T)
    return np.ascontiguousarray(taps.astype(np.complex64))


def _correlation(
    distance: npt.NDArray[np.int64], scs_khz: int, window: DelayWindow
) -> npt.NDArray[np.complex128]:
    """Correlation over `distance` subcarriers of a channel with a flat delay profile."""
    step = distance * (scs_khz * 1e-6)  # GHz, against ns
    width = window.latest_ns - window.earliest_ns
    centre = (window.latest_ns + window.earliest_ns) / 2
    correlation: npt.NDArray[np.complex128] = np.exp(-2j * np.pi * step * centre)
    correlation *= np.sinc(step * width)
    return correlation
