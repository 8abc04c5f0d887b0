"""Demodulation reference signals of PUSCH: configuration type 1, single symbol.

Spec: TS 38.211 6.4.1.1
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import numpy.typing as npt

from airan.core.errors import InvalidInputError
from phy.checks import check_choice, check_integer
from phy.nr import scrambling

MappingType = Literal["A", "B"]

PILOTS_PER_PRB = 6
"""Pilots of one port in one PRB and symbol, configuration type 1."""

# Table 6.4.1.1.3-3, by mapping type: (longest l_d, positions for 0, 1, 2, 3 additional symbols),
# where None stands for l_0.
_POSITIONS: dict[str, list[tuple[int, tuple[tuple[int | None, ...], ...]]]] = {
    "A": [
        (7, ((None,), (None,), (None,), (None,))),
        (9, ((None,), (None, 7), (None, 7), (None, 7))),
        (11, ((None,), (None, 9), (None, 6, 9), (None, 6, 9))),
        (12, ((None,), (None, 9), (None, 6, 9), (None, 5, 8, 11))),
        (14, ((None,), (None, 11), (None, 7, 11), (None, 5, 8, 11))),
    ],
    "B": [
        (4, ((None,), (None,), (None,), (None,))),
        (7, ((None,), (None, 4), (None, 4), (None, 4))),
        (9, ((None,), (None, 6), (None, 3, 6), (None, 3, 6))),
        (11, ((None,), (None, 8), (None, 4, 8), (None, 3, 6, 9))),
        (14, ((None,), (None, 10), (None, 5, 10), (None, 3, 6, 9))),
    ],
}


def symbol_positions(
    mapping_type: MappingType,
    start_symbol: int,
    n_symbols: int,
    additional_positions: int,
    type_a_position: int = 2,
) -> tuple[int, ...]:
    """Returns the symbols of the slot that carry single-symbol DM-RS, without frequency hopping.

    Args:
        mapping_type: "A" (positions count from the slot's start) or "B" (from the allocation's).
        start_symbol: first symbol of the allocation.
        n_symbols: symbols of the allocation.
        additional_positions: dmrs-AdditionalPosition, 0 to 3.
        type_a_position: dmrs-TypeA-Position, 2 or 3.

    Raises:
        InvalidInputError: a value out of range, or a combination that the table does not have.

    Spec: TS 38.211 6.4.1.1.3, table 6.4.1.1.3-3
    """
    check_choice("mapping_type", mapping_type, _POSITIONS)
    check_integer("start_symbol", start_symbol, 0, 13)
    check_integer("n_symbols", n_symbols, 1, 14 - start_symbol)
    check_integer("dmrs_additional_positions", additional_positions, 0, 3)
    check_choice("dmrs_type_a_position", type_a_position, (2, 3))
    if mapping_type == "A":
        if start_symbol != 0:
            raise InvalidInputError("start_symbol", "must be 0 with mapping type A")
        if n_symbols < 4:
            raise InvalidInputError("n_symbols", "must be at least 4 with mapping type A")
        if additional_positions == 3 and type_a_position != 2:
            raise InvalidInputError("dmrs_additional_positions", "3 needs dmrs_type_a_position 2")
    rows = _POSITIONS[mapping_type]
    row = next(positions for longest, positions in rows if n_symbols <= longest)
    first = type_a_position if mapping_type == "A" else 0
    reference = 0 if mapping_type == "A" else start_symbol
    return tuple(
        reference + (first if position is None else position)
        for position in row[additional_positions]
    )


def sequence(
    slot_number: int, symbol: int, n_id: int, n_scid: int, start_prb: int, n_prb: int
) -> npt.NDArray[np.complex64]:
    """Returns r(n) of the allocated PRBs: complex64[6 n_prb], magnitude 1.

    Args:
        slot_number: slot within the frame.
        symbol: symbol within the slot.
        n_id: N_ID^{n_SCID}, 0 to 65535.
        n_scid: 0 or 1.
        start_prb: first PRB, counted from common resource block 0.
        n_prb: PRBs.

    Spec: TS 38.211 6.4.1.1.1.1
    """
    c_init = ((1 << 17) * (14 * slot_number + symbol + 1) * (2 * n_id + 1) + 2 * n_id + n_scid) % (
        1 << 31
    )
    n = PILOTS_PER_PRB * (start_prb + n_prb)
    c = scrambling.sequence(c_init, 2 * n).astype(np.float32)
    r = ((1 - 2 * c[0::2]) + 1j * (1 - 2 * c[1::2])) / np.float32(math.sqrt(2))
    return r[PILOTS_PER_PRB * start_prb :].astype(np.complex64)


def subcarriers(n_prb: int, port: int) -> npt.NDArray[np.intp]:
    """Returns the subcarriers of the allocation that carry DM-RS of `port` (0 to 3): [6 n_prb].

    Spec: TS 38.211 6.4.1.1.3, table 6.4.1.1.3-1
    """
    check_integer("port", port, 0, 3)
    return 2 * np.arange(PILOTS_PER_PRB * n_prb) + port // 2


def cover(n_pilots: int, port: int) -> npt.NDArray[np.float32]:
    """Returns w_f of `port` for each pilot: float32[n_pilots], +1 or -1.

    Spec: TS 38.211 table 6.4.1.1.3-1
    """
    check_integer("port", port, 0, 3)
    signs = np.ones(n_pilots, dtype=np.float32)
    if port % 2 == 1:
        signs[1::2] = -1.0
    return signs


def amplitude(n_cdm_groups_without_data: int) -> float:
    """Returns beta_DMRS, the amplitude of DM-RS relative to data.

    Spec: TS 38.214 table 6.2.2-1: 0 dB and -3 dB of PUSCH relative to DM-RS for 1 and 2 groups
    """
    check_choice("n_cdm_groups_without_data", n_cdm_groups_without_data, (1, 2))
    ratio_db = {1: 0.0, 2: -3.0}[n_cdm_groups_without_data]
    return float(10 ** (-ratio_db / 20))
