"""Equalisation: maximum-ratio combining, which is MMSE for one layer in white noise."""

from __future__ import annotations

from phy.array import Array, array_module

# Keeps a dead channel from dividing by zero; far below any signal's power.
_LEAST_GAIN = 1.0e-20


def combine(received: Array, channel: Array, noise_var: float) -> tuple[Array, Array]:
    """Combines the antennas' samples into unbiased symbols.

    The MMSE weights h* / (|h|^2 + noise) with their bias taken off are h* / |h|^2, so that the
    constellation is met in the mean and the LLRs are scaled right.

    Args:
        received: complex64[rx, n].
        channel: complex64[rx, n].
        noise_var: variance of the complex noise on each antenna.

    Returns:
        complex64[n] symbols, and float32[n], the variance of the noise on each.
    """
    xp = array_module(received)
    gain = (channel.real**2 + channel.imag**2).sum(axis=0)
    gain = xp.maximum(gain, xp.float32(_LEAST_GAIN))
    symbols = (channel.conj() * received).sum(axis=0) / gain
    return symbols, (noise_var / gain).astype(xp.float32)
