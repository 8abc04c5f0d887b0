"""LDPC coding of the shared channels: the public face of encoder, rate matching and decoder.

LLRs are log P(0)/P(1): positive means bit 0. Bits are uint8. The code-block axis comes first.

Spec: TS 38.212 5.3.2, 5.4.2, 6.2.2
"""

from __future__ import annotations

from phy.checks import check_range
from phy.nr.ldpc_decoder import LdpcResult, decode
from phy.nr.ldpc_encoder import encode
from phy.nr.ldpc_rate import FILLER_LLR, rate_match, rate_recover

__all__ = [
    "FILLER_LLR",
    "LdpcResult",
    "decode",
    "encode",
    "rate_match",
    "rate_recover",
    "select_base_graph",
]


def select_base_graph(tb_size_bits: int, code_rate: float) -> int:
    """Returns the LDPC base graph, 1 or 2, of a transport block.

    Args:
        tb_size_bits: A, without CRC.
        code_rate: target code rate R of the MCS, 0 < R < 1.

    Raises:
        InvalidInputError: no bits, or a rate outside (0, 1].

    Spec: TS 38.212 6.2.2 and 7.2.2
    """
    check_range("tb_size_bits", tb_size_bits, 1, float("inf"))
    check_range("code_rate", code_rate, 1e-6, 1.0)
    small = tb_size_bits <= 292
    medium_at_low_rate = tb_size_bits <= 3824 and code_rate <= 0.67
    return 2 if small or medium_at_low_rate or code_rate <= 0.25 else 1
