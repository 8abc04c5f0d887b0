"""The most that a slot may hold for the decoder, and what is known of every transport block."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

from airan.core.errors import InvalidInputError
from phy.gpu.transport import Reception, SoftBuffer, plan_reception, weights
from phy.nr.base_graph import lifted_graph
from phy.nr.sch import SchConfig

COLUMN = {name: index for index, name in enumerate(Reception._fields)}
"""Of a row of the table of receptions."""


@dataclass(frozen=True, order=True)
class DecoderGroup:
    """Code blocks that one launch decodes.

    Attributes:
        base_graph: 1 or 2.
        lifting_size: Z.
        n_rows: base-graph rows in use; blocks that need fewer may join.
        n_blocks: code blocks there is room for.
    """

    base_graph: int
    lifting_size: int
    n_rows: int
    n_blocks: int

    @cached_property
    def words_of_block(self) -> int:
        """Words of a decoded code block."""
        return -(-lifted_graph(self.base_graph, self.lifting_size).n_info_bits // 32)


@dataclass(frozen=True)
class DecoderEffort:
    """How long the decoder goes on.

    Attributes:
        n_iterations: most iterations.
        early_stop: no more of them for a code block as soon as its checks hold.
    """

    n_iterations: int = 10
    early_stop: bool = True


@dataclass(frozen=True)
class DecodeLimits:
    """The most that a slot may hold.

    Attributes:
        groups: of code blocks.
        n_tbs: transport blocks.
        n_llr: LLRs of all transport blocks, each beginning at a multiple of 16.
        n_tb_bytes: bytes of all transport blocks, likewise.
        longest_e_bits: LLRs of one code block.
        soft_buffer_bytes: soft values of one transport block.
        n_soft_buffers: soft buffers for HARQ, besides one for each transport block of the slot.
    """

    groups: tuple[DecoderGroup, ...]
    n_tbs: int
    n_llr: int
    n_tb_bytes: int
    longest_e_bits: int
    soft_buffer_bytes: int
    n_soft_buffers: int

    @cached_property
    def first_blocks(self) -> tuple[int, ...]:
        """Where each group begins among the code blocks, and where all end."""
        return _starts(group.n_blocks for group in self.groups)

    @cached_property
    def first_words(self) -> tuple[int, ...]:
        """Where each group's decoded words begin, and where all end."""
        return _starts(group.n_blocks * group.words_of_block for group in self.groups)

    @cached_property
    def groups_of(self) -> dict[tuple[int, int], list[int]]:
        """The groups of each base graph and lifting size, those of few rows first."""
        found: dict[tuple[int, int], list[int]] = {}
        for number, group in enumerate(self.groups):
            found.setdefault((group.base_graph, group.lifting_size), []).append(number)
        return found

    @property
    def soft_buffer_units(self) -> int:
        """Size of a soft buffer in units of 16 bytes."""
        return self.soft_buffer_bytes // 16


@dataclass(frozen=True)
class CodedTb:
    """All that a transport block's tables say of it in any slot: made once, used in many.

    Attributes:
        config: how it is coded.
        row: its Reception, but for its place.
        n_rows: base-graph rows that a first transmission needs.
        tb_weight: uint32[cb], see `phy.gpu.transport.BlockTables`.
    """

    config: SchConfig
    row: npt.NDArray[np.int32]
    n_rows: int
    tb_weight: npt.NDArray[np.uint32]

    @cached_property
    def key(self) -> tuple[int, int]:
        """Base graph and lifting size."""
        cut = self.config.segmentation
        return cut.base_graph, cut.lifting_size

    @cached_property
    def n_blocks(self) -> int:
        """Code blocks."""
        return int(self.row[COLUMN["n_blocks"]])

    @cached_property
    def n_heard_before(self) -> int:
        """Columns of the circular buffer before the first row's own."""
        return lifted_graph(*self.key).n_info_columns - 2

    @cached_property
    def n_llr(self) -> int:
        """LLRs, with what is left free behind them."""
        return -(-self.config.n_coded_bits // 16) * 16

    @cached_property
    def n_tb_bytes(self) -> int:
        """Bytes, likewise."""
        return -(-self.config.tb_size_bits // 128) * 16

    @cached_property
    def soft_bytes(self) -> int:
        """Bytes of its soft buffer."""
        return 16 * self.n_blocks * int(self.row[COLUMN["soft_stride"]])


@lru_cache(maxsize=4096)
def coded_tb(config: SchConfig) -> CodedTb:
    """Returns what the tables say of a transport block.

    Raises:
        InvalidInputError: a size that does not divide into whole bytes for every code block.
    """
    plan = plan_reception([config], [SoftBuffer(0)])
    (row,) = plan.receptions
    return CodedTb(
        config=config,
        row=plan.table[0],
        n_rows=plan.groups[0].n_rows,
        tb_weight=weights(row.n_blocks, row.payload_bits),
    )


def decode_limits(
    slots: Iterable[Sequence[SchConfig]], n_soft_buffers: int, spare_rows: bool = False
) -> DecodeLimits:
    """Returns limits that just hold each of `slots`.

    Args:
        slots: the transport blocks of slots that are to be received.
        n_soft_buffers: soft buffers for HARQ.
        spare_rows: make room for combined retransmissions of all redundancy versions too: a group
            of all rows for every base graph and lifting size.

    Raises:
        InvalidInputError: there is no transport block.
    """
    capacity: Counter[tuple[int, int, int]] = Counter()
    tbs = [[coded_tb(config) for config in slot] for slot in slots]
    if not any(tbs):
        raise InvalidInputError("slots", "hold no transport block")
    for slot in tbs:
        of_slot: Counter[tuple[int, int, int]] = Counter()
        for tb in slot:
            of_slot[(*tb.key, tb.n_rows)] += tb.n_blocks
            if spare_rows:
                of_slot[(*tb.key, lifted_graph(*tb.key).n_rows)] += tb.n_blocks
        capacity |= of_slot
    every = [tb for slot in tbs for tb in slot]
    return DecodeLimits(
        groups=tuple(sorted(DecoderGroup(*key, n) for key, n in capacity.items())),
        n_tbs=max(map(len, tbs)),
        n_llr=max(sum(tb.n_llr for tb in slot) for slot in tbs),
        n_tb_bytes=max(sum(tb.n_tb_bytes for tb in slot) for slot in tbs),
        longest_e_bits=max(int(tb.row[COLUMN["e_long"]]) for tb in every),
        soft_buffer_bytes=max(tb.soft_bytes for tb in every),
        n_soft_buffers=n_soft_buffers,
    )


def _starts(sizes: Iterable[int]) -> tuple[int, ...]:
    return tuple(np.cumsum([0, *sizes]).tolist())
