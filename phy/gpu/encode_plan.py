"""From transport blocks to layer-mapped symbols: the launches, and their tables for one slot.

    tb_crc -> encode, one launch for each group of code blocks

Code blocks of one base graph and lifting size are a group, with a fixed capacity and a fixed place
among all code blocks; places that a slot leaves empty are marked -1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from airan.core.errors import InvalidInputError
from phy.gpu.program import Buffer, Launch, Program
from phy.gpu.transmit import (
    THREADS,
    Transmission,
    constellations,
    encoder_prelude,
    plan_transmission,
)
from phy.gpu.transport import powers
from phy.nr.sch import SchConfig

_COLUMN = {name: index for index, name in enumerate(Transmission._fields)}


@dataclass(frozen=True, order=True)
class EncoderGroup:
    """Code blocks that one launch encodes.

    Attributes:
        base_graph: 1 or 2.
        lifting_size: Z.
        n_blocks: code blocks there is room for.
    """

    base_graph: int
    lifting_size: int
    n_blocks: int


@dataclass(frozen=True)
class EncodeLimits:
    """The most that a slot may hold.

    Attributes:
        groups: of code blocks, each base graph and lifting size once.
        n_tbs: transport blocks.
        n_tb_bytes: bytes of all transport blocks, each beginning at a multiple of 16.
        n_symbols: symbols of all layers of all transport blocks.
    """

    groups: tuple[EncoderGroup, ...]
    n_tbs: int
    n_tb_bytes: int
    n_symbols: int

    @cached_property
    def first_blocks(self) -> tuple[int, ...]:
        """Where each group begins among the code blocks, and where all end."""
        return tuple(np.cumsum([0, *(group.n_blocks for group in self.groups)]).tolist())

    @cached_property
    def number_of(self) -> dict[tuple[int, int], int]:
        """Each base graph's and lifting size's group."""
        return {(g.base_graph, g.lifting_size): number for number, g in enumerate(self.groups)}


@dataclass(frozen=True)
class SentTb:
    """All that a transport block's tables say of it in any slot.

    Attributes:
        config: how it is coded.
        row: its Transmission, but for its place.
        tb_weight: uint32[cb], see `phy.gpu.transmit.TransmissionPlan`.
    """

    config: SchConfig
    row: npt.NDArray[np.int32]
    tb_weight: npt.NDArray[np.uint32]

    @cached_property
    def key(self) -> tuple[int, int]:
        """Base graph and lifting size."""
        cut = self.config.segmentation
        return cut.base_graph, cut.lifting_size

    @cached_property
    def n_blocks(self) -> int:
        """Code blocks."""
        return int(self.row[_COLUMN["n_blocks"]])

    @cached_property
    def n_bytes(self) -> int:
        """Bytes of the transport block."""
        return -(-self.config.tb_size_bits // 8)

    @cached_property
    def n_room(self) -> int:
        """Bytes, with what is left free behind them."""
        return -(-self.config.tb_size_bits // 128) * 16

    @cached_property
    def n_symbols(self) -> int:
        """Symbols of all layers."""
        return self.config.n_coded_bits // self.config.modulation_order


@dataclass(frozen=True)
class EncodeShape:
    """The tables of slots with the same transport blocks.

    Attributes:
        tb_at: int64[tb], first byte of each.
        symbols_at: int64[tb], first symbol of each.
        transmissions: int32[tb, 24].
        tb_of_block, index_of_block, tb_weight: the inputs of these names.
    """

    tb_at: npt.NDArray[np.int64]
    symbols_at: npt.NDArray[np.int64]
    transmissions: npt.NDArray[np.int32]
    tb_of_block: npt.NDArray[np.int32]
    index_of_block: npt.NDArray[np.int32]
    tb_weight: npt.NDArray[np.uint32]


@lru_cache(maxsize=4096)
def sent_tb(config: SchConfig) -> SentTb:
    """Returns what the tables say of a transport block.

    Raises:
        InvalidInputError: a size that does not divide into whole bytes for every code block.
    """
    plan = plan_transmission([config])
    return SentTb(config, plan.table[0], plan.tb_weight)


def encode_limits(slots: Iterable[Sequence[SchConfig]]) -> EncodeLimits:
    """Returns limits that just hold each of `slots`.

    Raises:
        InvalidInputError: there is no transport block.
    """
    tbs = [[sent_tb(config) for config in slot] for slot in slots]
    if not any(tbs):
        raise InvalidInputError("slots", "hold no transport block")
    capacity: Counter[tuple[int, int]] = Counter()
    for slot in tbs:
        of_slot: Counter[tuple[int, int]] = Counter()
        for tb in slot:
            of_slot[tb.key] += tb.n_blocks
        capacity |= of_slot
    return EncodeLimits(
        groups=tuple(sorted(EncoderGroup(*key, n) for key, n in capacity.items())),
        n_tbs=max(map(len, tbs)),
        n_tb_bytes=max(sum(tb.n_room for tb in slot) for slot in tbs),
        n_symbols=max(sum(tb.n_symbols for tb in slot) for slot in tbs),
    )


def encode_program(limits: EncodeLimits, n_scrambling_words: int) -> Program:
    """Returns the program.

    Inputs are tbs (uint8, packed, the first bit highest), scrambling (uint32[n_scrambling_words],
    the first bit lowest) and what `fill` writes; the output is symbols (float16[n, 2]).
    """
    n_blocks = limits.first_blocks[-1]
    tables = {
        # The kernels read a little beyond the last transport block.
        "tbs": Buffer((limits.n_tb_bytes + 16,), np.uint8),
        "transmissions": Buffer((limits.n_tbs, len(Transmission._fields)), np.int32),
        "sent_tb_of_block": Buffer((n_blocks,), np.int32),
        "sent_index_of_block": Buffer((n_blocks,), np.int32),
        "sent_tb_weight": Buffer((n_blocks,), np.uint32),
    }
    points = constellations(half=True)
    others = {
        "scrambling": Buffer((n_scrambling_words,), np.uint32),
        "n_sent_places": Buffer((1,), np.int32),
        "powers": Buffer(powers().shape, np.uint32),
        "points": Buffer(points.shape, points.dtype),
        "tb_crc_sums": Buffer((limits.n_tbs, 2), np.uint32),
        "tb_crc": Buffer((limits.n_tbs,), np.uint32),
        "symbols": Buffer((limits.n_symbols, 2), np.float16),
    }
    return Program(
        buffers={**tables, **others},
        launches=_launches(limits),
        inputs=("scrambling", *tables),
        outputs=("symbols",),
        constants={
            "powers": powers(),
            "points": points,
            "n_sent_places": np.array([n_blocks], np.int32),
        },
    )


def encode_shape(limits: EncodeLimits, tbs: Sequence[SentTb]) -> EncodeShape:
    """Makes the tables of a slot, in which transport blocks lie one behind the other.

    Raises:
        InvalidInputError: the slot is beyond the limits.
    """
    tb_at = np.cumsum([0, *(tb.n_room for tb in tbs)])
    symbols_at = np.cumsum([0, *(tb.n_symbols for tb in tbs)])
    for what, found, most in (
        ("transport blocks", len(tbs), limits.n_tbs),
        ("bytes of transport blocks", int(tb_at[-1]), limits.n_tb_bytes),
        ("symbols", int(symbols_at[-1]), limits.n_symbols),
    ):
        if found > most:
            raise _no_room("tbs", f"have {found} {what}, room is for {most}")
    n_places = limits.first_blocks[-1]
    table = np.zeros((len(tbs), len(Transmission._fields)), np.int32)
    tb_of_block = np.full(n_places, -1, np.int32)
    index_of_block = np.zeros(n_places, np.int32)
    tb_weight = np.zeros(n_places, np.uint32)
    taken = [0] * len(limits.groups)
    for number, tb in enumerate(tbs):
        group = limits.number_of.get(tb.key)
        if group is None or taken[group] + tb.n_blocks > limits.groups[group].n_blocks:
            raise _no_room(
                f"tbs[{number}]",
                f"no room for {tb.n_blocks} code blocks of base graph {tb.key[0]}, lifting size "
                f"{tb.key[1]}",
            )
        first = limits.first_blocks[group] + taken[group]
        taken[group] += tb.n_blocks
        mine = slice(first, first + tb.n_blocks)
        table[number] = tb.row
        table[number, _COLUMN["first_block"]], table[number, _COLUMN["number"]] = first, number
        tb_of_block[mine], tb_weight[mine] = number, tb.tb_weight
        index_of_block[mine] = np.arange(tb.n_blocks)
    table[:, _COLUMN["tb_at"]], table[:, _COLUMN["symbols_at"]] = tb_at[:-1], symbols_at[:-1]
    return EncodeShape(tb_at[:-1], symbols_at[:-1], table, tb_of_block, index_of_block, tb_weight)


def fill(
    inputs: Mapping[str, npt.NDArray[Any]], shape: EncodeShape, scrambling_at: Sequence[int]
) -> None:
    """Writes the tables of a slot, but for the transport blocks.

    Args:
        inputs: host arrays of the program's inputs.
        shape: of the slot.
        scrambling_at: word where the scrambling sequence of each transport block begins.
    """
    table = inputs["transmissions"][: len(shape.transmissions)]
    table[...] = shape.transmissions
    table[:, _COLUMN["scrambling_at"]] = scrambling_at
    inputs["sent_tb_of_block"][...] = shape.tb_of_block
    inputs["sent_index_of_block"][...] = shape.index_of_block
    inputs["sent_tb_weight"][...] = shape.tb_weight


def _launches(limits: EncodeLimits) -> tuple[Launch, ...]:
    n_blocks = limits.first_blocks[-1]
    blocks = ("tbs", "transmissions", "sent_tb_of_block", "sent_index_of_block")
    crc_arguments = (
        *(*blocks, "sent_tb_weight", "powers", "n_sent_places", "tb_crc_sums", "tb_crc"),
    )
    out = [Launch("crc", "crc", "tb_crc", (n_blocks,), THREADS, crc_arguments)]
    for first, group in zip(limits.first_blocks, limits.groups, strict=False):
        out.append(
            Launch(
                "encode",
                "encode",
                "encode",
                (group.n_blocks,),
                THREADS,
                (
                    *(*blocks, "tb_crc", "powers", "scrambling", "points", "n_sent_places"),
                    *(first, "symbols"),
                ),
                encoder_prelude(group.base_graph, group.lifting_size, half=True),
            )
        )
    return tuple(out)


def _no_room(field: str, message: str) -> InvalidInputError:
    return InvalidInputError(
        field, message, remedy="prepare the cell group for slots like this one"
    )
