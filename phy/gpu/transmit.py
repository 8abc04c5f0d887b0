"""Transport blocks to symbols on the GPU: CRC, LDPC encoding, rate matching, scrambling, mapping.

Cost for PDSCH of 20 cells of 273 PRB, 4 layers, 256QAM, MCS 27 (1.3 Mb a cell, 3,100 code blocks,
3.3 million symbols):

- tb_crc reads 3.3 MB; a warp needs about 10 instructions a word: 8.2 million, 13 us.
- encode reads 3.3 MB of bits and 3.3 MB of scrambling sequences and writes 13 MB of symbols of two
  binary16 (26 MB of complex64): 7 us at 3 TB/s. Encoding a code block takes 1,300 words of edges of
  8 instructions, its CRC 2,600 warp instructions, a symbol about 18 instructions a bit: in all 27
  million warp instructions, 45 us at 65 % of the issue rate. Floor: the instructions, 29 us.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from airan.core.errors import InvalidInputError
from phy.array import Array
from phy.gpu.gold import pack_bits
from phy.gpu.module import function, launch, require_cupy
from phy.gpu.transport import buffer_of, highest_row, of_blocks, powers, weights
from phy.nr import crc, modulation
from phy.nr.base_graph import N_CORE_ROWS, BaseGraph, lifted_graph
from phy.nr.ldpc_encoder import core_shift
from phy.nr.sch import SchConfig

THREADS = 128
_ORDERS = (1, 2, 4, 6, 8)


class Transmission(NamedTuple):
    """What the kernels are told of a transport block to send: struct Transmission of
    transport.cuh."""

    first_block: int
    n_blocks: int
    tb_at: int
    tb_bits: int
    tb_crc_bits: int
    block_bits: int
    payload_bits: int
    n_rows: int
    n_short: int
    e_short: int
    e_long: int
    modulation_order: int
    start: int
    buffer_bits: int
    filler_start: int
    filler_end: int
    scrambling_at: int
    symbols_at: int
    n_layers: int
    layer_stride: int
    points_at: int
    number: int
    unused_1: int = 0
    unused_2: int = 0


class EncodeGroup(NamedTuple):
    """Code blocks of one base graph and lifting size: one launch."""

    base_graph: int
    lifting_size: int
    blocks: slice


@dataclass(frozen=True)
class TransmissionPlan:
    """The tables for sending a set of transport blocks.

    Attributes:
        transmissions: one for each transport block, in the order given.
        groups: the encoder's launches.
        tb_of_block: int32[cb], the transport block of every code block.
        index_of_block: int32[cb], the code block's number within it.
        tb_weight: uint32[cb], x^n modulo CRC24A's generator, for the n bits of the transport block
            behind the code block's own.
        n_tb_bytes: bytes of all packed transport blocks, each beginning at a multiple of 16, with
            16 bytes of room behind.
        n_scrambling_words: words of all scrambling sequences, with a word of room behind each.
        n_symbols: symbols of all layers of all transport blocks.
    """

    transmissions: tuple[Transmission, ...]
    groups: tuple[EncodeGroup, ...]
    tb_of_block: npt.NDArray[np.int32]
    index_of_block: npt.NDArray[np.int32]
    tb_weight: npt.NDArray[np.uint32]
    n_tb_bytes: int
    n_scrambling_words: int
    n_symbols: int

    @property
    def n_blocks(self) -> int:
        """Code blocks."""
        return self.tb_of_block.size

    @property
    def table(self) -> npt.NDArray[np.int32]:
        """`transmissions` as the device reads them: int32[tb, 24]."""
        return np.array(self.transmissions, dtype=np.int32).reshape(len(self.transmissions), -1)


def plan_transmission(configs: Sequence[SchConfig]) -> TransmissionPlan:
    """Makes the tables for transport blocks sent in one go.

    Their symbols lie one transport block after the other, and of each, one layer after the other.

    Raises:
        InvalidInputError: a size that does not divide into whole bytes for every code block.
    """
    keys = [(c.segmentation.base_graph, c.segmentation.lifting_size) for c in configs]
    tb_starts = np.cumsum([0, *(-(-config.tb_size_bits // 128) * 16 for config in configs)])
    words = np.cumsum([0, *(-(-config.n_coded_bits // 32) + 1 for config in configs)])
    symbols = np.cumsum([0, *(c.n_coded_bits // c.modulation_order for c in configs)])
    transmissions: dict[int, Transmission] = {}
    groups = []
    block = 0
    for key in sorted(set(keys)):
        first_block = block
        for tb in (index for index, other in enumerate(keys) if other == key):
            transmissions[tb] = _transmission(configs[tb])._replace(
                first_block=block,
                tb_at=int(tb_starts[tb]),
                scrambling_at=int(words[tb]),
                symbols_at=int(symbols[tb]),
                number=tb,
            )
            block += transmissions[tb].n_blocks
        groups.append(EncodeGroup(*key, slice(first_block, block)))
    in_order = tuple(transmissions[tb] for tb in range(len(configs)))
    tb_weight = np.zeros(block, np.uint32)
    for sent in in_order:
        n_missing = sent.n_blocks * sent.payload_bits - sent.tb_bits
        behind = weights(sent.n_blocks, sent.payload_bits, n_missing)
        tb_weight[sent.first_block :][: sent.n_blocks] = behind
    tb_of_block, index_of_block = of_blocks(in_order, block)
    return TransmissionPlan(
        transmissions=in_order,
        groups=tuple(groups),
        tb_of_block=tb_of_block,
        index_of_block=index_of_block,
        tb_weight=tb_weight,
        n_tb_bytes=int(tb_starts[-1]) + 16,
        n_scrambling_words=int(words[-1]),
        n_symbols=int(symbols[-1]),
    )


def pack_tbs(tbs: Sequence[npt.NDArray[np.uint8]], plan: TransmissionPlan) -> npt.NDArray[np.uint8]:
    """Packs transport blocks, uint8[A] each, as the kernels read them: uint8[plan.n_tb_bytes]."""
    packed = np.zeros(plan.n_tb_bytes, np.uint8)
    for tb, transmission in zip(tbs, plan.transmissions, strict=True):
        mine = np.packbits(tb)
        packed[transmission.tb_at : transmission.tb_at + mine.size] = mine
    return packed


def pack_scrambling(
    sequences: Sequence[npt.NDArray[np.uint8]], plan: TransmissionPlan
) -> npt.NDArray[np.uint32]:
    """Packs scrambling sequences, uint8[G] each, the first bit in the lowest place of a word:
    uint32[plan.n_scrambling_words]."""
    packed = np.zeros(plan.n_scrambling_words, np.uint32)
    for sequence, transmission in zip(sequences, plan.transmissions, strict=True):
        words = pack_bits(np.pad(sequence, (0, -sequence.size % 32)))
        packed[transmission.scrambling_at : transmission.scrambling_at + words.size] = words
    return packed


@lru_cache(maxsize=2)
def constellations(*, half: bool) -> npt.NDArray[np.generic]:
    """The points of all modulation orders, one order after the other: complex64[n], or with `half`
    float16[n, 2]."""
    points = np.concatenate([modulation.points(order) for order in _ORDERS])
    return points.view(np.float32).reshape(-1, 2).astype(np.float16) if half else points


def encoder_prelude(base_graph: int, lifting_size: int, *, half: bool) -> str:
    """The constants that stand before phy/kernels/encode.cu."""
    graph = lifted_graph(base_graph, lifting_size)
    rows = [graph.row(row) for row in range(graph.n_rows)]
    rows[N_CORE_ROWS:] = [row[:-1] for row in rows[N_CORE_ROWS:]]
    starts = [0, *accumulate(len(row) for row in rows)]
    numbers = {
        "Z": lifting_size,
        "N_INFO_COLUMNS": graph.n_info_columns,
        "N_COLUMNS": graph.n_columns,
        "CORE_TURN": -core_shift(graph) % lifting_size,
    }
    tables = {
        "ROW_START": starts,
        "EDGE": [column << 16 | shift for row in rows for column, shift in row],
        "CORE_INFO_END": _core_info_ends(graph, starts),
    }
    lines = [f"constexpr int {name} = {value};" for name, value in numbers.items()]
    lines += [
        f"__device__ const int {name}[] = {{{', '.join(map(str, values))}}};"
        for name, values in tables.items()
    ]
    lines.append("typedef unsigned Symbol;" if half else "typedef float2 Symbol;")
    return "\n".join(lines) + "\n"


class TransmissionTables(NamedTuple):
    """A plan's tables on the device."""

    transmissions: Array
    tb_of_block: Array
    index_of_block: Array
    tb_weight: Array
    n_blocks: Array


