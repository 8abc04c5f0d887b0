"""The LDPC decoder's CPU kernel. Imported only through phy.jit, because it imports Numba.

Checks of one base-graph row are worked on 32 at a time, in explicit vectors of 16-bit integers
(phy/nr/ldpc_vector.py): all edges of the row for 32 checks, then the next 32 checks. So the two
smallest magnitudes and the sign stay in registers, and an edge costs one read and one write of its
total and of its message. No value can overflow: a channel value is at most 2047, a check message at
most 1023, and no column has more than 30 checks (2047 + 30 * 1023 < 2^15).

Totals are stored column by column. Rows see a column turned by their shifts, so a row reads a
column from the shift on and writes it back from check 0 on, turned; `turn` remembers by how much.
Since the write would overwrite what later checks must read, every column has two places and
changes over at every row. A column is followed by a copy of its first elements, so that a vector
that starts near the end runs on into the beginning; lanes beyond the last check merely repeat the
first ones, which is also how lifting sizes below 32 work.

Numba infers the types itself; what an argument is, the docstrings say.
"""

# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from phy.nr import ldpc_vector as lanes
from phy.nr.ldpc_vector import N_LANES, load, splat, store

f32 = np.float32
i16 = np.int16
i32 = np.int32
i64 = np.int64

CHANNEL_LIMIT = np.float32(2047.0)
MESSAGE_LIMIT = np.int16(1023)
# The mean absolute LLR of a block becomes this: small against the limits, and large enough for the
# least sure bits of 256QAM, a tenth of the mean, to be large against rounding.
MEAN_LEVEL = np.float32(192.0)
# LLRs from here on are fillers or certainty, and are left out of the mean.
CERTAIN_LLR = np.float32(5.0e3)
MAX_ROW_WEIGHT = 32
# Normalisations are whole numbers of 1 / 2^5.
NORM_SHIFT = np.int16(5)


