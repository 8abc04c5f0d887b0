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
        (("A", 0, 14, 2, 2, 2), "dmrs_additional_positions"),
        (("A", 0, 14, 1, 2, 3), "dmrs_length"),
        (("B", 0, 4, 0, 2, 2), "n_symbols"),
    ],
)
def test_impossible_positions_are_named(arguments, field) -> None:
    with pytest.raises(InvalidInputError) as caught:
        dmrs.symbol_positions(*arguments)
    assert caught.value.field == field


# The tables as printed, l_d = 3 to 14 (None: a dash); "0" stands for l_0.
PUSCH_DOUBLE_ONE_MORE = {
    "A": [None, (), (), (), (), (), (), (8,), (8,), (8,), (10,), (10,)],
    "B": [None, None, (), (), (), (5,), (5,), (7,), (7,), (9,), (9,), (9,)],
}
PDSCH_SINGLE_B = {
    1: [(), (), (4,), (4,), (4,), (6,), (7,), (7,), (8,), (9,), (9,), None],
    2: [(), (), (4,), (4,), (4,), (3, 6), (4, 7), (4, 7), (4, 8), (5, 9), (5, 9), None],
    3: [(), (), (4,), (4,), (4,), (3, 6), (4, 7), (4, 7), (3, 6, 9), (3, 6, 9), (3, 6, 9), None],
}
PDSCH_DOUBLE_B = [None, None, (), (), (), (5,), (5,), (7,), (7,), (8,), (8,), None]


def with_pairs(first: int, later: tuple[int, ...], length: int) -> tuple[int, ...]:
    return tuple(at + k for at in (first, *later) for k in range(length))


@pytest.mark.parametrize("mapping_type", ["A", "B"])
@pytest.mark.parametrize("duration", range(3, 15))
def test_double_symbol_positions_are_the_specs(mapping_type, duration) -> None:
    # TS 38.211 table 6.4.1.1.3-4.
    later = PUSCH_DOUBLE_ONE_MORE[mapping_type][duration - 3]
    first = 2 if mapping_type == "A" else 0
    if later is None:
        with pytest.raises(InvalidInputError):
            dmrs.symbol_positions(mapping_type, 0, duration, 1, 2, 2)
        return
    found = dmrs.symbol_positions(mapping_type, 0, duration, 1, 2, 2)
    assert found == with_pairs(first, later, 2)
    only_first = dmrs.symbol_positions(mapping_type, 0, duration, 0, 2, 2)
    assert only_first == (first, first + 1)


@pytest.mark.parametrize("duration", range(3, 15))
@pytest.mark.parametrize("additional", [1, 2, 3])
def test_downlink_positions_are_the_specs(duration, additional) -> None:
    # TS 38.211 tables 7.4.1.1.2-3 and -4, mapping type B.
    later = PDSCH_SINGLE_B[additional][duration - 3]
    if later is None:
        with pytest.raises(InvalidInputError):
            dmrs.pdsch_symbol_positions("B", 0, duration, additional)
    else:
        assert dmrs.pdsch_symbol_positions("B", 0, duration, additional) == (0, *later)
    later = PDSCH_DOUBLE_B[duration - 3]
    if later is not None:
        found = dmrs.pdsch_symbol_positions("B", 0, duration, 1, 2, 2)
        assert found == with_pairs(0, later, 2)


def test_downlink_type_a_counts_from_the_start_of_the_slot() -> None:
    assert dmrs.pdsch_symbol_positions("A", 2, 12, 1) == (2, 11)
    assert dmrs.pdsch_symbol_positions("A", 1, 9, 2, 3) == (3, 6, 9)
    assert dmrs.pdsch_symbol_positions("A", 2, 10, 1, 3, 2) == (3, 4, 8, 9)
    with pytest.raises(InvalidInputError, match="start_symbol"):
        dmrs.pdsch_symbol_positions("A", 3, 10, 1)


