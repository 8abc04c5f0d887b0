"""Argument checks shared by the Layer 1 functions; every failure names the field."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from numbers import Real

from airan.core.errors import InvalidInputError
from phy.array import Array, array_module


def check_range(field: str, value: float, low: float, high: float) -> None:
    """Raises InvalidInputError naming `field` unless low <= value <= high (NaN fails)."""
    if not low <= value <= high:
        raise InvalidInputError(field, f"must lie in [{low}, {high}], got {value}")


def check_variance(field: str, value: object) -> None:
    """Raises InvalidInputError naming `field` unless `value` is a finite number, not negative."""
    if not isinstance(value, Real) or not 0 <= float(value) < math.inf:
        raise InvalidInputError(field, f"must be a finite number, not negative, got {value!r}")


def check_integer(field: str, value: object, low: int, high: int) -> None:
    """Raises InvalidInputError naming `field` unless `value` is an int in [low, high]."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise InvalidInputError(field, f"must be an integer, got {value!r}")
    check_range(field, value.__index__(), low, high)


def check_integers(field: str, values: object) -> tuple[int, ...]:
    """Returns `values` as a tuple of ints.

    Raises:
        InvalidInputError: no sequence, or not of integers.
    """
    if not isinstance(values, Iterable):
        raise InvalidInputError(field, f"must be a tuple of integers, got {values!r}")
    for value in values:
        check_integer(field, value, -(1 << 63), (1 << 63) - 1)
    return tuple(int(value) for value in values)


def check_choice(field: str, value: object, choices: Collection[object]) -> None:
    """Raises InvalidInputError naming `field` unless `value` is one of `choices`."""
    if value not in tuple(choices):
        raise InvalidInputError(field, f"must be one of {sorted(map(str, choices))}, got {value!r}")


def check_bits(field: str, bits: Array) -> None:
    """Raises InvalidInputError naming `field` unless `bits` is uint8[..., n] of zeros and ones."""
    if getattr(bits, "dtype", None) != "uint8":
        kind = getattr(bits, "dtype", type(bits).__name__)
        raise InvalidInputError(field, f"must be an array of dtype uint8, got {kind}")
    if bits.ndim == 0 or bits.shape[-1] == 0:
        raise InvalidInputError(field, f"must hold at least one bit, got shape {bits.shape}")
    if bits.size and int(bits.max()) > 1:
        raise InvalidInputError(field, "must hold only 0 and 1")


def check_llr(field: str, llr: Array) -> Array:
    """Returns `llr` as float32[..., n].

    Raises:
        InvalidInputError: no real floating-point array, or empty.
    """
    if getattr(getattr(llr, "dtype", None), "kind", None) != "f":
        kind = getattr(llr, "dtype", type(llr).__name__)
        raise InvalidInputError(field, f"must be an array of real floats, got {kind}")
    if llr.ndim == 0 or llr.size == 0:
        raise InvalidInputError(field, f"must not be empty, got shape {llr.shape}")
    xp = array_module(llr)
    return llr.astype(xp.float32, copy=False)
