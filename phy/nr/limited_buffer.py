"""The limited circular buffer of rate matching.

Spec: TS 38.212 5.4.2.1
"""

from __future__ import annotations

from bisect import bisect_left

from phy.checks import check_choice, check_integer
from phy.nr import tbs

# n_PRB,LBRM: the sizes to which a carrier's PRBs are rounded up.
_PRB_STEPS = (32, 66, 107, 135, 162, 217, 273)
_CODE_RATE = 948 / 1024


def n_ref_bits(n_prb: int, n_layers: int, modulation_order: int, n_code_blocks: int) -> int:
    """Returns N_ref, the size of each code block's circular buffer in bits.

    Args:
        n_prb: PRBs of the largest bandwidth part of the carrier, 1 to 275.
        n_layers: most layers that one transport block may have, 1 to 4.
        modulation_order: highest modulation order that is configured, 6 or 8.
        n_code_blocks: C of the transport block.

    Raises:
        InvalidInputError: a value out of range.

    Spec: TS 38.212 5.4.2.1, table 5.4.2.1-1
    """
    check_integer("n_prb", n_prb, 1, 275)
    check_integer("n_layers", n_layers, 1, 4)
    check_choice("modulation_order", modulation_order, (6, 8))
    check_integer("n_code_blocks", n_code_blocks, 1, 10_000)
    rounded = _PRB_STEPS[min(bisect_left(_PRB_STEPS, n_prb), len(_PRB_STEPS) - 1)]
    largest = tbs.size_from_re(156 * rounded, modulation_order, _CODE_RATE, n_layers)
    # floor(TBS_LBRM / (C R_LBRM)) with R_LBRM = 2/3.
    return largest * 3 // (2 * n_code_blocks)
