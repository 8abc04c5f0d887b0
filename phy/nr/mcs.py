"""Modulation and coding schemes.

Spec: TS 38.214 5.1.3.1 (tables 1 to 3, also used by PUSCH) and 6.1.4.1 (transform precoding)
"""

from __future__ import annotations

from dataclasses import dataclass

from airan.core.errors import InvalidInputError
from phy.checks import check_choice, check_integer

# (modulation order, target code rate x 1024) from index 0 on.
_QPSK_LOW = [(2, r) for r in (120, 157, 193, 251, 308, 379, 449, 526, 602)]
_QAM16 = [(4, r) for r in (340, 378, 434, 490, 553, 616, 658)]
_QAM64 = [(6, r) for r in (438, 466, 517, 567, 616, 666, 719, 772)]

_TABLES: dict[int, list[tuple[int, float]]] = {
    1: [*_QPSK_LOW, (2, 679), *_QAM16, *_QAM64, (6, 822), (6, 873), (6, 910), (6, 948)],
    2: [
        *((2, r) for r in (120, 193, 308, 449, 602)),
        *((4, r) for r in (378, 434, 490, 553, 616, 658)),
        *((6, r) for r in (466, 517, 567, 616, 666, 719, 772, 822, 873)),
        *((8, r) for r in (682.5, 711, 754, 797, 841, 885, 916.5, 948)),
    ],
    3: [*((2, r) for r in (30, 40, 50, 64, 78, 99)), *_QPSK_LOW, *_QAM16[:-1], *_QAM64],
}

# With transform precoding: q = 1 where pi/2-BPSK is used, else 2; rates of order q are over q.
_TRANSFORM_TABLES: dict[int, list[tuple[int, float]]] = {
    1: [
        *((0, r) for r in (240, 314)),
        *((2, r) for r in (193, 251, 308, 379, 449, 526, 602, 679)),
        *_QAM16,
        *((6, r) for r in (466, 517, 567, 616, 666, 719, 772, 822, 873, 910, 948)),
    ],
    2: [
        *((0, r) for r in (60, 80, 100, 128, 156, 198)),
        *((2, r) for r in (120, 157, 193, 251, 308, 379, 449, 526, 602, 679)),
        *((4, r) for r in (378, 434, 490, 553, 616, 658, 699, 772)),
        *((6, r) for r in (567, 616, 666, 772)),
    ],
}


@dataclass(frozen=True)
class Mcs:
    """One row of an MCS table.

    Attributes:
        modulation_order: Q_m, bits a symbol.
        code_rate: target code rate R (the table's figure over 1024).
    """

    modulation_order: int
    code_rate: float


def lookup(
    table: int, index: int, transform_precoding: bool = False, pi2_bpsk: bool = False
) -> Mcs:
    """Returns row `index` of MCS table 1 (64QAM), 2 (256QAM) or 3 (low spectral efficiency).

    Args:
        table: 1, 2 or 3 as TS 38.214 5.1.3.1 numbers them; with transform precoding 1 or 2 of
            6.1.4.1, of which 2 is the low spectral efficiency one.
        index: I_MCS.
        transform_precoding: PUSCH with DFT-s-OFDM.
        pi2_bpsk: with transform precoding, higher layers enable pi/2-BPSK (q = 1).

    Raises:
        InvalidInputError: no such table, or a reserved index.

    Spec: TS 38.214 tables 5.1.3.1-1 to -3, 6.1.4.1-1 and -2
    """
    tables = _TRANSFORM_TABLES if transform_precoding else _TABLES
    check_choice("mcs_table", table, tables)
    rows = tables[table]
    check_integer("mcs_index", index, 0, 31)
    if index >= len(rows):
        raise InvalidInputError(
            "mcs_index", f"{index} is reserved in table {table}, the last is {len(rows) - 1}"
        )
    order, rate = rows[index]
    if order == 0:
        order = 1 if pi2_bpsk else 2
        rate /= order
    return Mcs(order, rate / 1024)
