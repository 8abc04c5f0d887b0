"""Linear equalisers in noise of unit variance: zero forcing and unbiased MMSE.

Noise of another colour is whitened before (phy/receiver/covariance.py), which makes the MMSE
equaliser an MMSE-IRC one. All loops run over layers and antennas; the resource elements are the
last axis of every array operation.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np

from phy.array import Array, array_module

Method: TypeAlias = Literal["mmse", "zf"]

# Keeps a dead channel from dividing by zero; far below any signal's power.
_LEAST_GAIN = np.float32(1.0e-20)
_LARGEST_ERROR = np.float32(1.0 - 1.0e-6)


def equalise(received: Array, channel: Array, method: Method = "mmse") -> tuple[Array, Array]:
    """Separates the layers.

    MMSE symbols are divided by their bias, so that the constellation is met in the mean and the
    LLRs are scaled right.

    Args:
        received: complex64[rx, n], noise of variance 1, uncorrelated between antennas.
        channel: complex64[rx, layer, n].
        method: "mmse" or "zf".

    Returns:
        complex64[layer, n] symbols, and float32[layer, n], the variance of noise and interference
        between layers on each.
    """
    if channel.shape[1] == 1:
        return _combine(received, channel[:, 0])
    inverse = _invert(_gram(channel, method))
    matched = [_inner(channel[:, layer], received) for layer in range(channel.shape[1])]
    return _unbiased(*inverse, matched, method)


def _combine(received: Array, channel: Array) -> tuple[Array, Array]:
    """Maximum-ratio combining, to which both equalisers come down with one layer."""
    xp = array_module(received)
    gain = (channel.real**2 + channel.imag**2).sum(axis=0)
    inverse = 1 / xp.maximum(gain, _LEAST_GAIN)
    return (_inner(channel, received) * inverse)[None], inverse[None].astype(xp.float32)


def _inner(left: Array, right: Array) -> Array:
    """Sum over the antennas of conj(left) * right: [rx, n] -> [n]."""
    total = left[0].conj() * right[0]
    for antenna in range(1, left.shape[0]):
        total += left[antenna].conj() * right[antenna]
    return total


def _gram(channel: Array, method: Method) -> list[list[Array]]:
    """H^H H (+ I for MMSE): lower triangle by rows, the diagonal real."""
    xp = array_module(channel)
    load = np.float32(1.0) if method == "mmse" else _LEAST_GAIN
    rows: list[list[Array]] = []
    for i in range(channel.shape[1]):
        row = [_inner(channel[:, i], channel[:, j]) for j in range(i)]
        own = channel[:, i]
        row.append((own.real**2 + own.imag**2).sum(axis=0) + load)
        rows.append(row)
    # No column may be so close to the others' span that rounding makes a pivot negative.
    for i, row in enumerate(rows):
        row[i] = xp.maximum(row[i], _LEAST_GAIN)
    return rows


def _invert(gram: list[list[Array]]) -> tuple[list[list[Array]], list[Array]]:
    """G = L D L^H with unit lower L. Returns the rows of M = L^-1 below its diagonal, and 1 / D."""
    xp = array_module(gram[0][0])
    n = len(gram)
    lower: list[list[Array]] = []
    inverse_d: list[Array] = []
    scaled: list[list[Array]] = []  # L D
    for i in range(n):
        row: list[Array] = []
        row_scaled: list[Array] = []
        for j in range(i):
            value = gram[i][j]
            for k in range(j):
                value = value - row_scaled[k] * lower[j][k].conj()
            row_scaled.append(value)
            row.append(value * inverse_d[j])
        pivot = gram[i][i]
        for k in range(i):
            pivot = pivot - (row_scaled[k] * row[k].conj()).real
        floor = xp.maximum(np.float32(1e-6) * gram[i][i], _LEAST_GAIN)
        inverse_d.append(1 / xp.maximum(pivot, floor))
        lower.append(row)
        scaled.append(row_scaled)
    inverse: list[list[Array]] = []
    for i in range(n):
        row = []
        for j in range(i):
            value = -lower[i][j]
            for k in range(j + 1, i):
                value = value - lower[i][k] * inverse[k][j]
            row.append(value)
        inverse.append(row)
    return inverse, inverse_d


def _unbiased(
    inverse: list[list[Array]], inverse_d: list[Array], matched: list[Array], method: Method
) -> tuple[Array, Array]:
    """x = M^H D^-1 M b and diag(M^H D^-1 M), without their bias."""
    xp = array_module(matched[0])
    n, size = len(matched), matched[0].shape[-1]
    symbols = xp.empty((n, size), dtype=xp.complex64)
    noise = xp.empty((n, size), dtype=xp.float32)
    rotated = []
    for i in range(n):
        value = matched[i]
        for j in range(i):
            value = value + inverse[i][j] * matched[j]
        rotated.append(value * inverse_d[i])
    for i in range(n):
        value, error = rotated[i], inverse_d[i]
        for k in range(i + 1, n):
            entry = inverse[k][i]
            value = value + entry.conj() * rotated[k]
            error = error + (entry.real**2 + entry.imag**2) * inverse_d[k]
        if method == "mmse":
            error = xp.minimum(error, _LARGEST_ERROR)
            unbias = 1 / (1 - error)
            symbols[i], noise[i] = value * unbias, error * unbias
        else:
            symbols[i], noise[i] = value, error
    return symbols, noise
