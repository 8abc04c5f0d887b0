"""Tables from which the GPU generates pseudo-random sequences, and their twin.

Spec: TS 38.211 5.2.1
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from phy.gpu.front_end_layout import CHUNK_BITS, CHUNK_WORDS
from phy.nr import dmrs, scrambling

N_CHUNKS = 2867
"""Chunks of the longest sequence: 273 PRB, 14 symbols, 4 layers, 256QAM."""

_DEGREE = 31


@lru_cache(maxsize=1)
def jumps() -> npt.NDArray[np.uint32]:
    """Which bits of c_init add up to each bit of the second register where a chunk begins:
    uint32[31, chunk], bit b for bit b of c_init."""
    n = N_CHUNKS * CHUNK_BITS + _DEGREE
    starts = np.arange(N_CHUNKS) * CHUNK_BITS
    out = np.zeros((_DEGREE, N_CHUNKS), np.uint32)
    for bit in range(_DEGREE):
        register = scrambling.second_register(1 << bit, n)
        for state_bit in range(_DEGREE):
            out[state_bit] |= register[starts + state_bit].astype(np.uint32) << np.uint32(bit)
    return out


@lru_cache(maxsize=1)
def first_register() -> npt.NDArray[np.uint32]:
    """The part that all sequences share: uint32[chunk, 16], lowest bit first."""
    return pack_bits(scrambling.first_register(N_CHUNKS * CHUNK_BITS)).reshape(-1, CHUNK_WORDS)


def pack_bits(bits: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint32]:
    """Packs 0 and 1, a multiple of 32 of them, into words, lowest bit first."""
    return np.packbits(bits, bitorder="little").view("<u4").astype(np.uint32)


def generate(
    ues: npt.NDArray[np.void], n_pilot_words: int, n_scrambling_words: int
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
    """Twin of `generate_sequences`: the packed pilots and scrambling sequences of all UEs."""
    pilots = np.zeros(n_pilot_words, np.uint32)
    scrambled = np.zeros(n_scrambling_words, np.uint32)
    for ue in ues:
        if ue["n_subcarriers"] == 0:
            continue
        length, stride = int(ue["dmrs_length"]), int(ue["pilot_stride"])
        skipped = int(ue["pilot_first_chunk"]) * CHUNK_BITS
        for row in range(int(ue["n_positions"]) * length):
            symbol = int(ue["dmrs_symbol"][row // length]) + row % length
            c_init = dmrs.c_init(
                int(ue["slot_number"]), symbol, int(ue["pilot_n_id"]), int(ue["pilot_n_scid"])
            )
            bits = scrambling.sequence(c_init, skipped + 32 * stride)[skipped:]
            first = int(ue["pilot_offset"]) + row * stride
            pilots[first : first + stride] = pack_bits(bits)
        n_words = -(-int(ue["n_coded_bits"]) // CHUNK_BITS) * CHUNK_WORDS
        bits = scrambling.sequence(int(ue["scrambling_c_init"]), 32 * n_words)
        first = int(ue["scrambling_offset"])
        scrambled[first : first + n_words] = pack_bits(bits)
    return pilots, scrambled
