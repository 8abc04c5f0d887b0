"""Covariance of noise and interference over the antennas, and whitening by it.

The covariance is that of what the DM-RS leaves unexplained, subband by subband: a base station's
neighbour cells are as frequency-selective as its own UEs.
"""

from __future__ import annotations

import numpy as np

from phy.array import Array, array_module

SUBBAND_PRBS = 8


def estimate(residuals: list[Array], n_subbands: int) -> Array:
    """Returns the covariance of each subband: complex64[subband, rx, rx].

    A little of the mean power is added to the diagonal, as much as the sample covariance is off by
    for the number of samples it has.

    Args:
        residuals: complex64[rx, symbol, pilot] each, over the same subcarriers; their own scale of
            noise is that of a resource element.
        n_subbands: subbands of equal width, within a pilot.
    """
    xp = array_module(residuals[0])
    n_rx = residuals[0].shape[0]
    covariance = xp.zeros((n_subbands, n_rx, n_rx), dtype=xp.complex64)
    for subband in range(n_subbands):
        n_samples = 0
        for residual in residuals:
            n_pilots = residual.shape[-1]
            first = subband * n_pilots // n_subbands
            last = (subband + 1) * n_pilots // n_subbands
            part = residual[..., first:last].reshape(n_rx, -1)
            covariance[subband] += part @ part.conj().T
            n_samples += part.shape[1]
        covariance[subband] /= n_samples
        mean = xp.trace(covariance[subband]).real / n_rx
        load = mean * np.float32(n_rx / n_samples) + np.float32(1e-30)
        covariance[subband] += load * xp.eye(n_rx, dtype=xp.complex64)
    return covariance


def whitener(covariance: Array) -> Array:
    """Returns L^-1 of each R = L L^H: complex64[subband, rx, rx]."""
    xp = array_module(covariance)
    return xp.linalg.inv(xp.linalg.cholesky(covariance)).astype(xp.complex64)


def whiten(values: Array, weights: Array) -> Array:
    """Applies each subband's whitening matrix.

    Args:
        values: complex64[rx, ..., subcarrier].
        weights: complex64[subband, rx, rx].

    Returns:
        complex64 of the same shape.
    """
    xp = array_module(values)
    out = xp.empty_like(values)
    n_subbands, n_rx = weights.shape[:2]
    n_subcarriers = values.shape[-1]
    for subband in range(n_subbands):
        first = subband * n_subcarriers // n_subbands
        last = (subband + 1) * n_subcarriers // n_subbands
        part = values[..., first:last]
        out[..., first:last] = (weights[subband] @ part.reshape(n_rx, -1)).reshape(part.shape)
    return out
