"""Transport block sizes.

Spec: TS 38.214 5.1.3.2 (PDSCH) and 6.1.4.2 (PUSCH)
"""

from __future__ import annotations

import math
from bisect import bisect_left
from fractions import Fraction

from phy.checks import check_choice, check_integer, check_range

_MAX_RE_PER_PRB = 156
_MAX_PRB = 275
_LARGE_TB_BITS = 3824

# Table 5.1.3.2-1.
_SMALL_SIZES: tuple[int, ...] = (
    *range(24, 193, 8),
    *range(208, 385, 16),
    *range(408, 577, 24),
    *range(608, 769, 32),
    *(808, 848, 888, 928, 984, 1032, 1064, 1128, 1160, 1192, 1224, 1256, 1288, 1320, 1352, 1416),
    *(1480, 1544, 1608, 1672, 1736, 1800, 1864, 1928, 2024, 2088, 2152, 2216, 2280, 2408, 2472),
    *(2536, 2600, 2664, 2728, 2792, 2856, 2976, 3104, 3240, 3368, 3496, 3624, 3752, 3824),
)


def size(
    n_prb: int,
    n_symbols: int,
    n_dmrs_re_per_prb: int,
    modulation_order: int,
    code_rate: float,
    n_layers: int = 1,
) -> int:
    """Returns the transport block size in bits, without CRC.

    Args:
        n_prb: allocated PRBs.
        n_symbols: allocated symbols of the slot, 1 to 14.
        n_dmrs_re_per_prb: resource elements of a PRB that carry no data: DM-RS with its CDM groups
            without data, and xOverhead.
        modulation_order: Q_m.
        code_rate: target code rate R.
        n_layers: v.

    Raises:
        InvalidInputError: a value out of range, or no resource element is left.

    Spec: TS 38.214 5.1.3.2 (PDSCH), 6.1.4.2 (PUSCH)
    """
    check_integer("n_prb", n_prb, 1, _MAX_PRB)
    check_integer("n_symbols", n_symbols, 1, 14)
    check_integer("n_dmrs_re_per_prb", n_dmrs_re_per_prb, 0, 12 * n_symbols - 1)
    n_re = min(_MAX_RE_PER_PRB, 12 * n_symbols - n_dmrs_re_per_prb) * n_prb
    return size_from_re(n_re, modulation_order, code_rate, n_layers)


def size_from_re(
    n_re: int, modulation_order: int, code_rate: float, n_layers: int = 1, scaling: float = 1.0
) -> int:
    """Returns the transport block size in bits of N_RE counted resource elements.

    Args:
        n_re: N_RE, at most 156 for each PRB.
        modulation_order: Q_m.
        code_rate: target code rate R.
        n_layers: v.
        scaling: S of table 5.1.3.2-2 (paging, random access response), else 1.

    Raises:
        InvalidInputError: a value out of range.

    Spec: TS 38.214 5.1.3.2 steps 2 to 4
    """
    check_integer("n_re", n_re, 1, _MAX_RE_PER_PRB * _MAX_PRB)
    check_choice("modulation_order", modulation_order, (1, 2, 4, 6, 8))
    check_range("code_rate", code_rate, 1e-6, 1.0)
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
    quantised = max(24, (1 << n) * (int(n_info) >> n))
    index = bisect_left(_SMALL_SIZES, quantised)
    return _SMALL_SIZES[index]


def _large_size(n_info: Fraction, rate: Fraction) -> int:
    excess = n_info - 24
    n = int(excess).bit_length() - 1 - 5
    # "Ties in the round function are broken towards the next largest integer."
    quantised = max(3840, (1 << n) * math.floor(excess / (1 << n) + Fraction(1, 2)))
    if rate <= Fraction(1, 4):
        n_blocks = -(-(quantised + 24) // 3816)
    elif quantised > 8424:
        n_blocks = -(-(quantised + 24) // 8424)
    else:
        n_blocks = 1
    unit = 8 * n_blocks
    return unit * -(-(quantised + 24) // unit) - 24
