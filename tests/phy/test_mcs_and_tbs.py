from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airan.core.errors import InvalidInputError
from phy.nr import mcs, tbs


@pytest.mark.parametrize(
    ("table", "index", "order", "rate_x1024"),
    # TS 38.214 tables 5.1.3.1-1 to -3: first, last, and both sides of every change of order.
    [
        (1, 0, 2, 120),
        (1, 9, 2, 679),
        (1, 10, 4, 340),
        (1, 16, 4, 658),
        (1, 17, 6, 438),
        (1, 28, 6, 948),
        (2, 0, 2, 120),
        (2, 4, 2, 602),
        (2, 5, 4, 378),
        (2, 10, 4, 658),
        (2, 11, 6, 466),
        (2, 19, 6, 873),
        (2, 20, 8, 682.5),
        (2, 26, 8, 916.5),
        (2, 27, 8, 948),
        (3, 0, 2, 30),
        (3, 14, 2, 602),
        (3, 15, 4, 340),
        (3, 20, 4, 616),
        (3, 21, 6, 438),
        (3, 28, 6, 772),
    ],
)
def test_mcs_rows_are_the_specs(table, index, order, rate_x1024) -> None:
    assert mcs.lookup(table, index) == mcs.Mcs(order, rate_x1024 / 1024)


@pytest.mark.parametrize(("table", "n_rows"), [(1, 29), (2, 28), (3, 29)])
def test_efficiency_hardly_ever_falls_and_the_rest_is_reserved(table, n_rows) -> None:
    rows = [mcs.lookup(table, index) for index in range(n_rows)]
    efficiency = [row.modulation_order * row.code_rate for row in rows]
    # Table 1 has its one dip where 64QAM begins (2.5703 to 2.5664).
    dips = [i for i in range(1, n_rows) if efficiency[i] < efficiency[i - 1]]
    assert dips == ([17] if table == 1 else [])
    with pytest.raises(InvalidInputError) as caught:
        mcs.lookup(table, n_rows)
    assert caught.value.field == "mcs_index"


def test_pi2_bpsk_doubles_the_rate_at_half_the_order() -> None:
    # TS 38.214 table 6.4.1-1: q and 240/q.
    assert mcs.lookup(1, 0, transform_precoding=True) == mcs.Mcs(2, 120 / 1024)
    assert mcs.lookup(1, 0, transform_precoding=True, pi2_bpsk=True) == mcs.Mcs(1, 240 / 1024)


@pytest.mark.parametrize(("table", "index", "field"), [(4, 0, "mcs_table"), (1, -1, "mcs_index")])
def test_unknown_rows_are_named(table, index, field) -> None:
    with pytest.raises(InvalidInputError) as caught:
        mcs.lookup(table, index)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("allocation", "order", "rate_x1024", "n_layers", "expected"),
    [
        # The largest block of NR, quoted wherever its peak rate is (273 PRB, 4 layers, 256QAM).
        ((273, 14, 12), 8, 948, 4, 1_277_992),
        # Worked by hand along 5.1.3.2: N_RE 24, N_info 5.625, N'_info 24.
        ((1, 4, 24), 2, 120, 1, 24),
        # N_RE 7344, N_info 18876.4; n = 9, N'_info 18944, C = 3: 24 * 791 - 24.
        ((51, 14, 24), 4, 658, 1, 18_960),
        # R < 1/4: N_RE 42588, N_info 9981.6; n = 8, N'_info 9984, C = 3: 24 * 417 - 24.
        ((273, 14, 12), 2, 120, 1, 9_984),
    ],
)
def test_transport_block_sizes_known_beforehand(allocation, order, rate_x1024, n_layers, expected):
    assert tbs.size(*allocation, order, rate_x1024 / 1024, n_layers) == expected


def tb_size_by_the_spec(n_re: int, order: int, rate_x2048: int, n_layers: int) -> int:
    """TS 38.214 5.1.3.2 in whole numbers: N_info is n_info / 2048."""
    n_info = n_re * order * rate_x2048 * n_layers
    floor = n_info // 2048
    if n_info <= 3824 * 2048:
        step = 2 ** max(3, floor.bit_length() - 7) if floor else 8
        quantised = max(24, step * (floor // step))
        return next(size for size in SMALL_SIZES if size >= quantised)
    step = 2 ** ((n_info - 24 * 2048) // 2048).bit_length() // 64
    halves = 2 * (n_info - 24 * 2048) + step * 2048
    quantised = max(3840, step * (halves // (2 * step * 2048)))
    c = 1
    if rate_x2048 <= 512:
        c = -(-(quantised + 24) // 3816)
    elif quantised > 8424:
        c = -(-(quantised + 24) // 8424)
    return 8 * c * -(-(quantised + 24) // (8 * c)) - 24


# TS 38.214 table 5.1.3.2-1, as printed.
SMALL_SIZES = [
    *(24, 32, 40, 48, 56, 64, 72, 80, 88, 96, 104, 112, 120, 128, 136, 144, 152, 160, 168, 176),
    *(184, 192, 208, 224, 240, 256, 272, 288, 304, 320, 336, 352, 368, 384, 408, 432, 456, 480),
    *(504, 528, 552, 576, 608, 640, 672, 704, 736, 768, 808, 848, 888, 928, 984, 1032, 1064),
    *(1128, 1160, 1192, 1224, 1256, 1288, 1320, 1352, 1416, 1480, 1544, 1608, 1672, 1736, 1800),
    *(1864, 1928, 2024, 2088, 2152, 2216, 2280, 2408, 2472, 2536, 2600, 2664, 2728, 2792, 2856),
    *(2976, 3104, 3240, 3368, 3496, 3624, 3752, 3824),
]


@given(
    n_prb=st.integers(1, 275),
    n_symbols=st.integers(1, 14),
    dmrs=st.integers(0, 40),
    row=st.sampled_from([(t, i) for t, n in ((1, 29), (2, 28), (3, 29)) for i in range(n)]),
    n_layers=st.integers(1, 4),
)
def test_transport_block_size_follows_the_spec_in_whole_numbers(
    n_prb, n_symbols, dmrs, row, n_layers
) -> None:
    dmrs = min(dmrs, 12 * n_symbols - 1)
    chosen = mcs.lookup(*row)
    n_re = min(156, 12 * n_symbols - dmrs) * n_prb
    rate_x2048 = Fraction(chosen.code_rate) * 2048
    assert rate_x2048.denominator == 1
    expected = tb_size_by_the_spec(n_re, chosen.modulation_order, int(rate_x2048), n_layers)
    size = tbs.size(n_prb, n_symbols, dmrs, chosen.modulation_order, chosen.code_rate, n_layers)
    assert size == expected
    assert size % 8 == 0


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"n_prb": 0}, "n_prb"),
        ({"n_symbols": 15}, "n_symbols"),
        ({"n_dmrs_re_per_prb": 168}, "n_dmrs_re_per_prb"),
        ({"modulation_order": 5}, "modulation_order"),
        ({"code_rate": float("nan")}, "code_rate"),
        ({"n_layers": 0}, "n_layers"),
    ],
)
def test_wrong_allocations_are_named(changed, field) -> None:
    good = {
        "n_prb": 10,
        "n_symbols": 14,
        "n_dmrs_re_per_prb": 12,
        "modulation_order": 2,
        "code_rate": 0.5,
        "n_layers": 1,
    }
    with pytest.raises(InvalidInputError) as caught:
        tbs.size(**(good | changed))
    assert caught.value.field == field
