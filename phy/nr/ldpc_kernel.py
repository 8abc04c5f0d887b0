"""The LDPC decoder's CPU kernel. Imported only through phy.jit, because it imports Numba.

All inner loops run over the Z checks of a base-graph row, contiguous in 16-bit integers, so the
compiler turns them into vector instructions. No value can overflow: a channel value is at most
2047, a check message at most 1023, and no column has more than 30 checks (2047 + 30 * 1023 < 2^15).

Arrays are flat and parts of them are given by unsigned offsets: a slice object costs as much as
the loop over it, and a signed index would be checked for being negative at every step. Every
intermediate value is cut back to 16 bits, and choices are made with masks: Numba widens integer
arithmetic to 64 bits, and only so does the compiler keep sixteen lanes to a register.

Numba infers the types itself; what an argument is, the docstrings say.
"""

# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

i16 = np.int16
u64 = np.uint64

CHANNEL_LIMIT = np.float32(2047.0)
MESSAGE_LIMIT = np.int16(1023)
# The mean absolute LLR of a block becomes this; small against the limits, large against rounding.
MEAN_LEVEL = 64.0
# LLRs from here on are fillers or certainty, and are left out of the mean.
CERTAIN_LLR = 5.0e3
MAX_ROW_WEIGHT = 32


@njit(nogil=True, cache=True)
def decode_blocks(
    llr: Any,
    z: Any,
    graph: Any,
    n_iterations: Any,
    norm_32: Any,
    bits: Any,
    parity_ok: Any,
    iterations: Any,
) -> None:
    """Decodes float32 llr[cb, N] one block after the other; fills bits, parity_ok, iterations.

    `graph` is (n_info_columns, n_core_rows, row_start, column, shift), the last three uint64.
    """
    n_info_columns, n_core_rows, row_start, column, shift = graph
    n_rows = row_start.size - 1
    total = np.empty((n_info_columns + n_rows) * z, i16)
    work = (
        np.empty(column.size * z, i16),  # messages, by edge
        np.empty(MAX_ROW_WEIGHT * z, i16),  # what the edges of a row receive from elsewhere
        np.empty(z, i16),
        np.empty(z, i16),
        np.empty(z, i16),
        np.empty(z, i16),
        np.empty(z, i16),
    )
    rows = np.empty(n_rows, u64)
    for block in range(llr.shape[0]):
        clean = _quantise(llr[block], total, 2 * z)
        n_active = _active_rows(total, z, n_info_columns, n_core_rows, rows)
        work[0][:] = 0
        done = False
        count = 0
        while count < n_iterations and not done:
            count += 1
            for index in range(n_active):
                first, last = row_start[rows[index]], row_start[rows[index] + u64(1)]
                _update_row(total, work, u64(z), first, last, column, shift, i16(norm_32))
            done = _all_checks_hold(total, work, u64(z), rows[:n_active], row_start, column, shift)
        parity_ok[block] = done and clean
        iterations[block] = count
        for i in range(bits.shape[1]):
            bits[block, i] = total[i] < 0


@njit(nogil=True, cache=True)
def _quantise(llr: Any, total: Any, n_punctured: Any) -> bool:
    """Scales and rounds one block's LLRs into total[n_punctured:]; False if one of them is NaN."""
    level = 0.0
    n_used = 0
    clean = True
    for i in range(llr.size):
        magnitude = abs(llr[i])
        if magnitude < CERTAIN_LLR and magnitude > 0.0:
            level += magnitude
            n_used += 1
        if np.isnan(llr[i]):
            clean = False
    scale = np.float32(MEAN_LEVEL * n_used / level) if level > 0.0 else np.float32(1.0)
    total[:n_punctured] = 0
    for i in range(llr.size):
        value = llr[i] * scale
        value = min(max(value, -CHANNEL_LIMIT), CHANNEL_LIMIT)
        value = value + np.float32(0.5) if value >= 0 else value - np.float32(0.5)
        total[n_punctured + i] = i16(value) if value == value else i16(0)
    return clean


@njit(nogil=True, cache=True)
def _active_rows(total: Any, z: Any, n_info_columns: Any, n_core_rows: Any, rows: Any) -> int:
    """Lists the rows worth visiting: an extension row whose own parity bits were not received
    says nothing about the others."""
    n_active = 0
    for row in range(rows.size):
        received = row < n_core_rows
        start = (n_info_columns + row) * z
        for i in range(start, start + z):
            if received:
                break
            received = total[i] != 0
        if received:
            rows[n_active] = row
            n_active += 1
    return n_active