def to_device(plan: TransmissionPlan) -> TransmissionTables:
    """Copies a plan's tables to the present device.

    Raises:
        GpuUnavailableError: no CuPy or no GPU.
    """
    cupy = require_cupy()
    return TransmissionTables(
        cupy.asarray(plan.table),
        cupy.asarray(plan.tb_of_block),
        cupy.asarray(plan.index_of_block),
        cupy.asarray(plan.tb_weight),
        cupy.asarray([plan.n_blocks], dtype=cupy.int32),
    )


class Encoder:
    """Everything from packed transport blocks to layer-mapped symbols."""

    def __init__(self, plan: TransmissionPlan, *, half: bool = True) -> None:
        """Compiles the kernels for the sizes in `plan`; with `half`, symbols are two binary16.

        Raises:
            GpuUnavailableError: no CuPy or no GPU.
        """
        cupy = require_cupy()
        self._groups = plan.groups
        self._crc_kernel = function("crc", "tb_crc")
        self._kernels = [
            function("encode", "encode", encoder_prelude(*group[:2], half=half))
            for group in plan.groups
        ]
        self._powers = cupy.asarray(powers())
        self._points = cupy.asarray(constellations(half=half))
        self._sums = cupy.zeros((len(plan.transmissions), 2), dtype=cupy.uint32)
        self._crc = cupy.zeros(len(plan.transmissions), dtype=cupy.uint32)

    def launch(
        self,
        tbs: Array,
        tables: TransmissionTables,
        scrambling: Array,
        symbols: Array,
        stream: Any = None,
    ) -> None:
        """Queues the coding of all transport blocks.

        Args:
            tbs: uint8[plan.n_tb_bytes], packed, see `pack_tbs`.
            tables: of the plan.
            scrambling: uint32[plan.n_scrambling_words], see `pack_scrambling`.
            symbols: float16[plan.n_symbols, 2] or complex64[plan.n_symbols] to fill.
            stream: CUDA stream; None: CuPy's current one.
        """
        blocks = (tables.transmissions, tables.tb_of_block, tables.index_of_block)
        crc_arguments = (
            *(tbs, *blocks, tables.tb_weight, self._powers),
            *(tables.n_blocks, self._sums, self._crc),
        )
        n_blocks = tables.tb_of_block.shape[0]
        launch(self._crc_kernel, n_blocks, THREADS, crc_arguments, 0, stream)
        int32 = require_cupy().int32
        for group, kernel in zip(self._groups, self._kernels, strict=True):
            first, n_blocks = group.blocks.start, group.blocks.stop - group.blocks.start
            arguments = (
                *(tbs, *blocks, self._crc, self._powers, scrambling, self._points),
                *(tables.n_blocks, int32(first), symbols),
            )
            launch(kernel, n_blocks, THREADS, arguments, 0, stream)


