"""The NumPy twin of phy/kernels/ldpc_decode.cu: the same operations on the same numbers.

The kernel computes in binary16, this in float32 with a rounding to binary16 wherever a value may
exceed 2048, up to which both hold whole numbers exactly.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from phy.gpu.ldpc_layout import LdpcLayout
from phy.nr.base_graph import N_CORE_ROWS

Values = npt.NDArray[np.float32]


@dataclass(frozen=True)
class DecodedBlocks:
    """What the kernel writes.

    Attributes:
        bits: uint32[cb, ceil(K / 32)], the information bits, the first in the highest place.
        parity_ok: uint8[cb], every check of the rows in use holds.
        iterations: int32[cb], iterations run.
    """

    bits: npt.NDArray[np.uint32]
    parity_ok: npt.NDArray[np.uint8]
    iterations: npt.NDArray[np.int32]


@dataclass(frozen=True)
class _State:
    """Blocks that are still being decoded.

    Attributes:
        block: int[n], which ones.
        total: float32[n, column, Z], of the columns that several rows share.
        own: float32[n, row, Z], channel values of the rows' own bits.
        own_total: float32[n, row, Z], their totals.
        message: float32[n, edge, Z].
    """

    block: npt.NDArray[np.intp]
    total: Values
    own: Values
    own_total: Values
    message: Values

    def only(self, kept: npt.NDArray[np.bool_]) -> _State:
        fields = {name: value[kept] for name, value in vars(self).items()}
        return replace(self, **fields)


def decode(
    llr: npt.NDArray[np.int8],
    layout: LdpcLayout,
    n_iterations: int,
    normalisation: float,
    *,
    early_stop: bool = True,
) -> DecodedBlocks:
    """Decodes code blocks as the kernel does.

    Args:
        llr: int8[cb, N], positive means bit 0.
        layout: of the kernel.
        n_iterations: most iterations.
        normalisation: factor on the check-node minimum.
        early_stop: stop a block as soon as its checks hold.
    """
    n_blocks = llr.shape[0]
    n_info_bits = layout.graph.n_info_bits
    found = DecodedBlocks(
        np.zeros((n_blocks, -(-n_info_bits // 32)), np.uint32),
        np.zeros(n_blocks, np.uint8),
        np.zeros(n_blocks, np.int32),
    )
    state = _start(llr, layout)
    norm = np.float32(np.float16(normalisation))
    for count in range(1, n_iterations + 1):
        for row in range(layout.n_rows):
            _update_row(state, row, layout, norm)
        last = count == n_iterations
        if not last and not early_stop:
            continue
        holds = _all_checks_hold(state, layout)
        leaving = state.only(np.ones_like(holds) if last else holds)
        info = leaving.total[:, : layout.graph.n_info_columns].reshape(-1, n_info_bits)
        found.bits[leaving.block] = pack_words(np.signbit(info))
        found.parity_ok[leaving.block] = holds[holds | last]
        found.iterations[leaving.block] = count
        state = state.only(~holds)
    return found


def pack_words(bits: npt.NDArray[np.bool_] | npt.NDArray[np.uint8]) -> npt.NDArray[np.uint32]:
    """Packs bits[..., n] into uint32[..., ceil(n / 32)], the first in the highest place."""
    packed = np.packbits(bits, axis=-1)
    missing = -packed.shape[-1] % 4
    padding = [(0, 0)] * (packed.ndim - 1) + [(0, missing)]
    return np.pad(packed, padding).view(">u4").astype(np.uint32)


def unpack_words(words: npt.NDArray[np.uint32], n_bits: int) -> npt.NDArray[np.uint8]:
    """Undoes `pack_words`: uint32[..., w] -> uint8[..., n_bits]."""
    return np.unpackbits(words.astype(">u4").view(np.uint8), axis=-1, count=n_bits)


def _start(llr: npt.NDArray[np.int8], layout: LdpcLayout) -> _State:
    graph, z = layout.graph, layout.lifting_size
    n_shared = graph.n_info_columns + N_CORE_ROWS
    channel = llr.reshape(len(llr), -1, z).astype(np.float32) * np.float32(layout.llr_units)
    punctured = np.zeros((len(llr), 2, z), np.float32)
    own = channel[:, n_shared - 2 :][:, : layout.n_rows - N_CORE_ROWS]
    return _State(
        np.arange(len(llr)),
        np.concatenate([punctured, channel[:, : n_shared - 2]], axis=1),
        own.copy(),
        own.copy(),
        np.zeros((len(llr), sum(map(len, layout.edges)), z), np.float32),
    )


def _half(values: Values) -> Values:
    """Rounds to binary16."""
    return values.astype(np.float16).astype(np.float32)


def _edges(
    row: int, layout: LdpcLayout
) -> tuple[slice, npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Message numbers, columns and bits of a row's edges: the bits are int[edge, Z]."""
    first = sum(len(other) for other in layout.edges[:row])
    columns, shifts = np.array(layout.edges[row]).T
    bits = (np.arange(layout.lifting_size) + shifts[:, None]) % layout.lifting_size
    return slice(first, first + columns.size), columns[:, None], bits


