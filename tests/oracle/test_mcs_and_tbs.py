from __future__ import annotations

import numpy as np
import pytest

from airan.core.errors import InvalidInputError
from phy.nr import mcs, tbs


@pytest.mark.parametrize("table", [1, 2, 3])
def test_mcs_tables_are_sionnas(sionna, table) -> None:
    compare_rows(sionna, table, transform_precoding=False, pi2_bpsk=False)


@pytest.mark.parametrize("table", [1, 2])
@pytest.mark.parametrize("pi2_bpsk", [False, True])
def test_mcs_tables_with_transform_precoding_are_sionnas(sionna, table, pi2_bpsk) -> None:
    compare_rows(sionna, table, transform_precoding=True, pi2_bpsk=pi2_bpsk)


def compare_rows(sionna, table: int, *, transform_precoding: bool, pi2_bpsk: bool) -> None:
    from sionna.phy.nr.utils import decode_mcs_index

    n_compared = 0
    for index in range(32):
        try:
            ours = mcs.lookup(table, index, transform_precoding, pi2_bpsk)
        except InvalidInputError:
            continue
        order, rate = decode_mcs_index(
            index,
            table,
            is_pusch=True,
            transform_precoding=transform_precoding,
            pi2bpsk=pi2_bpsk,
        )
        assert (ours.modulation_order, ours.code_rate) == (int(order), pytest.approx(float(rate)))
        n_compared += 1
    assert n_compared >= 28


def test_transport_block_sizes_are_sionnas(sionna, rng) -> None:
    from sionna.phy.nr.utils import calculate_tb_size

    for _ in range(300):
        table = int(rng.integers(1, 4))
        row = mcs.lookup(table, int(rng.integers(0, 28)))
        n_prb, n_symbols = int(rng.integers(1, 274)), int(rng.integers(4, 15))
        n_dmrs, n_layers = int(rng.choice([6, 12, 18, 24])), int(rng.integers(1, 5))
        theirs = calculate_tb_size(
            modulation_order=row.modulation_order,
            target_coderate=row.code_rate,
            num_prbs=n_prb,
            num_ofdm_symbols=n_symbols,
            num_dmrs_per_prb=n_dmrs,
            num_layers=n_layers,
            return_cw_length=False,
        )[0]
        ours = tbs.size(n_prb, n_symbols, n_dmrs, row.modulation_order, row.code_rate, n_layers)
        assert ours == int(theirs), (row, n_prb, n_symbols, n_dmrs, n_layers)


def test_every_small_size_is_sionnas(sionna) -> None:
    from sionna.phy.nr.utils import calculate_tb_size

    ours, theirs = [], []
    for n_prb in range(1, 60):
        ours.append(tbs.size(n_prb, 14, 24, 2, 193 / 1024))
        theirs.append(
            int(
                calculate_tb_size(
                    modulation_order=2,
                    target_coderate=193 / 1024,
                    num_prbs=n_prb,
                    num_ofdm_symbols=14,
                    num_dmrs_per_prb=24,
                    return_cw_length=False,
                )[0]
            )
        )
    assert np.array_equal(ours, theirs)