def _transmission(config: SchConfig) -> Transmission:
    """All that does not depend on the other transport blocks."""
    cut = config.segmentation
    lengths = config.block_lengths
    buffer = buffer_of(config)
    return Transmission(
        first_block=0,
        n_blocks=cut.n_code_blocks,
        tb_at=0,
        tb_bits=config.tb_size_bits,
        tb_crc_bits=crc.length(cut.tb_crc),
        block_bits=cut.block_bits,
        payload_bits=buffer.payload_bits,
        n_rows=highest_row(config),
        n_short=lengths.count(lengths[0]),
        e_short=lengths[0],
        e_long=lengths[-1],
        modulation_order=config.modulation_order,
        start=buffer.start,
        buffer_bits=buffer.n_bits,
        filler_start=buffer.filler_start,
        filler_end=buffer.filler_end,
        scrambling_at=0,
        symbols_at=0,
        n_layers=config.n_layers,
        layer_stride=config.n_coded_bits // (config.n_layers * config.modulation_order),
        points_at=sum(2**order for order in _ORDERS if order < config.modulation_order),
        number=0,
    )


def _core_info_ends(graph: BaseGraph, starts: Sequence[int]) -> list[int]:
    """First edge of each core row that is in a parity column."""
    ends = []
    for row in range(N_CORE_ROWS):
        edges = graph.row(row)
        n_info = sum(column < graph.n_info_columns for column, _ in edges)
        turned = [shift for column, shift in edges[n_info:] if column > graph.n_info_columns]
        if any(turned):
            raise InvalidInputError("base_graph", "the core's later parity columns must not turn")
        ends.append(starts[row] + n_info)
    return ends