def _update_row(state: _State, row: int, layout: LdpcLayout, norm: np.float32) -> None:
    which, column, bit = _edges(row, layout)
    own = row - N_CORE_ROWS
    extrinsic = _half(state.total[:, column, bit] - state.message[:, which])
    heard = extrinsic
    if own >= 0:
        heard = np.concatenate([extrinsic, state.own[:, own : own + 1]], axis=1)
    magnitude = np.abs(heard)
    smallest, second = _two_smallest(magnitude, np.float32(layout.message_limit))
    odd = np.logical_xor.reduce(np.signbit(heard), axis=1, keepdims=True)
    sign = np.where(odd, np.float32(-1), np.float32(1))
    to_others, to_smallest = _rounded(smallest * norm) * sign, _rounded(second * norm) * sign
    is_smallest = (magnitude == smallest).astype(np.float32)
    new = is_smallest * (to_smallest - to_others) + to_others
    new *= np.where(np.signbit(heard), np.float32(-1), np.float32(1))
    total = _half(heard + new)
    n_edges = extrinsic.shape[1]
    state.total[:, column, bit] = total[:, :n_edges]
    state.message[:, which] = new[:, :n_edges]
    if layout.message_bytes and row >= layout.n_register_rows:
        state.message[:, which] += np.float32(0)  # a byte knows no negative zero
    if own >= 0:
        state.own_total[:, own] = total[:, n_edges]


def _two_smallest(magnitude: Values, limit: np.float32) -> tuple[Values, Values]:
    """The smallest and the second smallest along the edges, at most `limit`: float32[n, 1, Z]."""
    smallest = magnitude.min(axis=1, keepdims=True)
    is_smallest = magnitude == smallest
    others = np.where(is_smallest, limit, magnitude).min(axis=1, keepdims=True)
    tie = is_smallest.sum(axis=1, keepdims=True) > 1
    return np.minimum(smallest, limit), np.minimum(np.where(tie, smallest, others), limit)


def _rounded(values: Values) -> Values:
    """Rounds to whole numbers, below 1024, as adding 1024 in binary16 does."""
    return _half(values + np.float32(1024)) - np.float32(1024)


def _all_checks_hold(state: _State, layout: LdpcLayout) -> npt.NDArray[np.bool_]:
    """bool[n]: no check fails, and no bit that rows share is undecided."""
    holds = np.ones(len(state.block), np.bool_)
    for row in range(layout.n_rows):
        _, column, bit = _edges(row, layout)
        total = state.total[:, column, bit]
        odd = np.logical_xor.reduce(np.signbit(total), axis=1)
        if row >= N_CORE_ROWS:
            odd ^= np.signbit(state.own_total[:, row - N_CORE_ROWS])
        holds &= ~odd.any(axis=-1) & total.all(axis=(1, 2))
    return holds
