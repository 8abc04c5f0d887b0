"""How a transport block is cut into LDPC code blocks.

Spec: TS 38.212 5.2.2 (segmentation), 6.2.1/7.2.1 (CRC choice), 5.4.2.1 (E of each block)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from phy.nr.base_graph import LIFTING_SIZES
from phy.nr.crc import Poly, length

_MAX_BLOCK_BITS = {1: 8448, 2: 3840}
_LARGE_TB_BITS = 3824
_CB_CRC_BITS = 24


@dataclass(frozen=True)
class Segmentation:
    """The cut of one transport block.

    Attributes:
        base_graph: 1 or 2.
        lifting_size: Z_c.
        n_code_blocks: C.
        tb_crc: polynomial of the transport block's CRC.
        block_bits: K', bits of a code block with its CRC, without fillers.
        n_info_bits: K = 22 Z or 10 Z.
    """

    base_graph: int
    lifting_size: int
    n_code_blocks: int
    tb_crc: Poly
    block_bits: int
    n_info_bits: int

    @property
    def n_filler(self) -> int:
        """F = K - K', filler bits at the end of each code block."""
        return self.n_info_bits - self.block_bits


@lru_cache(maxsize=256)
def segment(tb_size_bits: int, base_graph: int) -> Segmentation:
    """Returns the segmentation of a transport block of `tb_size_bits` (A, without CRC).

    Where the bits do not divide evenly into C blocks (sizes that TS 38.214 never gives), the last
    block is counted as full; `phy.nr.sch` refuses such sizes.

    Spec: TS 38.212 5.2.2
    """
    tb_crc: Poly = "24A" if tb_size_bits > _LARGE_TB_BITS else "16"
    bits = tb_size_bits + length(tb_crc)
    largest = _MAX_BLOCK_BITS[base_graph]
    n_blocks, bits_with_crcs = 1, bits
    if bits > largest:
        n_blocks = -(-bits // (largest - _CB_CRC_BITS))
        bits_with_crcs = bits + n_blocks * _CB_CRC_BITS
    block_bits = -(-bits_with_crcs // n_blocks)
    columns = _info_columns_used(bits, base_graph)
    lifting_size = next(z for z in LIFTING_SIZES if columns * z >= block_bits)
    return Segmentation(
        base_graph=base_graph,
        lifting_size=lifting_size,
        n_code_blocks=n_blocks,
        tb_crc=tb_crc,
        block_bits=block_bits,
        n_info_bits=(22 if base_graph == 1 else 10) * lifting_size,
    )


def block_lengths(
    n_coded_bits: int, n_code_blocks: int, n_layers: int, modulation_order: int
) -> list[int]:
    """Returns E of every code block: G shared out in whole symbols over all layers.

    Spec: TS 38.212 5.4.2.1
    """
    unit = n_layers * modulation_order
    n_units = n_coded_bits // unit
    short, n_long = divmod(n_units, n_code_blocks)
    n_short = n_code_blocks - n_long
    return [unit * short] * n_short + [unit * (short + 1)] * n_long


def _info_columns_used(bits: int, base_graph: int) -> int:
    """K_b of TS 38.212 5.2.2."""
    if base_graph == 1:
        return 22
    for threshold, columns in ((640, 10), (560, 9), (192, 8)):
        if bits > threshold:
            return columns
    return 6
