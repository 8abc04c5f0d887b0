"""The pseudo-random sequence (length-31 Gold sequence) and the scrambling built on it.

Spec: TS 38.211 5.2.1
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from phy.checks import check_integer

_DEGREE = 31
_DISCARDED = 1600
_X1_TAPS = (0, 3)
_X2_TAPS = (0, 1, 2, 3)


def sequence(c_init: int, n: int) -> npt.NDArray[np.uint8]:
    """Returns the first `n` bits c(0) .. c(n - 1) of the sequence: uint8[n], read-only.

    Raises:
        InvalidInputError: c_init is not below 2^31, or n is negative.

    Spec: TS 38.211 5.2.1
    """
    check_integer("c_init", c_init, 0, 2**31 - 1)
    check_integer("n", n, 0, 2**31)
    return _sequence(int(c_init), int(n))


@lru_cache(maxsize=64)
def _sequence(c_init: int, n: int) -> npt.NDArray[np.uint8]:
    bits = first_register(n) ^ second_register(c_init, n)
    bits.setflags(write=False)
    return bits


def first_register(n: int) -> npt.NDArray[np.uint8]:
    """Returns x_1(1600) to x_1(1600 + n - 1), the part that all sequences share: uint8[n]."""
    return _shift_register(1, _X1_TAPS, _DISCARDED + n)[_DISCARDED : _DISCARDED + n]


def second_register(c_init: int, n: int) -> npt.NDArray[np.uint8]:
    """Returns x_2(1600) to x_2(1600 + n - 1), linear in the bits of c_init: uint8[n]."""
    return _shift_register(c_init, _X2_TAPS, _DISCARDED + n)[_DISCARDED : _DISCARDED + n]


def _shift_register(start: int, taps: tuple[int, ...], n: int) -> npt.NDArray[np.uint8]:
    """x(i + 31) = sum of x(i + tap), in blocks that double.

    Over GF(2) a recurrence may be squared: x(i + 31 * 2^k) = sum of x(i + tap * 2^k). So once
    31 * 2^k bits are known, the next (31 - 3) * 2^k follow in one vector operation.
    """
    bits = np.zeros(max(n, _DEGREE), dtype=np.uint8)
    bits[:_DEGREE] = (start >> np.arange(_DEGREE)) & 1
    known = _DEGREE
    stride = 1
    while known < bits.size:
        while _DEGREE * stride * 2 <= known:
            stride *= 2
        base = known - _DEGREE * stride
        count = min((_DEGREE - taps[-1]) * stride, bits.size - known)
        block = bits[known : known + count]
        for tap in taps:
            at = base + tap * stride
            block ^= bits[at : at + count]
        known += count
    return bits


def pusch_c_init(rnti: int, n_id: int) -> int:
    """Returns c_init of PUSCH scrambling. Spec: TS 38.211 6.3.1.1"""
    return (rnti << 15) + n_id
