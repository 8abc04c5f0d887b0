"""The channel's delay profile and the noise, estimated from the pilots of one slot.

Welch's method over frequency: overlapping segments of the estimates are windowed and transformed to
delay, and their powers are averaged over segments, antennas, layers and DM-RS positions.

Paper: Welch, "The use of fast Fourier transform for the estimation of power spectra" (1967).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from phy.array import Array, array_module, to_host
from phy.checks import check_range

LEAST_PILOTS = 84
"""Fewer estimates than this resolve too little, and a flat prior profile does better: the bins of a
profile must be finer than what the Wiener filter's window of 64 pilots tells apart."""

_SEGMENT = 256
# Standard deviations of the averaged noise that a delay's power must rise above it to count.
_THRESHOLD = 2.0
# Shares of the seen power that may be noise: -50 to 0 dB.
_NOISE_PARTS = np.logspace(-5, 0, 101)[:-1]


@dataclass(frozen=True)
class DelayWindow:
    """Where the channel's energy is expected, in ns after the receiver's time reference.

    Attributes:
        earliest_ns: start of the window.
        latest_ns: its end.
        stragglers_ns: up to where a twentieth of the energy may lie; None: no later than the rest.

    Raises:
        InvalidInputError: a time is not within 0.1 ms, or the times do not rise.
    """

    earliest_ns: float = -100.0
    latest_ns: float = 1200.0
    stragglers_ns: float | None = None

    def __post_init__(self) -> None:
        check_range("earliest_ns", self.earliest_ns, -1e5, 1e5)
        check_range("latest_ns", self.latest_ns, self.earliest_ns, 1e5)
        if self.stragglers_ns is not None:
            check_range("stragglers_ns", self.stragglers_ns, self.latest_ns, 1e5)

    @classmethod
    def within_cyclic_prefix(cls, scs_khz: int) -> DelayWindow:
        """Paths are expected in the cyclic prefix, and hardly ever after the first 1.2 us."""
        prefix_ns = 4690.0 * 15 / scs_khz
        latest_ns = min(1200.0, prefix_ns)
        return cls(latest_ns=latest_ns, stragglers_ns=prefix_ns if prefix_ns > 1200.0 else None)


@dataclass(frozen=True)
class DelayProfile:
    """Power over delay of one layer on one antenna, on average.

    Attributes:
        delay_ns: float64[path].
        power: float64[path], in the units of the estimates squared; never empty.
    """

    delay_ns: npt.NDArray[np.float64]
    power: npt.NDArray[np.float64]

    def correlation(
        self, first: float, step: float, n: int, scs_khz: int
    ) -> npt.NDArray[np.complex128]:
        """Returns E[h(k + d) h*(k)] for d = first, first + step, ... subcarriers: complex128[n]."""
        turn = -2j * np.pi * (scs_khz * 1e-6) * self.delay_ns
        # A running product costs a tenth of as many exponentials.
        factors = np.empty((n, self.delay_ns.size), dtype=np.complex128)
        factors[:] = np.exp(turn * step)
        factors[0] = np.exp(turn * first) * self.power
        correlation: npt.NDArray[np.complex128] = factors.cumprod(axis=0).sum(axis=1)
        return correlation

    @property
    def mean_ns(self) -> float:
        """Power-weighted mean delay."""
        return float(self.delay_ns @ self.power / self.power.sum())


def flat_profile(power: float, window: DelayWindow, step_ns: float = 50.0) -> DelayProfile:
    """Returns a profile of total `power`, flat over `window`: the robust prior.

    Paper: Edfors et al., "OFDM channel estimation by singular value decomposition" (1998).
    """

    def spread(power: float, start: float, end: float) -> DelayProfile:
        n = max(2, math.ceil((end - start) / step_ns))
        return DelayProfile(np.linspace(start, end, n), np.full(n, power / n))

    power = max(power, 1e-30)
    if window.stragglers_ns is None:
        return spread(power, window.earliest_ns, window.latest_ns)
    most = spread(0.95 * power, window.earliest_ns, window.latest_ns)
    late = spread(0.05 * power, window.latest_ns, window.stragglers_ns)
    return DelayProfile(
        np.concatenate([most.delay_ns, late.delay_ns]), np.concatenate([most.power, late.power])
    )


