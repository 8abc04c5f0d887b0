"""Wiener filters in frequency: estimates at the pilots to estimates on every subcarrier.

The allocation is filtered block by block, each from a window of pilots around it, with the
correlation of an estimated (or assumed) delay profile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from phy.array import Array, array_module
from phy.receiver.delay_profile import DelayProfile, toeplitz

_WINDOW_PILOTS = 64
# Estimates are never trusted further than this, relative to the channel's power: -45 dB.
_LEAST_NOISE = 3.0e-5


@dataclass(frozen=True)
class FilterDesign:
    """What a filter is designed for.

    Attributes:
        profile: delay profile of the wanted layer.
        partner: profile of the layer on the same pilots with the alternating cover, or None.
        noise_var: variance of the noise on an estimate.
        scs_khz: subcarrier spacing.
    """

    profile: DelayProfile
    partner: DelayProfile | None
    noise_var: float
    scs_khz: int


@dataclass(frozen=True)
class Filtered:
    """What came out of a filter.

    Attributes:
        channel: complex64[..., subcarrier].
        error_var: variance of the noise left in it.
        residual_part: variance of what the filtered channel leaves of the noise at the pilots,
            relative to the noise; a smoother follows the noise a little.
    """

    channel: Array
    error_var: float
    residual_part: float


class FrequencyFilter:
    """Filters estimates of one layer over the runs of PRBs of an allocation."""

    def __init__(self, runs: Sequence[tuple[int, int]], spacing: int, offset: float) -> None:
        """`runs` are (first PRB, PRBs); an estimate lies every `spacing` subcarriers."""
        self._spacing = spacing
        self._offset = offset
        self._per_prb = 12 // spacing
        self._runs = tuple(runs)

    def __call__(self, estimates: Array, design: FilterDesign) -> Filtered:
        """Filters complex64[..., pilot] to complex64[..., subcarrier]."""
        xp = array_module(estimates)
        n_subcarriers = self._spacing * estimates.shape[-1]
        out = xp.empty((*estimates.shape[:-1], n_subcarriers), dtype=xp.complex64)
        solvers: dict[int, _Solver] = {}
        left = residual = weight = 0.0
        for first, count in self._runs:
            pilot0, n_pilots = first * self._per_prb, count * self._per_prb
            for n_in, n_out, lead, starts in _blocks(n_pilots, self._spacing):
                if n_in not in solvers:
                    solvers[n_in] = _Solver(n_in, self._spacing, design)
                taps = solvers[n_in].taps(n_out, lead - self._offset)
                gain = design.noise_var * float((np.abs(taps) ** 2).sum(axis=0).mean())
                left += gain * len(starts)
                residual += solvers[n_in].residual_part * len(starts)
                weight += len(starts)
                on_device = xp.asarray(taps)
                for pilot, target in starts:
                    at, to = pilot0 + pilot, 12 * first + target
                    out[..., to : to + n_out] = estimates[..., at : at + n_in] @ on_device
        return Filtered(out, left / weight, residual / weight)


def window_taps(
    n_in: int, spacing: int, targets: range, design: FilterDesign
) -> tuple[npt.NDArray[np.complex64], npt.NDArray[np.float64]]:
    """Returns the taps of one window, and what they leave of the noise at its pilots.

    Args:
        n_in: estimates in the window, `spacing` subcarriers apart.
        spacing: subcarriers from one estimate to the next.
        targets: subcarriers to estimate, counted from the window's first estimate; step 1.
        design: what the filter is designed for.

    Returns:
        complex64[n_in, target], and float64[n_in], the variance of an estimate less the channel
        found at it (and the partner's), relative to the noise.
    """
    solver = _Solver(n_in, spacing, design)
    return solver.taps(len(targets), targets.start), solver.residual_parts


class _Solver:
    """The filters of one window size: taps = (R_hp R_yy^-1)^T."""

    def __init__(self, n_in: int, spacing: int, design: FilterDesign) -> None:
        self._design = design
        self._pilots = spacing * np.arange(n_in)
        profile, scs_khz = design.profile, design.scs_khz
        among = toeplitz(profile.correlation(0.0, spacing, n_in, scs_khz))
        if design.partner is not None:
            other = toeplitz(design.partner.correlation(0.0, spacing, n_in, scs_khz))
            sign = 1 - 2 * (np.arange(n_in) % 2)
            among = among + other * np.multiply.outer(sign, sign)
        noise = max(design.noise_var, _LEAST_NOISE * float(profile.power.sum()))
        self._taps: dict[tuple[int, float], npt.NDArray[np.complex64]] = {}
        self._inverse = np.linalg.inv((among + noise * np.eye(n_in)).T)
        middle = slice(n_in // 4, n_in - n_in // 4)
        # y - R A^-1 y = noise A^-1 y, whose covariance is noise^2 A^-1.
        self.residual_parts = noise * np.diagonal(self._inverse).real
        self.residual_part = float(self.residual_parts[middle].mean())

    def taps(self, n_out: int, lead: float) -> npt.NDArray[np.complex64]:
        """complex64[n_in, n_out] for targets from `lead` subcarriers after the first pilot on;
        runs of PRBs of equal length share them."""
        if (n_out, lead) not in self._taps:
            self._taps[n_out, lead] = self._solve(n_out, lead)
        return self._taps[n_out, lead]

    def _solve(self, n_out: int, lead: float) -> npt.NDArray[np.complex64]:
        # Targets less pilots takes few different values: from lead - last pilot up.
        lowest = lead - self._pilots[-1]
        n = int(self._pilots[-1]) + n_out
        values = self._design.profile.correlation(lowest, 1.0, n, self._design.scs_khz)
        index = np.arange(n_out)[:, None] - self._pilots[None, :] + self._pilots[-1]
        taps = self._inverse @ values[index].T
        return np.ascontiguousarray(taps.astype(np.complex64))


@lru_cache(maxsize=600)
def _blocks(n_pilots: int, spacing: int) -> list[tuple[int, int, int, list[tuple[int, int]]]]:
    """Groups of equal blocks: (pilots in, subcarriers out, first subcarrier out relative to the
    first pilot in, [(first pilot, first subcarrier) of each block])."""
    n_subcarriers = spacing * n_pilots
    n_in = min(_WINDOW_PILOTS, n_pilots)
    n_out = min(spacing * _WINDOW_PILOTS // 2, n_subcarriers)
    margin = (spacing * n_in - n_out) // (2 * spacing)
    groups: dict[int, list[tuple[int, int]]] = {}
    starts = [*range(0, n_subcarriers - n_out, n_out), n_subcarriers - n_out]
    for target in starts:
        pilot = min(max(target // spacing - margin, 0), n_pilots - n_in)
        groups.setdefault(target - spacing * pilot, []).append((pilot, target))
    return [(n_in, n_out, lead, blocks) for lead, blocks in groups.items()]
