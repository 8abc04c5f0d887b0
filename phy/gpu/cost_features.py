"""What a slot's time on the GPU is made of: the work that each kernel has, from the slot's load.

Every feature grows, or stays, with more cells, PRBs, layers, antennas and iterations, and falls, or
stays, with more multiprocessors. A sum of them with weights that are not negative therefore does so
too. That is why code blocks are counted as if all were of the longest size: the true lifting size
jumps, and a block more is at times less work.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from phy.checks import check_choice, check_integer
from phy.nr import tbs
from phy.nr.base_graph import N_CORE_ROWS, lifted_graph
from phy.nr.mcs import lookup

CHANNELS = ("pusch", "pdsch")
DATA_RE_PER_PRB = 144
"""Resource elements that carry data on one PRB of a layer: 12 symbols of a slot's 14."""

_MAX = {"n_cells": 1024, "n_prb": 275, "n_layers": 4, "n_rx": 16, "n_iterations": 100}
_MAX_SMS = 1024
_LONGEST_LIFTING_SIZE = 384
_CRC_BITS = 24
# A thread block of the decoder takes two code blocks, one in each half of its words.
_BLOCKS_TOGETHER = 2
_TILE_PRB = 16  # of the front end's tiles, about
_ENCODED_TOGETHER = 16  # the encoder's thread blocks on a multiprocessor


@dataclass(frozen=True)
class SlotLoad:
    """One slot of cells that are all loaded alike, and the multiprocessors it runs on.

    Attributes:
        channel: "pusch" (received) or "pdsch" (sent).
        n_cells: cells, each with one UE or as many as share its PRBs.
        n_prb: PRBs in use of each cell.
        n_layers: layers of each.
        mcs_index: row of the MCS table.
        mcs_table: 1 (64QAM), 2 (256QAM) or 3 (low spectral efficiency).
        n_rx: receive antennas of a cell; 0 for the PDSCH.
        n_iterations: iterations that code blocks are decoded with; 0 for the PDSCH.
        n_sms: multiprocessors granted.

    Raises:
        InvalidInputError: a field is out of range.
    """

    channel: str
    n_cells: int
    n_prb: int
    n_layers: int
    mcs_index: int
    mcs_table: int
    n_rx: int
    n_iterations: int
    n_sms: int

    def __post_init__(self) -> None:
        check_choice("channel", self.channel, CHANNELS)
        for field in ("n_cells", "n_prb", "n_layers"):
            check_integer(field, getattr(self, field), 1, _MAX[field])
        for field in ("n_rx", "n_iterations"):
            least, most = (1, _MAX[field]) if self.channel == "pusch" else (0, 0)
            check_integer(field, getattr(self, field), least, most)
        check_integer("n_sms", self.n_sms, 1, _MAX_SMS)
        lookup(self.mcs_table, self.mcs_index)


@dataclass(frozen=True)
class CodingWork:
    """What the channel coding of one cell comes to.

    Attributes:
        tb_size_bits: information bits.
        n_coded_bits: coded bits, one LLR each.
        n_blocks: code blocks of the longest size.
        n_edges: of the base graph, in the rows that the code rate needs.
    """

    tb_size_bits: int
    n_coded_bits: int
    n_blocks: int
    n_edges: int


@lru_cache(maxsize=4096)
def coding_work(n_prb: int, n_layers: int, mcs_index: int, mcs_table: int) -> CodingWork:
    """Returns the coding work of one cell.

    Spec: TS 38.212 5.2.2, 7.2.2; TS 38.214 5.1.3.2
    """
    mcs = lookup(mcs_table, mcs_index)
    n_re = DATA_RE_PER_PRB * n_prb
    size = tbs.size_from_re(n_re, mcs.modulation_order, mcs.code_rate, n_layers)
    # The size at which 7.2.2 takes the second graph for short blocks too is left out: the time
    # would fall where the block grows past it.
    graph = lifted_graph(2 if mcs.code_rate <= 0.25 else 1, _LONGEST_LIFTING_SIZE)
    n_info = graph.n_info_columns
    n_rows = math.ceil(n_info / mcs.code_rate) - n_info + 2
    n_rows = min(max(n_rows, N_CORE_ROWS), graph.n_rows)
    block_bits = n_info * _LONGEST_LIFTING_SIZE - _CRC_BITS
    return CodingWork(
        tb_size_bits=size,
        n_coded_bits=n_re * n_layers * mcs.modulation_order,
        n_blocks=-(-(size + _CRC_BITS) // block_bits),
        n_edges=int(graph.row_start[n_rows]),
    )


def features(load: SlotLoad) -> dict[str, float]:
    """Returns the load's features by name; the names depend on the channel only.

    Those that end in `_memory` are limited by what all multiprocessors share, so that more of them
    do not help; `_waves` are rounds in which every multiprocessor takes one piece of work, the last
    one full or not; all others are shared evenly.
    """
    work = coding_work(load.n_prb, load.n_layers, load.mcs_index, load.mcs_table)
    return _pusch(load, work) if load.channel == "pusch" else _pdsch(load, work)


def feature_names(channel: str) -> tuple[str, ...]:
    """Returns the names of a channel's features.

    Raises:
        InvalidInputError: no such channel.
    """
    check_choice("channel", channel, CHANNELS)
    received = channel == "pusch"
    return tuple(features(SlotLoad(channel, 1, 1, 1, 0, 1, int(received), int(received), 1)))


def _pusch(load: SlotLoad, work: CodingWork) -> dict[str, float]:
    n_sms, n_layers, n_rx = load.n_sms, load.n_layers, load.n_rx
    prbs = load.n_cells * load.n_prb
    n_blocks = load.n_cells * work.n_blocks
    rounds = math.ceil(n_blocks / (_BLOCKS_TOGETHER * n_sms))
    tiles = load.n_cells * math.ceil(load.n_prb / _TILE_PRB)
    coded = load.n_cells * work.n_coded_bits
    return {
        "launch": 1.0,
        "samples_memory": float(prbs * n_rx),
        "channel_memory": float(prbs * n_rx * n_layers),
        "llr_memory": float(coded),
        "front_end_waves": float(math.ceil(tiles / n_sms)),
        "estimate": prbs * n_rx * n_layers / n_sms,
        "equalise": prbs * n_layers**2 * (n_rx + n_layers) / n_sms,
        "llr": coded / n_sms,
        "information": load.n_cells * work.tb_size_bits / n_sms,
        "block_waves": float(rounds),
        "decode_waves": float(rounds * work.n_edges * load.n_iterations),
        "decode": n_blocks * work.n_edges * load.n_iterations / n_sms,
    }


def _pdsch(load: SlotLoad, work: CodingWork) -> dict[str, float]:
    n_sms = load.n_sms
    symbols = load.n_cells * load.n_prb * load.n_layers
    n_blocks = load.n_cells * work.n_blocks
    rounds = math.ceil(n_blocks / (_ENCODED_TOGETHER * n_sms))
    coded = load.n_cells * work.n_coded_bits
    return {
        "launch": 1.0,
        # Every cell's grid is written completely, whatever is sent in it.
        "grids_memory": float(load.n_cells),
        "grids": load.n_cells / n_sms,
        "symbols_memory": float(symbols),
        "symbols": symbols / n_sms,
        "coded_memory": float(coded),
        "coded": coded / n_sms,
        "information": load.n_cells * work.tb_size_bits / n_sms,
        "block_waves": float(rounds),
        "encode_waves": float(rounds * work.n_edges),
        "encode": n_blocks * work.n_edges / n_sms,
    }
