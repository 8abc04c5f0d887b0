"""Cyclic redundancy checks.

Spec: TS 38.212 5.1. Bits are uint8, most significant (first transmitted) bit first; batch axes
come first. The register starts at zero and is not inverted.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from airan.core.errors import InvalidInputError
from phy.array import Array, array_module
from phy.checks import check_bits, check_choice
from phy.jit import kernels

Poly = Literal["24A", "24B", "24C", "16", "11", "6"]

# Generator polynomials without their leading term, and their degree.
_POLYNOMIALS: dict[str, tuple[int, int]] = {
    "24A": (0x864CFB, 24),
    "24B": (0x800063, 24),
    "24C": (0xB2B117, 24),
    "16": (0x1021, 16),
    "11": (0x621, 11),
    "6": (0x21, 6),
}


def length(poly: Poly) -> int:
    """Returns the number of parity bits of `poly`.

    Raises:
        InvalidInputError: unknown polynomial.
    """
    check_choice("poly", poly, _POLYNOMIALS)
    return _POLYNOMIALS[poly][1]


def parity(bits: Array, poly: Poly) -> Array:
    """Computes the parity bits of `bits`.

    Args:
        bits: uint8[..., n], zeros and ones.
        poly: "24A", "24B", "24C", "16", "11" or "6".

    Returns:
        uint8[..., length(poly)].

    Raises:
        InvalidInputError: unknown polynomial, wrong dtype, values other than 0 and 1, no bits.

    Spec: TS 38.212 5.1
    """
    n_parity = length(poly)
    check_bits("bits", bits)
    xp = array_module(bits)
    register = (_kernel_register if xp is np else _array_register)(bits, poly)
    shifts = xp.arange(n_parity, dtype=xp.uint32)[::-1]
    return ((register[..., None] >> shifts) & 1).astype(xp.uint8)


def _array_register(bits: Array, poly: Poly) -> Array:
    """The general way to the remainders, for any array module: uint32[...]."""
    xp = array_module(bits)
    n_bits = bits.shape[-1]
    table = xp.asarray(_remainders(poly, _table_size(n_bits))[n_bits - 1 :: -1])
    terms = bits * table
    while terms.shape[-1] > 1:  # CuPy has no reduction by exclusive or
        half = terms.shape[-1] // 2
        folded = terms[..., :half] ^ terms[..., half : 2 * half]
        terms = xp.concatenate([folded, terms[..., 2 * half :]], axis=-1)
    return terms[..., 0]


def _kernel_register(bits: npt.NDArray[np.uint8], poly: Poly) -> npt.NDArray[np.uint32]:
    """The CPU's own way, a byte at a time: uint32[...]."""
    rows = bits.reshape(-1, bits.shape[-1])
    n_missing = -rows.shape[1] % 8
    if n_missing:
        # Zeros in front do not change a remainder.
        rows = np.concatenate([np.zeros((rows.shape[0], n_missing), np.uint8), rows], axis=1)
    remainders = np.empty(rows.shape[0], dtype=np.uint32)
    kernels("phy.nr.sch_kernel").crc_remainders(
        np.packbits(rows, axis=1), _byte_table(poly), remainders
    )
    return (remainders >> np.uint32(32 - length(poly))).reshape(bits.shape[:-1])


@lru_cache(maxsize=6)
def _byte_table(poly: Poly) -> npt.NDArray[np.uint32]:
    """Remainders of all bytes, in the highest bits: uint32[256]."""
    degree = length(poly)
    # Remainders of a byte's bits, the last bit first.
    powers = _remainders(poly, 8) << np.uint32(32 - degree)
    labels = np.arange(256)
    table = np.zeros(256, dtype=np.uint32)
    for bit in range(8):
        table ^= np.where((labels >> bit) & 1, powers[bit], np.uint32(0))
    return table


def append(bits: Array, poly: Poly) -> Array:
    """Returns `bits` followed by their parity bits: uint8[..., n] -> uint8[..., n + L].

    Raises:
        InvalidInputError: unknown polynomial, wrong dtype, values other than 0 and 1, no bits.

    Spec: TS 38.212 5.1
    """
    xp = array_module(bits)
    return xp.concatenate([bits, parity(bits, poly)], axis=-1)


def check(bits: Array, poly: Poly) -> Array:
    """Tells whether the last L bits are the parity of those before: uint8[..., n] -> bool[...].

    An all-zero block passes: callers that may be handed silence must look for it themselves.

    Raises:
        InvalidInputError: unknown polynomial, wrong dtype, values other than 0 and 1, or no bits
            besides the parity.

    Spec: TS 38.212 5.1
    """
    n_parity = length(poly)
    check_bits("bits", bits)
    if bits.shape[-1] <= n_parity:
        raise InvalidInputError(
            "bits", f"must be longer than the {n_parity} parity bits, got {bits.shape[-1]}"
        )
    return (parity(bits[..., :-n_parity], poly) == bits[..., -n_parity:]).all(axis=-1)


def _table_size(n_bits: int) -> int:
    # Powers of two keep the cache small, whatever lengths are asked for.
    return 1 << max(n_bits - 1, 1).bit_length()


@lru_cache(maxsize=64)
def _remainders(poly: str, n_powers: int) -> npt.NDArray[np.uint32]:
    """x^(L + i) mod g for i = 0 .. n_powers - 1, built by doubling: uint32[n_powers]."""
    generator, degree = _POLYNOMIALS[poly]
    powers = [generator]
    for _ in range(degree - 1):
        powers.append(_times_x(powers[-1], generator, degree))
    table = np.array(powers, dtype=np.uint32)
    while table.size < n_powers:
        # x^(L + m + j) = x^(L + j) * x^m; each bit b of the known x^(L + j) adds one x^(m + b),
        # and those are the last L entries so far.
        shifted = table[-degree:]
        product = np.zeros_like(table)
        for bit in range(degree):
            product ^= ((table >> np.uint32(bit)) & np.uint32(1)) * shifted[bit]
        table = np.concatenate([table, product])
    table = table[:n_powers]
    table.setflags(write=False)
    return table


def _times_x(value: int, generator: int, degree: int) -> int:
    value <<= 1
    return (value & ((1 << degree) - 1)) ^ generator if value >> degree else value