def estimate(
    estimates: Array, spacing: int, scs_khz: int, has_partner: bool, noise_var: float | None
) -> tuple[DelayProfile, float]:
    """Returns the delay profile of least-squares estimates and the variance of their noise.

    Args:
        estimates: complex64[rx, layer, position, pilot], at least LEAST_PILOTS pilots.
        spacing: subcarriers from one estimate to the next.
        scs_khz: subcarrier spacing.
        has_partner: a second layer lies half the unambiguous delay range away.
        noise_var: variance of the noise on an estimate, or None: estimated.
    """
    power, n_averages = _spectrum(estimates)
    n = power.size
    # The unambiguous range is cut so that three quarters of it are late paths, one quarter early.
    reach = n // 2 if has_partner else n
    index = np.arange(-(reach // 4), reach - reach // 4)
    power = power[index % n]
    floor = _floor(power, n_averages) if noise_var is None else noise_var / n
    limit = floor * (1 + _THRESHOLD / math.sqrt(n_averages))
    paths = np.flatnonzero(power > limit)
    if paths.size == 0:
        paths = np.asarray([int(power.argmax())])
    delay_ns = index[paths] * (1e6 / (n * spacing * scs_khz))
    return DelayProfile(
        delay_ns.astype(np.float64), np.maximum(power[paths] - floor, 1e-30)
    ), float(floor * n)


def _spectrum(estimates: Array) -> tuple[npt.NDArray[np.float64], float]:
    """Mean power by delay bin, summing to the estimates' mean power, and the number of
    independent averages in it."""
    xp = array_module(estimates)
    n_pilots = estimates.shape[-1]
    # Segments overlap by half, whatever their number.
    n_segments = max(1, round(2 * n_pilots / _SEGMENT) - 1)
    n = 4 * (n_pilots // (2 * (n_segments + 1)))
    starts = np.linspace(0, n_pilots - n, n_segments).astype(int)
    window = _hann(n)
    total = xp.zeros(n, dtype=xp.float32)
    for start in starts:
        spectrum = xp.fft.ifft(estimates[..., start : start + n] * xp.asarray(window), axis=-1)
        total += (spectrum.real**2 + spectrum.imag**2).mean(axis=(0, 1, 2))
    scale = n / float(window.astype(np.float64) @ window) / n_segments
    n_rows = math.prod(estimates.shape[:-1])
    return to_host(total).astype(np.float64) * scale, n_rows * max(1.0, 0.9 * n_segments)


@lru_cache(maxsize=256)
def _hann(n: int) -> npt.NDArray[np.float32]:
    window = (0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(n) + 0.5) / n)).astype(np.float32)
    window.setflags(write=False)
    return window


def _floor(power: npt.NDArray[np.float64], n_averages: float) -> float:
    """Noise power of a bin, from the weaker half of the bins: a channel never fills all delays."""
    weaker = np.sort(power)[: max(1, power.size // 2)]
    return float(weaker.mean()) / _weaker_half(round(n_averages))


@lru_cache(maxsize=512)
def _weaker_half(n_averages: int) -> float:
    """Mean of the smaller half of values that average `n_averages` exponentials of mean 1."""
    sample = np.random.default_rng(1).gamma(n_averages, 1 / n_averages, 20_000)
    return float(np.sort(sample)[:10_000].mean())


def fit_flat(
    estimates: Array,
    spacing: int,
    scs_khz: int,
    has_partner: bool,
    window: DelayWindow,
    noise_var: float | None = None,
) -> tuple[float, float]:
    """Returns the power of a channel flat over `window` and the variance of its noise, as likely as
    possible: for allocations too narrow to see the profile.

    Along the eigenvectors of the prior correlation the estimates are independent, with variance
    power * eigenvalue + noise; the noise is searched on a logarithmic grid.

    Args:
        estimates: complex64[rx, layer, position, pilot].
        spacing: subcarriers from one estimate to the next.
        scs_khz: subcarrier spacing.
        has_partner: a second layer with the alternating cover is in the estimates.
        window: where paths are expected.
        noise_var: variance of the noise on an estimate, if it is known.
    """
    xp = array_module(estimates)
    if noise_var is not None:
        total = float((estimates.real**2 + estimates.imag**2).mean())
        return max(total - noise_var, 0.0) / (2 if has_partner else 1), noise_var
    eigenvalues, vectors = _prior(estimates.shape[-1], spacing, scs_khz, has_partner, window)
    along = estimates @ xp.asarray(vectors)
    seen = to_host((along.real**2 + along.imag**2).mean(axis=(0, 1, 2))).astype(np.float64)
    total = float(seen.mean())
    if not np.isfinite(total) or total <= 0:
        return 0.0, max(total, 0.0) if np.isfinite(total) else total
    noise = total * _NOISE_PARTS
    # The mean of the eigenvalues is 1, so power and noise add up to what was seen.
    variance = np.multiply.outer(total - noise, eigenvalues) + noise[:, None]
    best = int((np.log(variance) + seen / variance).sum(axis=1).argmin())
    power = (total - noise[best]) / (2 if has_partner else 1)
    return float(power), float(noise[best])


@lru_cache(maxsize=256)
def _prior(
    n: int, spacing: int, scs_khz: int, has_partner: bool, window: DelayWindow
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.complex64]]:
    """Eigenvalues (of mean 1) and conjugate eigenvectors of the pilots' correlation."""
    correlation = toeplitz(flat_profile(1.0, window).correlation(0.0, spacing, n, scs_khz))
    if has_partner:
        sign = 1 - 2 * (np.arange(n) % 2)
        correlation = 0.5 * correlation * (1 + np.multiply.outer(sign, sign))
    eigenvalues, vectors = np.linalg.eigh(correlation)
    return np.maximum(eigenvalues, 0.0), vectors.conj().astype(np.complex64)


def toeplitz(column: npt.NDArray[np.complex128]) -> npt.NDArray[np.complex128]:
    """Hermitian Toeplitz matrix with R(i - j) at [i, j] from R(0), R(1), ..."""
    n = column.size
    both = np.concatenate([column[:0:-1].conj(), column])
    index = np.arange(n)[:, None] - np.arange(n)[None, :] + n - 1
    matrix: npt.NDArray[np.complex128] = both[index]
    return matrix