def workspace(n_columns: int, n_edges: int, z: int) -> tuple[Any, ...]:
    """Makes the arrays that `decode_blocks` works in; each thread needs its own.

    Returns:
        (total, message, extrinsic, places, rows); places is, for each column, where it is, where it
        goes next and by how much it is turned, and, for each edge of a row, where reading starts
        and where it starts over.
    """
    padded = -(-z // N_LANES) * N_LANES
    columns = [np.empty(n_columns, np.int64) for _ in range(3)]
    edges = [np.empty(MAX_ROW_WEIGHT, np.int64) for _ in range(2)]
    return (
        _aligned(2 * n_columns * (padded + N_LANES)),
        _aligned(n_edges * padded),
        _aligned(MAX_ROW_WEIGHT * N_LANES),
        (*columns, *edges),
        np.empty(n_columns, np.int64),
    )


def _aligned(n: int) -> Any:
    """int16[n] on a boundary of 64 bytes: a vector across two cache lines costs double."""
    room = np.empty(n + 32, np.int16)
    first = -room.ctypes.data % 64 // 2
    return room[first : first + n]


@njit(nogil=True, cache=True)
def decode_blocks(
    llr: Any,
    z: Any,
    graph: Any,
    rule: Any,
    n_iterations: Any,
    early_stop: Any,
    work: Any,
    results: Any,
) -> None:
    """Decodes float32 llr[cb, N] one block after the other.

    Args:
        llr, z: channel LLRs and the lifting size.
        graph: (n_info_columns, n_core_rows, row_start, column, shift), the last three int64.
        rule: (norm, offset): int16 normalisations in 1/32 by the number of rows in use, and what is
            taken off the smallest magnitude, as a float32 LLR.
        n_iterations, early_stop: most iterations; whether to stop once all checks hold.
        work: a `workspace`.
        results: (bits, parity_ok, iterations) to fill.
    """
    norm, offset = rule
    total, message, extrinsic, places, rows = work
    bits, parity_ok, iterations = results
    padded = (z + N_LANES - 1) // N_LANES * N_LANES
    for block in range(llr.shape[0]):
        scale = MEAN_LEVEL / _mean_level(llr[block])
        clean, n_active = _quantise(llr[block], scale, z, graph, total, places, rows)
        message[: graph[2][rows[n_active - 1] + 1] * padded] = 0
        step = (norm[n_active], i16(np.rint(min(offset * scale, f32(MESSAGE_LIMIT)))))
        done = False
        count = 0
        while count < n_iterations and not (done and early_stop):
            count += 1
            for row in rows[:n_active]:
                _update_row(row, z, graph, step, total, message, extrinsic, places)
            if early_stop or count == n_iterations:
                done = _all_checks_hold(rows[:n_active], z, graph, total, places)
        parity_ok[block] = done and clean
        iterations[block] = count
        _decide(total, places, z, bits[block])


@njit(nogil=True, fastmath={"reassoc"})
def _mean_level(llr: Any) -> Any:
    """Mean magnitude of the LLRs that were received and are not certain; 64 if there are none."""
    level = f32(0)
    n_used = f32(0)
    for i in range(llr.size):
        magnitude = abs(llr[i])
        used = (magnitude < CERTAIN_LLR) & (magnitude > f32(0))
        level += magnitude if used else f32(0)
        n_used += f32(1) if used else f32(0)
    return level / n_used if level > f32(0) else MEAN_LEVEL


@njit(nogil=True)
def _quantise(
    llr: Any, scale: Any, z: Any, graph: Any, total: Any, places: Any, rows: Any
) -> tuple[Any, Any]:
    """Scales and rounds one block's LLRs into `total`. Returns whether none is NaN, and how many
    rows are worth visiting, which it lists in `rows`: an extension row whose own parity bits were
    not received says nothing about the others."""
    n_info_columns, n_core_rows = graph[0], graph[1]
    here, spare, turn = places[:3]
    stride = (z + 2 * N_LANES - 1) // N_LANES * N_LANES
    total[: 2 * stride] = 0
    clean = True
    n_active = 0
    for c in range(here.size):
        here[c], spare[c], turn[c] = c * stride, (c + here.size) * stride, 0
        if c < 2:  # punctured
            continue
        source = llr[(c - 2) * z : (c - 1) * z]
        target = total[c * stride : (c + 1) * stride]
        bad = False
        received = i16(0)
        for i in range(z):
            value = source[i] * scale
            bad |= value != value
            value = value if value == value else f32(0)
            value = min(max(value, -CHANNEL_LIMIT), CHANNEL_LIMIT)
            target[i] = i16(i32(np.rint(value)))
            received |= target[i]
        for i in range(z, stride):
            target[i] = target[i - z]
        clean = clean and not bad
        row = c - n_info_columns
        if row >= 0 and (row < n_core_rows or received != 0):
            rows[n_active] = row
            n_active += 1
    return clean, n_active


@njit(nogil=True)
def _find(row: Any, z: Any, graph: Any, places: Any) -> None:
    """Finds where the edges of `row` start reading their columns, and where they start over."""
    row_start, column, shift = graph[2], graph[3], graph[4]
    here, _, turn, read, end = places
    first = row_start[row]
    for edge in range(row_start[row + 1] - first):
        c = column[first + edge]
        ahead = shift[first + edge] - turn[c]
        end[edge] = here[c] + z
        read[edge] = here[c] + (ahead + z if ahead < 0 else ahead)


@njit(nogil=True)
def _update_row(
    row: Any,
    z: Any,
    graph: Any,
    step: Any,
    total: Any,
    message: Any,
    extrinsic: Any,
    places: Any,
) -> None:
    """One layer: takes the old messages of the row out of the totals, puts the new ones in."""
    row_start, column, shift = graph[2], graph[3], graph[4]
    here, spare, turn, read, end = places
    _find(row, z, graph, places)
    first = row_start[row]
    weight = row_start[row + 1] - first
    zero, norm, offset = splat(i16(0)), splat(step[0]), splat(step[1])
    padded = (z + N_LANES - 1) // N_LANES * N_LANES
    for j in range(0, padded, N_LANES):
        smallest = splat(MESSAGE_LIMIT)
        second = smallest
        sign = zero
        for edge in range(weight):
            at = read[edge] + j
            at = at - z if at >= end[edge] else at
            value = lanes.subtract(load(total, at), load(message, (first + edge) * padded + j))
            store(extrinsic, edge * N_LANES, value)
            sign = lanes.bits_xor(sign, value)
            magnitude = lanes.magnitude(value)
            second = lanes.minimum(second, lanes.maximum(magnitude, smallest))
            smallest = lanes.minimum(smallest, magnitude)
        of_smallest = _weaken(second, norm, offset)
        of_others = _weaken(smallest, norm, offset)
        for edge in range(weight):
            # An edge hears the smallest of the other edges: the second smallest if its own is the
            # smallest (with a tie the two are equal), with the product of the others' signs.
            value = load(extrinsic, edge * N_LANES)
            own = lanes.magnitude(value)
            new = lanes.where_equal(own, smallest, of_smallest, of_others)
            new = lanes.negate_where_negative(new, lanes.bits_xor(sign, value))
            store(message, (first + edge) * padded + j, new)
            store(total, spare[column[first + edge]] + j, lanes.add(value, new))
    for edge in range(first, first + weight):
        c = column[edge]
        store(total, spare[c] + z, load(total, spare[c]))
        here[c], spare[c] = spare[c], here[c]
        turn[c] = shift[edge]


@njit(nogil=True)
def _weaken(value: Any, norm: Any, offset: Any) -> Any:
    """Min-sum overrates what it knows: times the normalisation, less the offset, not below 0."""
    scaled = lanes.shift_right(lanes.multiply(value, norm), splat(NORM_SHIFT))
    return lanes.maximum(lanes.subtract(scaled, offset), splat(i16(0)))


@njit(nogil=True)
def _all_checks_hold(rows: Any, z: Any, graph: Any, total: Any, places: Any) -> bool:
    """True if the signs of `total` satisfy all `rows` and no bit in them is undecided (zero)."""
    row_start = graph[2]
    read, end = places[3], places[4]
    zero, minus_one = splat(i16(0)), splat(i16(-1))
    for row in rows:
        _find(row, z, graph, places)
        for j in range(0, z, N_LANES):
            parity = zero
            undecided = zero
            for edge in range(row_start[row + 1] - row_start[row]):
                at = read[edge] + j
                value = load(total, at - z if at >= end[edge] else at)
                parity = lanes.bits_xor(parity, value)
                undecided = lanes.where_equal(value, zero, minus_one, undecided)
            if lanes.any_negative(lanes.bits_or(parity, undecided)):
                return False
    return True


@njit(nogil=True)
def _decide(total: Any, places: Any, z: Any, bits: Any) -> None:
    """Turns the information columns back and takes their signs: uint8 bits[K]."""
    here, turn = places[0], places[2]
    for c in range(bits.size // z):
        value = total[here[c] : here[c] + z]
        start = z - turn[c]
        early, late = bits[c * z : (c + 1) * z - start], bits[(c + 1) * z - start : (c + 1) * z]
        for i in range(late.size):
            late[i] = value[i] < 0
        value = value[start:]
        for i in range(early.size):
            early[i] = value[i] < 0
