"""Plain interpolation: the least-squares receiver's way from pilots to every resource element."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from phy.array import Array, array_module


def in_frequency(
    estimates: Array, runs: Sequence[tuple[int, int]], spacing: int, offset: float
) -> Array:
    """Interpolates linearly within each run of PRBs; beyond the outermost pilots the line goes on.

    Args:
        estimates: complex64[..., pilot].
        runs: (first PRB, PRBs) of each run.
        spacing: subcarriers from one estimate to the next.
        offset: subcarrier of the first estimate.

    Returns:
        complex64[..., subcarrier].
    """
    xp = array_module(estimates)
    per_prb = 12 // spacing
    lower, fraction = [], []
    for first, count in runs:
        at = (np.arange(12 * count) - offset) / spacing
        last = max(count * per_prb - 2, 0)
        index = np.clip(np.floor(at).astype(int), 0, last)
        lower.append(first * per_prb + index)
        fraction.append(at - index if count * per_prb > 1 else np.zeros_like(at))
    start = xp.asarray(np.concatenate(lower))
    part = xp.asarray(np.concatenate(fraction).astype(np.float32))
    below = estimates[..., start]
    above = estimates[..., xp.minimum(start + 1, estimates.shape[-1] - 1)]
    return below + part * (above - below)


def pairs(estimates: Array) -> Array:
    """Averages neighbouring estimates, which takes out a partner of alternating sign."""
    return (estimates[..., 0::2] + estimates[..., 1::2]) * np.float32(0.5)


def time_weights(positions: npt.NDArray[np.float64], n_symbols: int) -> npt.NDArray[np.complex64]:
    """Linear weights complex64[n_symbols, position]; the outermost estimates are held."""
    columns = [np.interp(np.arange(n_symbols), positions, unit) for unit in np.eye(positions.size)]
    return np.stack(columns, axis=1).astype(np.complex64)
