"""Modulation mapping and soft demapping, max-log and exact.

Spec: TS 38.211 5.1 (pi/2-BPSK, BPSK, QPSK, 16QAM, 64QAM, 256QAM)
"""

from __future__ import annotations

import math
from functools import lru_cache, reduce
from typing import Literal

import numpy as np
import numpy.typing as npt

from airan.core.errors import InvalidInputError
from phy.array import Array, array_module
from phy.checks import check_bits, check_choice
from phy.jit import kernel_input, kernels

ORDERS = (1, 2, 4, 6, 8)

Method = Literal["max_log", "exact"]
METHODS = ("max_log", "exact")

# A noise variance below this is taken as this, so that a noiseless grid has finite LLRs.
_LEAST_NOISE_VAR = 1.0e-10

_NO_BITS = np.zeros(0, dtype=np.uint8)


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


def map(bits: Array, order: int, *, pi2: bool = False) -> Array:
    """Maps bits to symbols of mean power 1.

    Args:
        bits: uint8[..., n], n a multiple of `order`.
        order: Q_m, bits a symbol, 1 (BPSK), 2, 4, 6 or 8.
        pi2: pi/2-BPSK instead of BPSK: every second symbol of the last axis, counted from its
            first as symbol 0, is turned by a quarter. Order 1 only.

    Returns:
        complex64[..., n / order].

    Raises:
        InvalidInputError: wrong dtype, values, length or order.

    Spec: TS 38.211 5.1.1 (pi/2-BPSK), 5.1.2 to 5.1.6
    """
    _check_order(order, pi2)
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
    symbols = xp.asarray(_points(order))[label]
    if pi2:
        symbols[..., 1::2] *= np.complex64(1j)
    return symbols


def demap(
    symbols: Array,
    noise_var: float | Array,
    order: int,
    *,
    method: Method = "max_log",
    pi2: bool = False,
    scrambling: Array | None = None,
) -> Array:
    """Computes LLRs.

    Args:
        symbols: complex[..., n], equalised to the constellation of mean power 1.
        noise_var: variance of the complex noise on the symbols, one value or float[..., n].
        order: Q_m, 1, 2, 4, 6 or 8.
        method: "max_log" takes the nearest point for each value of a bit, "exact" sums over all.
        pi2: the symbols are pi/2-BPSK, the first of the last axis is symbol 0. Order 1 only.
        scrambling: uint8[..., n * order], the scrambling sequence to take off; None for none.

    Returns:
        float32[..., n * order], log P(0)/P(1), positive means bit 0. A symbol or variance that is
        NaN gives NaN.

    Raises:
        InvalidInputError: no complex array, wrong order or method, or shapes that do not fit.

    Spec: TS 38.211 5.1 (the labels), 6.3.1.1 and 7.3.1.1 (scrambling)
    """
    _check_order(order, pi2)
    check_choice("method", method, METHODS)
    if getattr(getattr(symbols, "dtype", None), "kind", None) != "c":
        kind = getattr(symbols, "dtype", type(symbols).__name__)
        raise InvalidInputError("symbols", f"must be an array of complex numbers, got {kind}")
    if symbols.ndim == 0:
        raise InvalidInputError("symbols", "must have at least one axis")
    xp = array_module(symbols)
    if pi2:
        odd = xp.arange(symbols.shape[-1]) % 2 == 1
        symbols = symbols * xp.where(odd, np.complex64(-1j), np.complex64(1))
    symbols = symbols.astype(xp.complex64, copy=False)
    noise_var = _noise_for(symbols, noise_var)
    shape = (*symbols.shape[:-1], symbols.shape[-1] * order)
    if scrambling is not None:
        check_bits("scrambling", scrambling)
        if scrambling.shape != shape:
            raise InvalidInputError("scrambling", f"must have shape {list(shape)}")
    if order > 1 and method == "max_log" and xp is np:
        return _kernel_max_log(symbols, noise_var, order, scrambling).reshape(shape)
    llr = _array_llr(symbols, noise_var, order, method)
    if scrambling is not None:
        llr *= 1 - 2 * scrambling.astype(xp.float32)
    return llr


def _check_order(order: int, pi2: bool) -> None:
    check_choice("order", order, ORDERS)
    if pi2 and order != 1:
        raise InvalidInputError("pi2", f"goes with order 1 alone, got order {order}")


def _noise_for(symbols: Array, noise_var: float | Array) -> Array:
    """Returns the noise variances as float32, one for every symbol."""
    xp = array_module(symbols)
    noise_var = xp.maximum(xp.asarray(noise_var, dtype=xp.float32), np.float32(_LEAST_NOISE_VAR))
    try:
        return xp.broadcast_to(noise_var, symbols.shape)
    except ValueError:
        raise InvalidInputError(
            "noise_var", f"must be one value or have shape {symbols.shape}, got {noise_var.shape}"
        ) from None


def _kernel_max_log(
    symbols: Array, noise_var: Array, order: int, scrambling: Array | None
) -> npt.NDArray[np.float32]:
    """The CPU's own way to the max-log LLRs: float32[n * order], all axes run together."""
    least = np.float32(np.abs(_levels(order)).min())
    llr = np.empty(symbols.size * order, dtype=np.float32)
    kernels("phy.nr.modulation_kernel").max_log(
        kernel_input(symbols).reshape(-1).view(np.float32),
        (4 * least * least / noise_var).reshape(-1),
        1 / least,
        np.uint64(order // 2),
        _NO_BITS if scrambling is None else kernel_input(scrambling).reshape(-1),
        llr,
    )
    return llr


def _array_llr(symbols: Array, noise_var: Array, order: int, method: Method) -> Array:
    """The general way to the LLRs, for any array module: float32[..., n * order]."""
    xp = array_module(symbols)
    if order == 1:
        # Two points alone: the sum over each bit value has one term, so max-log is exact.
        return (symbols.real + symbols.imag) * np.float32(4 / math.sqrt(2)) / noise_var
    llr = xp.empty((*symbols.shape, order), dtype=xp.float32)
    least = _nearest if method == "max_log" else _soft_nearest
    for dimension, value in enumerate((symbols.real, symbols.imag)):
        for bit, (zeros, ones) in enumerate(_distances_by_bit(value, noise_var, order)):
            llr[..., 2 * bit + dimension] = least(ones) - least(zeros)
    return llr.reshape(*symbols.shape[:-1], -1)


def _distances_by_bit(
    value: Array, noise_var: Array, order: int
) -> list[tuple[list[Array], list[Array]]]:
    """For every bit of one dimension, the squared distances over the noise variance to the levels
    that have it 0, and to those that have it 1."""
    # |value - level|^2 without value^2, which all levels share.
    distance = [(level * level - (2 * level) * value) / noise_var for level in _levels(order)]
    n_bits = order // 2
    masks = [1 << (n_bits - 1 - bit) for bit in range(n_bits)]
    return [
        (
            [d for label, d in enumerate(distance) if not label & mask],
            [d for label, d in enumerate(distance) if label & mask],
        )
        for mask in masks
    ]


def _nearest(distance: list[Array]) -> Array:
    return reduce(array_module(*distance).minimum, distance)


def _soft_nearest(distance: list[Array]) -> Array:
    """-log(sum(exp(-distance))), without ever an exponential above 1."""
    xp = array_module(*distance)
    nearest = _nearest(distance)
    return nearest - xp.log(sum(xp.exp(nearest - d) for d in distance))
