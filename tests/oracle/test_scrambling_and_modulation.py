from __future__ import annotations

import numpy as np
import pytest

from phy.nr import dmrs, modulation, scrambling


@pytest.mark.parametrize("c_init", [0, 1, 0x1234567, 2**31 - 1])
def test_gold_sequence_is_sionnas(sionna, c_init) -> None:
    from sionna.phy.nr.utils import generate_prng_seq

    assert np.array_equal(scrambling.sequence(c_init, 5000), generate_prng_seq(5000, c_init))


@pytest.mark.parametrize(("rnti", "n_id"), [(1, 0), (65535, 1023), (4660, 77)])
def test_pusch_scrambling_is_sionnas(sionna, tensor, rnti, n_id) -> None:
    scrambler = sionna.scrambling.TB5GScrambler(n_rnti=rnti, n_id=n_id)
    theirs = scrambler(tensor(np.zeros((1, 3001)))).numpy()[0]
    ours = scrambling.sequence(scrambling.pusch_c_init(rnti, n_id), 3001)
    assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("order", [2, 4, 6, 8])
def test_symbols_are_sionnas(sionna, tensor, rng, order) -> None:
    bits = rng.integers(0, 2, (2, 600 * order), dtype=np.uint8)
    theirs = sionna.mapping.Mapper("qam", order)(tensor(bits)).numpy()
    assert np.allclose(modulation.map(bits, order), theirs, atol=1e-6)


@pytest.mark.parametrize("order", [2, 4, 6, 8])
@pytest.mark.parametrize("noise_var", [1.0, 0.05])
def test_max_log_llrs_are_sionnas_with_the_sign_turned(
    sionna, tensor, rng, order, noise_var
) -> None:
    symbols = noisy_symbols(rng, order, noise_var)
    demapper = sionna.mapping.Demapper("maxlog", "qam", order)
    theirs = -demapper(tensor(symbols[None]), tensor(np.float32(noise_var))).numpy()[0]
    ours = modulation.demap(symbols, noise_var, order)
    assert np.allclose(ours, theirs, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("order", [2, 4, 6, 8])
@pytest.mark.parametrize("noise_var", [1.0, 0.05])
def test_exact_llrs_are_sionnas_with_the_sign_turned(sionna, tensor, rng, order, noise_var) -> None:
    symbols = noisy_symbols(rng, order, noise_var)
    demapper = sionna.mapping.Demapper("app", "qam", order)
    theirs = -demapper(tensor(symbols[None]), tensor(np.float32(noise_var))).numpy()[0]
    ours = modulation.demap(symbols, noise_var, order, method="exact")
    assert np.allclose(ours, theirs, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("slot_number", [0, 7])
@pytest.mark.parametrize(("n_id", "n_scid"), [(0, 0), (1007, 1)])
def test_dmrs_sequence_is_sionnas(sionna, slot_number, n_id, n_scid) -> None:
    config = sionna.nr.PUSCHConfig()
    config.carrier.slot_number = slot_number
    config.dmrs.n_id = [n_id, n_id]
    config.dmrs.n_scid = n_scid
    symbol = config.dmrs_symbol_indices[0]
    theirs = config.dmrs_grid[0, ::2, symbol] / config.dmrs.beta
    ours = dmrs.sequence(slot_number, symbol, n_id, n_scid, 0, config.num_resource_blocks)
    assert np.allclose(ours, theirs, atol=1e-6)


def noisy_symbols(rng: np.random.Generator, order: int, noise_var: float) -> np.ndarray:
    sent = modulation.map(rng.integers(0, 2, 500 * order, dtype=np.uint8), order)
    noise = rng.normal(size=(2, sent.size)) * np.sqrt(noise_var / 2)
    return (sent + noise[0] + 1j * noise[1]).astype(np.complex64)
