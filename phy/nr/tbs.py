"""Transport block sizes.

Spec: TS 38.214 5.1.3.2 (PDSCH) and 6.1.4.2 (PUSCH)
"""

from __future__ import annotations

import math
from bisect import bisect_left
from fractions import Fraction

from airan.core.errors import InvalidInputError
from phy.checks import check_choice, check_integer, check_range

_MAX_RE_PER_PRB = 156
_LARGE_TB_BITS = 3824

# Table 5.1.3.2-1.
_SMALL_SIZES = (
    *range(24, 193, 8),
    *range(208, 385, 16),
    *range(408, 577, 24),
    *range(608, 769, 32),
    *(808, 848, 888, 928, 984, 1032, 1064, 1128, 1160, 1192, 1224, 1256, 1288, 1320, 1352, 1416),
    *(1480, 1544, 1608, 1672, 1736, 1800, 1864, 1928, 2024, 2088, 2152, 2216, 2280, 2408, 2472),
    *(2536, 2600, 2664, 2728, 2792, 2856, 2976, 3104, 3240, 3368, 3496, 3624, 3752, 3824),
)


def resource_elements(
    n_prb: int, n_symbols: int, n_dmrs_per_prb: int, n_overhead_per_prb: int = 0
) -> int:
    """Returns N_RE, the resource elements that count for the transport block size.

    Args:
        n_prb: allocated PRBs.
        n_symbols: allocated symbols of the slot, 1 to 14.
        n_dmrs_per_prb: resource elements of a PRB taken by DM-RS and its CDM groups without data.
        n_overhead_per_prb: xOverhead, 0, 6, 12 or 18.

    Raises:
        InvalidInputError: a value out of range, or no resource element is left.

    Spec: TS 38.214 5.1.3.2 step 1
    """
    check_integer("n_prb", n_prb, 1, 275)
    check_integer("n_symbols", n_symbols, 1, 14)
    check_integer("n_dmrs_per_prb", n_dmrs_per_prb, 0, 12 * n_symbols)
    check_choice("n_overhead_per_prb", n_overhead_per_prb, (0, 6, 12, 18))
    per_prb = 12 * n_symbols - n_dmrs_per_prb - n_overhead_per_prb
    if per_prb < 1:
        raise InvalidInputError("n_symbols", "DM-RS and overhead leave no resource element")
    return min(_MAX_RE_PER_PRB, per_prb) * n_prb


def size(
    n_re: int, code_rate: float, modulation_order: int, n_layers: int = 1, scaling: float = 1.0
) -> int:
    """Returns the transport block size in bits, without CRC.

    Args:
        n_re: N_RE, see `resource_elements`.
        code_rate: target code rate R.
        modulation_order: Q_m.
        n_layers: v.
        scaling: S of table 5.1.3.2-2 (paging, random access response), else 1.

    Raises:
        InvalidInputError: a value out of range.

    Spec: TS 38.214 5.1.3.2 steps 2 to 4
    """
    check_integer("n_re", n_re, 1, _MAX_RE_PER_PRB * 275)
    check_range("code_rate", code_rate, 1e-6, 1.0)
    check_choice("modulation_order", modulation_order, (1, 2, 4, 6, 8))
    check_integer("n_layers", n_layers, 1, 8)
    check_choice("scaling", scaling, (1.0, 0.5, 0.25))
    # Exact arithmetic: at the limits, a rounding error of floats would choose another size.
    rate = Fraction(code_rate)
    n_info = Fraction(scaling) * n_re * rate * modulation_order * n_layers
    if n_info <= _LARGE_TB_BITS:
        return _small_size(n_info)
    return _large_size(n_info, rate)


def _small_size(n_info: Fraction) -> int:
    n = max(3, int(n_info).bit_length() - 1 - 6)
    quantised = max(24, 2**n * (math.floor(n_info) >> n))
    return _SMALL_SIZES[bisect_left(_SMALL_SIZES, quantised)]


def _large_size(n_info: Fraction, rate: Fraction) -> int:
    excess = n_info - 24
    n = int(excess).bit_length() - 1 - 5
    # "Ties in the round function are broken towards the next largest integer."
    quantised = max(3840, 2**n * math.floor(excess / 2**n + Fraction(1, 2)))
    if rate <= Fraction(1, 4):
        n_blocks = -(-(quantised + 24) // 3816)
    elif quantised > 8424:
        n_blocks = -(-(quantised + 24) // 8424)
    else:
        n_blocks = 1
    unit = 8 * n_blocks
    return unit * -(-(quantised + 24) // unit) - 24
