"""The CPU kernels of shared-channel coding besides the decoder: CRC, LDPC encoder, rate matching.
Imported only through phy.jit, because it imports Numba.

Offsets are unsigned, because a signed index would be checked for being negative at every step.
Numba infers the types itself; what an argument is, the docstrings say.
"""

# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

u32 = np.uint32
u64 = np.uint64


@njit(nogil=True, cache=True)
def crc_remainders(packed: Any, table: Any, remainders: Any) -> None:
    """Divides each row of uint8 packed[n, bytes], most significant bit first, byte by byte.

    `table` is uint32[256], the remainders of the bytes; they and uint32 `remainders`[n], which is
    filled, stand in the highest bits of their words.
    """
    for row in range(packed.shape[0]):
        register = u32(0)
        for byte in packed[row]:
            register = u32(register << u32(8)) ^ table[(register >> u32(24)) ^ byte]
        remainders[row] = register


@njit(nogil=True, cache=True)
def encode_blocks(info: Any, z: Any, steps: Any, word: Any, coded: Any) -> None:
    """Encodes uint8 info[cb, K] into coded[cb, N].

    Each of `steps`, uint64[n, 3], adds Z bits of `word` (uint8, room for the whole code word and
    for sums) from the first number on, turned by the second, to the Z bits from the third number
    on.
    """
    n_info_bits = u64(info.shape[1])
    for block in range(u64(info.shape[0])):
        for i in range(n_info_bits):
            word[i] = info[block, i]
        for i in range(n_info_bits, u64(word.size)):
            word[i] = 0
        for step in range(steps.shape[0]):
            source, turn, target = steps[step, 0], steps[step, 1], steps[step, 2]
            for i in range(z - turn):
                word[target + i] ^= word[source + turn + i]
            for i in range(turn):
                word[target + z - turn + i] ^= word[source + i]
        for i in range(u64(coded.shape[1])):
            coded[block, i] = word[u64(2) * z + i]


@njit(nogil=True, cache=True)
def match_blocks(coded: Any, runs: Any, order: Any, sent: Any) -> None:
    """Selects and interleaves coded[cb, N] into sent[cb, E], both uint8.

    `runs` is uint64[n, 2], start and length of the contiguous runs of one turn of the circular
    buffer; the turn is repeated as often as needed.
    """
    n_columns = u64(sent.shape[1]) // order
    for block in range(coded.shape[0]):
        source, target = coded[block], sent[block]
        run, start, left = u64(0), runs[0, 0], runs[0, 1]
        for row in range(order):
            done = u64(0)
            while done < n_columns:
                count = min(left, n_columns - done)
                for i in range(count):
                    target[(done + i) * order + row] = source[start + i]
                done, start, left = done + count, start + count, left - count
                if left == u64(0):
                    run = (run + u64(1)) % u64(runs.shape[0])
                    start, left = runs[run, 0], runs[run, 1]


@njit(nogil=True, cache=True)
def recover_blocks(llr: Any, runs: Any, order: Any, recovered: Any) -> None:
    """Adds float32 llr[cb, E] up in recovered[cb, N]: `match_blocks` the other way round."""
    n_columns = u64(llr.shape[1]) // order
    for block in range(llr.shape[0]):
        source, target = llr[block], recovered[block]
        run, start, left = u64(0), runs[0, 0], runs[0, 1]
        for row in range(order):
            done = u64(0)
            while done < n_columns:
                count = min(left, n_columns - done)
                for i in range(count):
                    target[start + i] += source[(done + i) * order + row]
                done, start, left = done + count, start + count, left - count
                if left == u64(0):
                    run = (run + u64(1)) % u64(runs.shape[0])
                    start, left = runs[run, 0], runs[run, 1]