# TS 38.211 tables 6.4.1.1.3-1 and -2: port: (CDM group, delta, w_f(1), w_t(1)).
TYPE_1_PORTS = [
    *((0, 0, 1, 1), (0, 0, -1, 1), (1, 1, 1, 1), (1, 1, -1, 1)),
    *((0, 0, 1, -1), (0, 0, -1, -1), (1, 1, 1, -1), (1, 1, -1, -1)),
]
TYPE_2_PORTS = [
    *((0, 0, 1, 1), (0, 0, -1, 1), (1, 2, 1, 1), (1, 2, -1, 1), (2, 4, 1, 1), (2, 4, -1, 1)),
    *((0, 0, 1, -1), (0, 0, -1, -1), (1, 2, 1, -1)),
    *((1, 2, -1, -1), (2, 4, 1, -1), (2, 4, -1, -1)),
]


@pytest.mark.parametrize(
    ("configuration_type", "port", "row"),
    [(1, port, row) for port, row in enumerate(TYPE_1_PORTS)]
    + [(2, port, row) for port, row in enumerate(TYPE_2_PORTS)],
)
def test_ports_are_the_specs(configuration_type, port, row) -> None:
    group, delta, w_f, w_t = row
    assert dmrs.cdm_group(port, configuration_type) == group
    np.testing.assert_array_equal(dmrs.cover(4, port, configuration_type), [1, w_f, 1, w_f])
    assert dmrs.time_cover(port, configuration_type) == (1, w_t)
    # TS 38.211 6.4.1.1.3: k = 4 n + 2 k' + delta, or 6 n + k' + delta.
    step, inner = {1: (4, 2), 2: (6, 1)}[configuration_type]
    expected = [step * n + inner * k + delta for n in range(24 // step) for k in (0, 1)]
    found = dmrs.subcarriers(2, port, configuration_type)
    np.testing.assert_array_equal(found, expected)


def test_type_2_pilots_are_the_specs_sequence(gold_sequence) -> None:
    c_init = (2**17 * (14 * 3 + 2 + 1) * (2 * 9 + 1) + 2 * 9) % 2**31
    c = np.array(gold_sequence(c_init, 2 * 4 * 9))
    r = ((1 - 2 * c[0::2]) + 1j * (1 - 2 * c[1::2])) / np.sqrt(2)
    pilots = dmrs.sequence(3, 2, 9, 0, start_prb=4, n_prb=5, configuration_type=2)
    np.testing.assert_allclose(pilots, r[4 * 4 :], atol=1e-6)


@pytest.mark.parametrize(
    ("configuration_type", "length", "groups", "expected"),
    [
        (1, 1, 1, (0, 1)),
        (1, 1, 2, (0, 1, 2, 3)),
        (1, 2, 1, (0, 1, 4, 5)),
        (2, 1, 3, (0, 1, 2, 3, 4, 5)),
        (2, 2, 2, (0, 1, 2, 3, 6, 7, 8, 9)),
    ],
)
def test_ports_need_a_group_without_data(configuration_type, length, groups, expected) -> None:
    assert dmrs.allowed_ports(configuration_type, length, groups) == expected


def test_all_ports_of_a_symbol_are_orthogonal_and_leave_data_alone() -> None:
    for configuration_type in (1, 2):
        ports = dmrs.allowed_ports(configuration_type, 2, dmrs.n_groups(configuration_type))
        rows = np.zeros((len(ports), 2, 24))
        for row, port in zip(rows, ports, strict=True):
            at = dmrs.subcarriers(2, port, configuration_type)
            signs = dmrs.cover(at.size, port, configuration_type)
            row[:, at] = np.outer(dmrs.time_cover(port, configuration_type), signs)
        flat = rows.reshape(len(ports), -1)
        gram = flat @ flat.T
        np.testing.assert_array_equal(gram, gram[0, 0] * np.eye(len(ports)))
        free = dmrs.data_subcarriers(2, 1, configuration_type)
        np.testing.assert_array_equal(free, ~np.any(rows[:2] != 0, axis=(0, 1)))


def test_three_groups_without_data_boost_by_4_77_db() -> None:
    assert dmrs.amplitude(3) ** 2 == pytest.approx(10**0.477)
