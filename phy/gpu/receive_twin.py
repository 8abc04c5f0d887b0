"""The NumPy twins of phy/kernels/rate_recover.cu and phy/kernels/crc.cu."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from phy.gpu.ldpc_twin import unpack_words
from phy.gpu.transport import Reception, ReceptionPlan
from phy.nr import crc

LIMIT = 127


def rate_recover(
    llr: npt.NDArray[np.int8], plan: ReceptionPlan, soft: npt.NDArray[np.int8]
) -> None:
    """Adds received LLRs to the soft buffers as the kernel does.

    Args:
        llr: int8[plan.n_llr], in the order of transmission, descrambled.
        plan: of the transport blocks.
        soft: int8[...], the pool of soft buffers, changed in place.
    """
    for tb in plan.receptions:
        at = tb.first_llr
        for index in range(tb.n_blocks):
            e_bits = tb.e_short if index < tb.n_short else tb.e_long
            place = 16 * (tb.soft_at + index * tb.soft_stride)
            _recover_block(llr[at : at + e_bits], tb, soft[place : place + 16 * tb.soft_stride])
            at += e_bits


def _recover_block(llr: npt.NDArray[np.int8], tb: Reception, buffer: npt.NDArray[np.int8]) -> None:
    in_order = llr.reshape(-1, tb.modulation_order).T.reshape(-1)
    n_filler = tb.filler_end - tb.filler_start
    n_turn = tb.buffer_bits - n_filler
    turns = np.zeros((-(-llr.size // n_turn), n_turn), np.int64)
    turns.reshape(-1)[: llr.size] = in_order
    received = np.roll(turns.sum(axis=0), tb.start)
    fillers = np.zeros(n_filler, np.int64)
    received = np.insert(received, tb.filler_start, fillers)
    buffer[tb.n_before : tb.n_after] = 0
    n_places = min(tb.n_after, tb.buffer_bits)
    total = buffer[:n_places] + received[:n_places]
    buffer[:n_places] = np.clip(total, -LIMIT, LIMIT)
    buffer[tb.filler_start : tb.filler_end] = LIMIT


@dataclass(frozen=True)
class JoinedBlocks:
    """What the kernel writes.

    Attributes:
        tb_bytes: uint8[plan.n_tb_bytes], the transport blocks, the first bit highest.
        block_ok: uint8[cb], the code block's own CRC holds.
        crc_ok: uint8[tb], all CRCs of the transport block hold, and no code block is mere silence.
    """

    tb_bytes: npt.NDArray[np.uint8]
    block_ok: npt.NDArray[np.uint8]
    crc_ok: npt.NDArray[np.uint8]


def check_and_join(
    bits: npt.NDArray[np.uint32], parity_ok: npt.NDArray[np.uint8], plan: ReceptionPlan
) -> JoinedBlocks:
    """Checks the CRCs of decoded code blocks and puts the transport blocks together.

    Args:
        bits: uint32[plan.n_words], the decoded bits of all code blocks.
        parity_ok: uint8[cb].
        plan: of the transport blocks.
    """
    found = JoinedBlocks(
        np.zeros(plan.n_tb_bytes, np.uint8),
        np.zeros(plan.n_blocks, np.uint8),
        np.zeros(len(plan.receptions), np.uint8),
    )
    for number, tb in enumerate(plan.receptions):
        words = bits[tb.bits_at :][: tb.n_blocks * tb.bits_stride].reshape(tb.n_blocks, -1)
        blocks = unpack_words(words, tb.block_bits)
        mine = slice(tb.first_block, tb.first_block + tb.n_blocks)
        spoken = blocks.any(axis=1) | parity_ok[mine].astype(bool)
        with_crc = blocks[:, : tb.payload_bits].reshape(-1)
        tb_right = bool(crc.check(with_crc, "24A" if tb.tb_crc_bits == 24 else "16"))
        right = spoken & (crc.check(blocks, "24B") if tb.n_blocks > 1 else True)
        found.crc_ok[number] = tb_right and right.all()
        found.block_ok[mine] = right if tb.n_blocks > 1 else right & tb_right
        packed = np.packbits(with_crc[: tb.tb_bits])
        found.tb_bytes[tb.tb_at : tb.tb_at + packed.size] = packed
    return found
