"""The max-log demapper's CPU kernel. Imported only through phy.jit, because it imports Numba.

One dimension of a square QAM is a PAM with levels +-1, +-3, ... +-(2^m - 1), labelled so that it
folds. The first bit is the sign: against the nearest level of the other sign, -1, the level 2k - 1
scores 4 (k |x| - k (k - 1)), and the nearest level scores most. The other bits see only |x|, and
2^(m - 1) - |x| is a PAM with one bit less.

Symbols are taken in short runs, so that every step is a vector loop over values in the L1 cache.
"""

# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

f32 = np.float32
u64 = np.uint64

RUN = 256


@njit(nogil=True, cache=True)
def max_log(parts: Any, gain: Any, unit: Any, n_bits: Any, scrambling: Any, llr: Any) -> None:
    """Fills float32 llr[n * 2 * n_bits] from float32 parts[2 n], real and imaginary in turn.

    `unit` is the inverse of the smallest level, `gain` float32[n] four times the LLR of a score
    of 1, `n_bits` (m above) the bits of one dimension, and `scrambling` the uint8 sequence to take
    off, empty for none.
    """
    folded = np.empty(RUN, f32)
    score = np.empty(RUN, f32)
    n = u64(gain.size)
    for first in range(u64(0), n, u64(RUN)):
        count = min(u64(RUN), n - first)
        for dimension in range(u64(2)):
            for i in range(count):
                folded[i] = parts[u64(2) * (first + i) + dimension] * unit
            at = first * u64(2) * n_bits + dimension
            for bit in range(n_bits):
                n_levels = u64(1) << (n_bits - u64(1) - bit)
                _score(folded, n_levels, score, count)
                for i in range(count):
                    llr[at + i * u64(2) * n_bits] = score[i] * gain[first + i]
                for i in range(count):
                    folded[i] = f32(n_levels) - abs(folded[i])
                at += u64(2)
        if scrambling.size > 0:
            for i in range(first * u64(2) * n_bits, (first + count) * u64(2) * n_bits):
                llr[i] = -llr[i] if scrambling[i] else llr[i]


@njit(nogil=True, cache=True)
def _score(value: Any, n_levels: Any, score: Any, count: Any) -> None:
    """A quarter of the first bit's score, signed; NaN stays NaN."""
    for i in range(count):
        score[i] = abs(value[i])
    for k in range(u64(2), n_levels + u64(1)):
        slope, offset = f32(k), f32(k * (k - u64(1)))
        for i in range(count):
            line = slope * abs(value[i]) - offset
            score[i] = line if line > score[i] else score[i]
    for i in range(count):
        score[i] = -score[i] if value[i] < f32(0) else score[i]
