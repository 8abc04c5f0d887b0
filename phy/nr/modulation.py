"""Modulation mapping and max-log demapping.

Spec: TS 38.211 5.1 (BPSK, QPSK, 16QAM, 64QAM, 256QAM)
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from airan.core.errors import InvalidInputError
from phy.array import Array, array_module
from phy.checks import check_bits, check_choice

ORDERS = (1, 2, 4, 6, 8)

# A noise variance below this is taken as this, so that a noiseless grid has finite LLRs.
_LEAST_NOISE_VAR = 1.0e-10


@lru_cache(maxsize=5)
def _levels(order: int) -> npt.NDArray[np.float32]:
    """Amplitude of one dimension by its label (first bit most significant): float32[2^(Q_m / 2)].

    Spec: TS 38.211 5.1.3 to 5.1.6: (1-2b0)[4-(1-2b2)[2-(1-2b4)]] and its likes.
    """
    n_bits = order // 2
    labels = np.arange(2**n_bits)
    amplitude = np.ones(labels.size)
    for bit in range(n_bits):
        sign = 1 - 2 * ((labels >> bit) & 1)
        # From the innermost bracket (the last bit) outwards.
        amplitude = sign * (amplitude if bit == 0 else 2**bit - amplitude)
    power = 2 * np.mean(amplitude**2)
    levels = (amplitude / math.sqrt(power)).astype(np.float32)
    levels.setflags(write=False)
    return levels


@lru_cache(maxsize=5)
def _points(order: int) -> npt.NDArray[np.complex64]:
    """Constellation by label, first bit most significant: complex64[2^Q_m]."""
    if order == 1:
        points = np.array([1 + 1j, -1 - 1j], dtype=np.complex64) / np.float32(math.sqrt(2))
    else:
        labels = np.arange(2**order)
        in_phase = np.zeros_like(labels)
        quadrature = np.zeros_like(labels)
        for bit in range(order // 2):
            shift = order - 1 - 2 * bit
            in_phase = 2 * in_phase + ((labels >> shift) & 1)
            quadrature = 2 * quadrature + ((labels >> (shift - 1)) & 1)
        levels = _levels(order)
        points = levels[in_phase] + 1j * levels[quadrature]
    points = points.astype(np.complex64)
    points.setflags(write=False)
    return points


def map(bits: Array, order: int) -> Array:
    """Maps bits to symbols of mean power 1.

    Args:
        bits: uint8[..., n], n a multiple of `order`.
        order: Q_m, bits a symbol, 1 (BPSK), 2, 4, 6 or 8.

    Returns:
        complex64[..., n / order].

    Raises:
        InvalidInputError: wrong dtype, values, length or order.

    Spec: TS 38.211 5.1.2 to 5.1.6
    """
    check_choice("order", order, ORDERS)
    check_bits("bits", bits)
    if bits.shape[-1] % order:
        raise InvalidInputError(
            "bits", f"must be a multiple of {order} bits long, got {bits.shape[-1]}"
        )
    xp = array_module(bits)
    groups = bits.reshape(*bits.shape[:-1], -1, order)
    label = groups[..., 0]
    for bit in range(1, order):
        label = (label << 1) | groups[..., bit]
    return xp.asarray(_points(order))[label]


def demap(symbols: Array, noise_var: float | Array, order: int) -> Array:
    """Computes max-log LLRs.

    Args:
        symbols: complex[..., n], equalised to the constellation of mean power 1.
        noise_var: variance of the complex noise on the symbols, one value or float[..., n].
        order: Q_m, 1, 2, 4, 6 or 8.

    Returns:
        float32[..., n * order], log P(0)/P(1), positive means bit 0.

    Raises:
        InvalidInputError: no complex array, or wrong order.
    """
    check_choice("order", order, ORDERS)
    if getattr(getattr(symbols, "dtype", None), "kind", None) != "c":
        kind = getattr(symbols, "dtype", type(symbols).__name__)
        raise InvalidInputError("symbols", f"must be an array of complex numbers, got {kind}")
    xp = array_module(symbols)
    noise_var = xp.maximum(xp.asarray(noise_var, dtype=xp.float32), _LEAST_NOISE_VAR)
    if order == 1:
        llr = (symbols.real + symbols.imag) * np.float32(4 / math.sqrt(2)) / noise_var
        return llr.astype(xp.float32)
    llr = xp.empty((*symbols.shape, order), dtype=xp.float32)
    for dimension, value in enumerate((symbols.real, symbols.imag)):
        for bit, difference in enumerate(_bit_metrics(value.astype(xp.float32), order)):
            llr[..., 2 * bit + dimension] = difference / noise_var
    return llr.reshape(*symbols.shape[:-1], -1)


def _bit_metrics(value: Array, order: int) -> list[Array]:
    """Squared distance to the nearest level with bit 1 less that to the nearest with bit 0."""
    xp = array_module(value)
    levels = _levels(order)
    # |value - level|^2 without value^2, which all levels share.
    distance = [level * level - (2 * level) * value for level in levels]
    metrics = []
    n_bits = order // 2
    for bit in range(n_bits):
        mask = 1 << (n_bits - 1 - bit)
        nearest: list[Array] = [None, None]
        for label, d in enumerate(distance):
            side = int(bool(label & mask))
            nearest[side] = d if nearest[side] is None else xp.minimum(nearest[side], d)
        metrics.append(nearest[1] - nearest[0])
    return metrics
