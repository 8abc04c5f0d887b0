"""PDSCH: precoding, scrambling, limited buffer, over fading."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from airan.core.errors import InvalidInputError
from phy import (
    PdschConfig,
    PdschReceiver,
    PdschTransmitter,
)


def test_pdsch_is_precoded_and_its_receiver_need_not_know(rng, random_tb, noise, faded) -> None:
    weights = np.linalg.qr(noise(rng, 4, 2))[0]
    config = PdschConfig(
        n_prb=20,
        mcs_table=2,
        mcs_index=15,
        n_layers=2,
        precoding_weights=tuple(tuple(complex(w) for w in row) for row in weights),
    )
    plain = replace(config, precoding_weights=None)
    tb = random_tb(config, rng)
    grid = PdschTransmitter(config)(tb)
    layers = PdschTransmitter(plain)(tb)
    np.testing.assert_allclose(grid, np.einsum("pl,ltk->ptk", weights, layers), atol=1e-5)
    blind = replace(config, precoding_weights=None)
    received = faded(grid, 2, rng)
    result = PdschReceiver(blind)(received + 0.01 * noise(rng, *received.shape))
    assert result.crc_ok
    assert np.array_equal(result.tb, tb)


def test_pdsch_scrambles_and_places_pilots_as_the_downlink_does(gold_sequence, rng) -> None:
    config = PdschConfig(n_prb=2, mcs_index=3, rnti=99, n_id=7, start_symbol=1, n_symbols=13)
    assert config.dmrs_symbols == (2, 11)
    expected = gold_sequence(99 * 2**15 + 7, config.sch.n_coded_bits)
    assert config.scrambling_sequence.tolist() == expected


def test_each_prg_has_its_own_precoding(rng, random_tb, noise) -> None:
    config = PdschConfig(n_prb=6, start_prb=3, mcs_index=5, prg_size=4)
    # PRBs 3 | 4 5 6 7 | 8 in groups that count from common resource block 0.
    assert config.prb_runs == ((0, 1), (1, 4), (5, 1))
    weights = tuple(((complex(w),), (complex(-w),)) for w in (1, 1j, -1))
    precoded = replace(config, precoding_weights=weights)
    tb = random_tb(config, rng)
    layer, grid = PdschTransmitter(config)(tb), PdschTransmitter(precoded)(tb)
    scale = np.repeat([1, 1j, 1j, 1j, 1j, -1], 12)
    np.testing.assert_allclose(grid[0], layer[0] * scale, atol=1e-6)
    np.testing.assert_allclose(grid[1], -layer[0] * scale, atol=1e-6)
    received = grid + 0.05 * noise(rng, *grid.shape)
    received[1] *= 0.5
    assert np.array_equal(PdschReceiver(config)(received).tb, tb)
    with pytest.raises(InvalidInputError, match="precoding_weights"):
        replace(config, precoding_weights=weights[:2])


def test_pdsch_codes_for_the_limited_buffer_of_its_carrier() -> None:
    # TS 38.212 5.4.2.1: TBS_LBRM of 273 PRBs, 4 layers, 256QAM is 1277992 (also the published
    # largest PDSCH block); N_ref is that over C times 2/3.
    config = PdschConfig(n_prb=273, mcs_table=2, mcs_index=4, n_layers=1)
    n_blocks = config.sch.segmentation.n_code_blocks
    assert config.sch.limited_buffer_bits == 1277992 * 3 // (2 * n_blocks)
    fewer = replace(config, max_mimo_layers=1)
    assert fewer.sch.limited_buffer_bits < config.sch.limited_buffer_bits
    assert replace(config, limited_buffer_bits=30000).sch.limited_buffer_bits == 30000
    with pytest.raises(InvalidInputError, match="max_mimo_layers"):
        PdschConfig(n_prb=4, n_layers=2, max_mimo_layers=1)