@njit(nogil=True, cache=True)
def _update_row(
    total: Any, work: Any, z: Any, first: Any, last: Any, column: Any, shift: Any, norm_32: Any
) -> None:
    """One layer: takes the old messages of the row out of the totals, puts the new ones in."""
    messages, extrinsic, smallest, second, sign, scaled, scaled_second = work
    smallest[:] = MESSAGE_LIMIT
    second[:] = MESSAGE_LIMIT
    sign[:] = 0
    for edge in range(first, last):
        start, s = column[edge] * z, shift[edge]
        own, old = (edge - first) * z, edge * z
        _subtract(total, start + s, messages, old, extrinsic, own, z - s)
        _subtract(total, start, messages, old + z - s, extrinsic, own + z - s, s)
        _two_smallest(extrinsic, own, smallest, second, sign, z)
    _scale(smallest, norm_32, scaled, z)
    _scale(second, norm_32, scaled_second, z)
    for edge in range(first, last):
        start, s = column[edge] * z, shift[edge]
        own, new = (edge - first) * z, edge * z
        _new_message(extrinsic, own, smallest, scaled, scaled_second, sign, messages, new, z)
        _add(extrinsic, own, messages, new, total, start + s, z - s)
        _add(extrinsic, own + z - s, messages, new + z - s, total, start, s)


@njit(nogil=True, cache=True)
def _subtract(total: Any, t0: Any, message: Any, m0: Any, out: Any, o0: Any, n: Any) -> None:
    for j in range(n):
        out[o0 + j] = i16(total[t0 + j] - message[m0 + j])


@njit(nogil=True, cache=True)
def _add(extrinsic: Any, e0: Any, message: Any, m0: Any, total: Any, t0: Any, n: Any) -> None:
    for j in range(n):
        total[t0 + j] = i16(extrinsic[e0 + j] + message[m0 + j])


@njit(nogil=True, cache=True)
def _two_smallest(value: Any, v0: Any, smallest: Any, second: Any, sign: Any, n: Any) -> None:
    for j in range(n):
        v = value[v0 + j]
        sign[j] = i16(sign[j] ^ v)
        magnitude = i16(abs(v))
        least = smallest[j]
        second[j] = i16(min(second[j], i16(max(magnitude, least))))
        smallest[j] = i16(min(least, magnitude))


@njit(nogil=True, cache=True)
def _scale(value: Any, norm_32: Any, out: Any, n: Any) -> None:
    for j in range(n):
        out[j] = i16(i16(value[j] * norm_32) >> 5)


@njit(nogil=True, cache=True)
def _new_message(
    extrinsic: Any,
    e0: Any,
    smallest: Any,
    scaled: Any,
    scaled_second: Any,
    sign: Any,
    message: Any,
    m0: Any,
    n: Any,
) -> None:
    """An edge gets the smallest of the other edges: the second smallest if its own is the smallest
    (with a tie the two are equal anyway), with the product of the other edges' signs."""
    for j in range(n):
        v = extrinsic[e0 + j]
        negative = i16(v >> 15)
        above = i16(i16((v ^ negative) - negative) - smallest[j])
        is_smallest = i16(i16(above - i16(1)) >> 15)
        magnitude = i16(scaled[j] ^ (is_smallest & (scaled_second[j] ^ scaled[j])))
        negative = i16((sign[j] ^ v) >> 15)
        message[m0 + j] = i16((magnitude ^ negative) - negative)


@njit(nogil=True, cache=True)
def _all_checks_hold(
    total: Any, work: Any, z: Any, rows: Any, row_start: Any, column: Any, shift: Any
) -> bool:
    """True if the signs of `total` satisfy all `rows` and no bit in them is undecided (zero)."""
    parity, undecided = work[2], work[3]
    for row in rows:
        parity[:] = 0
        undecided[:] = 0
        for edge in range(row_start[row], row_start[row + u64(1)]):
            start, s = column[edge] * z, shift[edge]
            _accumulate(total, start + s, parity, undecided, u64(0), z - s)
            _accumulate(total, start, parity, undecided, z - s, s)
        bad = i16(0)
        for j in range(z):
            bad = i16(bad | parity[j] | undecided[j])
        if bad < 0:
            return False
    return True


@njit(nogil=True, cache=True)
def _accumulate(total: Any, t0: Any, parity: Any, undecided: Any, p0: Any, n: Any) -> None:
    for j in range(n):
        t = total[t0 + j]
        parity[p0 + j] = i16(parity[p0 + j] ^ t)
        # t | -t is negative unless t is zero.
        undecided[p0 + j] = i16(undecided[p0 + j] | i16(i16(t | i16(-t)) ^ i16(-1)))
