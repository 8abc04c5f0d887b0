from __future__ import annotations

import numpy as np
import pytest

from airan.core.errors import InvalidInputError
from phy.nr import dmrs


@pytest.mark.parametrize(
    ("mapping_type", "start", "n_symbols", "additional", "expected"),
    # TS 38.211 table 6.4.1.1.3-3, single-symbol DM-RS, dmrs-TypeA-Position = pos2.
    [
        ("A", 0, 7, 3, (2,)),
        ("A", 0, 9, 1, (2, 7)),
        ("A", 0, 11, 2, (2, 6, 9)),
        ("A", 0, 12, 3, (2, 5, 8, 11)),
        ("A", 0, 13, 1, (2, 11)),
        ("A", 0, 14, 0, (2,)),
        ("A", 0, 14, 1, (2, 11)),
        ("A", 0, 14, 2, (2, 7, 11)),
        ("A", 0, 14, 3, (2, 5, 8, 11)),
        ("B", 0, 4, 1, (0,)),
        ("B", 3, 7, 1, (3, 7)),
        ("B", 2, 9, 2, (2, 5, 8)),
        ("B", 1, 11, 3, (1, 4, 7, 10)),
        ("B", 0, 14, 2, (0, 5, 10)),
    ],
)
def test_symbol_positions_are_the_specs(mapping_type, start, n_symbols, additional, expected):
    assert dmrs.symbol_positions(mapping_type, start, n_symbols, additional) == expected


def test_pilots_are_the_specs_sequence(gold_sequence) -> None:
    slot_number, symbol, n_id, n_scid = 7, 11, 321, 1
    c_init = (2**17 * (14 * slot_number + symbol + 1) * (2 * n_id + 1) + 2 * n_id + n_scid) % 2**31
    c = np.array(gold_sequence(c_init, 2 * 6 * 9))
    r = ((1 - 2 * c[0::2]) + 1j * (1 - 2 * c[1::2])) / np.sqrt(2)
    pilots = dmrs.sequence(slot_number, symbol, n_id, n_scid, start_prb=4, n_prb=5)
    np.testing.assert_allclose(pilots, r[6 * 4 :], atol=1e-6)


def test_pilots_are_3_db_stronger_without_data_beside_them() -> None:
    # TS 38.214 table 6.2.2-1.
    assert dmrs.amplitude(1) == 1.0
    assert dmrs.amplitude(2) ** 2 == pytest.approx(10**0.3)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (("C", 0, 14, 1), "mapping_type"),
        (("A", 1, 13, 1), "start_symbol"),
        (("A", 0, 3, 1), "n_symbols"),
        (("A", 0, 15, 1), "n_symbols"),
        (("A", 0, 14, 4), "dmrs_additional_positions"),
        (("A", 0, 14, 1, 4), "dmrs_type_a_position"),
        (("A", 0, 14, 3, 3), "dmrs_additional_positions"),
    ],
)
def test_impossible_positions_are_named(arguments, field) -> None:
    with pytest.raises(InvalidInputError) as caught:
        dmrs.symbol_positions(*arguments)
    assert caught.value.field == field
