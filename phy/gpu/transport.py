"""Which transport blocks a launch works on: the tables that the kernels of the coding chain read.

A plan is made once for a set of transport blocks and copied to the device; code blocks are numbered
through all transport blocks, those of one base graph, lifting size and number of rows in a run, so
that each such group is one launch of the decoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from airan.core.errors import InvalidInputError
from phy.gpu.ldpc_layout import llr_units_of_16
from phy.nr import crc, ldpc_rate
from phy.nr.base_graph import N_CORE_ROWS, lifted_graph
from phy.nr.sch import SchConfig

N_POWERS = 8448
"""Bits of the largest code block."""


class SoftBuffer(NamedTuple):
    """Where a HARQ process keeps its LLRs, one code block after the other.

    Attributes:
        at: beginning in the pool, in units of 16 bytes.
        n_filled: places of each code block that earlier transmissions have filled; 0 for none.
    """

    at: int
    n_filled: int = 0


class Reception(NamedTuple):
    """What the kernels know of a received transport block: struct Reception in transport.cuh."""

    first_block: int
    n_blocks: int
    first_llr: int
    n_short: int
    e_short: int
    e_long: int
    modulation_order: int
    start: int
    buffer_bits: int
    filler_start: int
    filler_end: int
    soft_at: int
    soft_stride: int
    n_before: int
    n_after: int
    bits_at: int
    bits_stride: int
    block_bits: int
    payload_bits: int
    tb_bits: int
    tb_crc_bits: int
    tb_at: int
    unused_1: int = 0
    unused_2: int = 0


class Group(NamedTuple):
    """Code blocks that one launch decodes."""

    base_graph: int
    lifting_size: int
    n_rows: int
    blocks: slice
    words: slice


class BlockTables(NamedTuple):
    """One entry for each code block.

    Attributes:
        tb_of_block: int32[cb], its transport block.
        llr_at: int32[cb], where its soft buffer begins, in units of 16 bytes.
        tb_weight: uint32[cb], x^n modulo CRC24A's generator, for the n bits of the transport block
            behind the code block's own.
    """

    tb_of_block: npt.NDArray[np.int32]
    llr_at: npt.NDArray[np.int32]
    tb_weight: npt.NDArray[np.uint32]


@dataclass(frozen=True)
class ReceptionPlan:
    """The tables for decoding a set of transport blocks.

    Attributes:
        receptions: one for each transport block, in the order given.
        groups: the decoder's launches.
        blocks: the tables of the code blocks.
        n_llr: LLRs received, each transport block's beginning at a multiple of 16.
        n_words: words of decoded bits.
        n_tb_bytes: bytes of all transport blocks, each beginning at a multiple of 16.
        n_soft_bytes: bytes of soft buffers, where the plan has placed them itself.
    """

    receptions: tuple[Reception, ...]
    groups: tuple[Group, ...]
    blocks: BlockTables
    n_llr: int
    n_words: int
    n_tb_bytes: int
    n_soft_bytes: int

    @property
    def n_blocks(self) -> int:
        """Code blocks."""
        return self.blocks.tb_of_block.size

    @property
    def table(self) -> npt.NDArray[np.int32]:
        """`receptions` as the device reads them: int32[tb, 24]."""
        return np.array(self.receptions, dtype=np.int32).reshape(len(self.receptions), -1)

    @property
    def longest_e_bits(self) -> int:
        """E of the longest code block."""
        return max(reception.e_long for reception in self.receptions)


def plan_reception(
    configs: Sequence[SchConfig], soft_buffers: Sequence[SoftBuffer] | None = None
) -> ReceptionPlan:
    """Makes the tables for transport blocks received in one go.

    Args:
        configs: how each was coded.
        soft_buffers: where each keeps its LLRs; None: all new, one after the other.

    Raises:
        InvalidInputError: a size that does not divide into whole bytes for every code block.
    """
    if soft_buffers is None:
        soft_buffers = _new_buffers(configs)
    n_afters = [_n_after(*pair) for pair in zip(configs, soft_buffers, strict=True)]
    keys = [_group_key(*pair) for pair in zip(configs, n_afters, strict=True)]
    llr_starts = np.cumsum([0, *(-(-config.n_coded_bits // 16) * 16 for config in configs)])
    tb_starts = np.cumsum([0, *(-(-config.tb_size_bits // 128) * 16 for config in configs)])
    receptions: dict[int, Reception] = {}
    groups = []
    block = word = 0
    for key in sorted(set(keys)):
        first_block, first_word = block, word
        for tb in (index for index, other in enumerate(keys) if other == key):
            config, soft = configs[tb], soft_buffers[tb]
            reception = _reception(config, soft, n_afters[tb])._replace(
                first_block=block,
                bits_at=word,
                first_llr=int(llr_starts[tb]),
                tb_at=int(tb_starts[tb]),
            )
            receptions[tb] = reception
            block += reception.n_blocks
            word += reception.n_blocks * reception.bits_stride
        groups.append(Group(*key, slice(first_block, block), slice(first_word, word)))
    in_order = tuple(receptions[tb] for tb in range(len(configs)))
    return ReceptionPlan(
        receptions=in_order,
        groups=tuple(groups),
        n_llr=int(llr_starts[-1]),
        n_words=word,
        n_tb_bytes=int(tb_starts[-1]),
        n_soft_bytes=16
        * max((r.soft_at + r.n_blocks * r.soft_stride for r in in_order), default=0),
        blocks=_block_tables(in_order, block),
    )


def _block_tables(receptions: Sequence[Reception], n_blocks: int) -> BlockTables:
    tb_of_block, index = of_blocks(receptions, n_blocks)
    llr_at = np.zeros(n_blocks, np.int32)
    tb_weight = np.zeros(n_blocks, np.uint32)
    for tb in receptions:
        mine = slice(tb.first_block, tb.first_block + tb.n_blocks)
        llr_at[mine] = tb.soft_at + index[mine] * tb.soft_stride
        tb_weight[mine] = weights(tb.n_blocks, tb.payload_bits)
    return BlockTables(tb_of_block, llr_at, tb_weight)


@lru_cache(maxsize=1)
def powers() -> npt.NDArray[np.uint32]:
    """x^i modulo the generators of CRC24B, CRC24A and CRC16: uint32[3, N_POWERS]."""
    tables = [_powers(poly, N_POWERS) for poly in ("24B", "24A", "16")]
    return np.stack(tables)


def _powers(poly: crc.Poly, n: int) -> npt.NDArray[np.uint32]:
    low = np.uint32(1) << np.arange(crc.length(poly), dtype=np.uint32)
    return np.concatenate([low, crc.high_powers(poly, n)])[:n].astype(np.uint32)


def _new_buffers(configs: Sequence[SchConfig]) -> list[SoftBuffer]:
    sizes = [config.segmentation.n_code_blocks * _soft_stride(config) for config in configs]
    starts = np.cumsum([0, *sizes])[:-1]
    return [SoftBuffer(int(start)) for start in starts]


def _soft_stride(config: SchConfig) -> int:
    cut = config.segmentation
    return llr_units_of_16(lifted_graph(cut.base_graph, cut.lifting_size))


class CircularBuffer(NamedTuple):
    """The circular buffer of a transport block's code blocks. Places begin behind the punctured
    2 Z bits.

    Attributes:
        n_bits: N_cb.
        start: where the redundancy version starts, fillers not counted.
        filler_start: first filler.
        filler_end: the place behind the last filler.
        payload_bits: bits of a code block that belong to the transport block and its CRC.
    """

    n_bits: int
    start: int
    filler_start: int
    filler_end: int
    payload_bits: int


def buffer_of(config: SchConfig) -> CircularBuffer:
    """Returns the circular buffer of a transport block's code blocks.

    Raises:
        InvalidInputError: a size that does not divide into whole bytes for every code block.
    """
    cut = config.segmentation
    graph = lifted_graph(cut.base_graph, cut.lifting_size)
    payload_bits = cut.block_bits - (24 if cut.n_code_blocks > 1 else 0)
    if cut.n_code_blocks > 1 and payload_bits % 8:
        raise InvalidInputError(
            "tb_size_bits",
            f"must cut into code blocks of whole bytes, got {config.tb_size_bits}",
            remedy="use a size that phy.nr.tbs.size gives",
        )
    filler_end = graph.n_info_bits - 2 * cut.lifting_size
    limit = config.limited_buffer_bits
    first_place = int(_order(config)[0])
    return CircularBuffer(
        n_bits=graph.n_coded_bits if limit is None else min(graph.n_coded_bits, limit),
        start=first_place - (cut.n_filler if first_place >= filler_end else 0),
        filler_start=filler_end - cut.n_filler,
        filler_end=filler_end,
        payload_bits=payload_bits,
    )


def highest_row(config: SchConfig) -> int:
    """Base-graph rows up to the last whose parity bits are sent."""
    cut = config.segmentation
    graph = lifted_graph(cut.base_graph, cut.lifting_size)
    last = int(_order(config)[: max(config.block_lengths)].max())
    n_columns = -(-(last + 1) // cut.lifting_size)
    return max(n_columns - (graph.n_info_columns - 2), N_CORE_ROWS)


def _order(config: SchConfig) -> npt.NDArray[np.intp]:
    cut = config.segmentation
    arguments = (cut.base_graph, cut.lifting_size, cut.n_filler, config.limited_buffer_bits)
    return ldpc_rate.buffer_order(config.rv, *arguments)


def _n_after(config: SchConfig, soft: SoftBuffer) -> int:
    """Places of the circular buffer up to the end of the last base-graph row that is heard of."""
    cut = config.segmentation
    graph = lifted_graph(cut.base_graph, cut.lifting_size)
    n_columns = graph.n_info_columns - 2 + highest_row(config)
    return max(n_columns * cut.lifting_size, soft.n_filled)


def _group_key(config: SchConfig, n_after: int) -> tuple[int, int, int]:
    cut = config.segmentation
    graph = lifted_graph(cut.base_graph, cut.lifting_size)
    n_rows = n_after // cut.lifting_size - (graph.n_info_columns - 2)
    return cut.base_graph, cut.lifting_size, n_rows


def _reception(config: SchConfig, soft: SoftBuffer, n_after: int) -> Reception:
    """All that does not depend on the other transport blocks."""
    cut = config.segmentation
    graph = lifted_graph(cut.base_graph, cut.lifting_size)
    lengths = config.block_lengths
    buffer = buffer_of(config)
    return Reception(
        first_block=0,
        n_blocks=cut.n_code_blocks,
        first_llr=0,
        n_short=lengths.count(lengths[0]),
        e_short=lengths[0],
        e_long=lengths[-1],
        modulation_order=config.modulation_order,
        start=buffer.start,
        buffer_bits=buffer.n_bits,
        filler_start=buffer.filler_start,
        filler_end=buffer.filler_end,
        soft_at=soft.at,
        soft_stride=_soft_stride(config),
        n_before=soft.n_filled,
        n_after=n_after,
        bits_at=0,
        bits_stride=-(-graph.n_info_bits // 32),
        block_bits=cut.block_bits,
        payload_bits=buffer.payload_bits,
        tb_bits=config.tb_size_bits,
        tb_crc_bits=crc.length(cut.tb_crc),
        tb_at=0,
    )


class _Placed(Protocol):
    @property
    def first_block(self) -> int: ...
    @property
    def n_blocks(self) -> int: ...


def of_blocks(
    tbs: Sequence[_Placed], n_blocks: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Returns every code block's transport block, and its number within it: int32[n_blocks]."""
    numbers = np.zeros((2, n_blocks), np.int32)
    for number, tb in enumerate(tbs):
        mine = slice(tb.first_block, tb.first_block + tb.n_blocks)
        numbers[:, mine] = np.full(tb.n_blocks, number), np.arange(tb.n_blocks)
    return numbers[0], numbers[1]


@lru_cache(maxsize=256)
def weights(n_blocks: int, payload_bits: int, n_missing: int = 0) -> npt.NDArray[np.uint32]:
    """x^n modulo CRC24A's generator for the n bits behind each code block's payload, of which the
    last code block has `n_missing` fewer: uint32[n_blocks]."""
    n_behind = np.maximum(np.arange(n_blocks)[::-1] * payload_bits - n_missing, 0)
    return _powers("24A", int(n_behind[0]) + 1)[n_behind]
