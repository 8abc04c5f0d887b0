"""PUSCH with transform precoding and with the codebook."""

from __future__ import annotations

import numpy as np
import pytest

from phy import PuschConfig, PuschReceiver, PuschTransmitter, ReceiverOptions
from phy.nr import precoding


def papr_db(grid: np.ndarray) -> float:
    """Of the data symbols, oversampled four times."""
    samples = np.fft.ifft(grid[0, [0, 1, 3, 4, 5, 6]], 4 * grid.shape[-1], axis=-1)
    power = np.abs(samples) ** 2
    return float(10 * np.log10(np.quantile(power, 0.999) / power.mean()))


@pytest.mark.parametrize("n_prb", [1, 2, 3, 4, 5, 6, 25, 100, 270])
@pytest.mark.parametrize("fields", [{"mcs_index": 0, "pi2_bpsk": True}, {"mcs_index": 12}])
def test_spread_slots_come_back(n_prb, fields, rng, random_tb, noise) -> None:
    config = PuschConfig(n_prb=n_prb, transform_precoding=True, **fields)
    tb = random_tb(config, rng)
    grid = PuschTransmitter(config)(tb)
    # Two paths, so that the equaliser has to undo a frequency-selective channel.
    turns = 30e3 * np.array([0, 200e-9])[:, None] * np.arange(grid.shape[-1])
    response = np.array([[1.0, 0.6], [0.8j, -0.5]]) @ np.exp(-2j * np.pi * turns)
    received = response[:, None] * grid + 0.03 * noise(rng, 2, *grid.shape[1:])
    result = PuschReceiver(config)(received.astype(np.complex64))
    assert result.crc_ok
    assert np.array_equal(result.tb, tb)


def test_spreading_lowers_the_peak_power(rng, random_tb) -> None:
    def of(**fields) -> float:
        config = PuschConfig(n_prb=50, mcs_index=0, **fields)
        return papr_db(PuschTransmitter(config)(random_tb(config, rng)))

    plain, spread = of(), of(transform_precoding=True)
    assert of(transform_precoding=True, pi2_bpsk=True) < spread < plain - 1.5


@pytest.mark.parametrize("fields", [{"group_hopping": True}, {"sequence_hopping": True}])
def test_both_sides_hop_alike_and_strangers_do_not(fields, rng, random_tb, noise) -> None:
    config = PuschConfig(
        n_prb=12, mcs_index=0, transform_precoding=True, pi2_bpsk=True, n_id=5, **fields
    )
    other = PuschConfig(n_prb=12, mcs_index=0, transform_precoding=True, pi2_bpsk=True, n_id=5)
    for slot in range(6):
        tb = random_tb(config, rng)
        grid = np.repeat(PuschTransmitter(config)(tb, slot), 2, axis=0)
        grid = grid + 0.05 * noise(rng, *grid.shape)
        assert np.array_equal(PuschReceiver(config)(grid, slot_number=slot).tb, tb)
    pilots = [config.pilots(slot) for slot in range(6)]
    assert any(np.abs(pilots[slot] - other.pilots(slot)).max() > 0.5 for slot in range(6))


@pytest.mark.parametrize(("n_ports", "n_layers"), [(2, 1), (2, 2), (4, 1), (4, 2), (4, 3), (4, 4)])
def test_every_precoder_of_the_codebook_comes_back(
    n_ports, n_layers, rng, random_tb, noise
) -> None:
    for tpmi in range(precoding.n_tpmi(n_ports, n_layers)):
        config = PuschConfig(
            n_prb=4, mcs_index=4, n_layers=n_layers, n_rx=4, n_ports=n_ports, tpmi=tpmi
        )
        tb = random_tb(config, rng)
        grid = PuschTransmitter(config)(tb)
        assert grid.shape[0] == n_ports
        layers = PuschTransmitter(PuschConfig(n_prb=4, mcs_index=4, n_layers=n_layers))(tb)
        weights = precoding.codebook(n_ports, n_layers, tpmi)
        np.testing.assert_allclose(grid, np.einsum("pl,ltk->ptk", weights, layers), atol=1e-5)
        channel = np.linalg.qr(noise(rng, 4, n_ports))[0]
        received = np.einsum("rp,ptk->rtk", channel, grid) + 0.02 * noise(rng, 4, *grid.shape[1:])
        for equaliser in ("mmse", "zf"):
            options = ReceiverOptions(equaliser=equaliser)
            result = PuschReceiver(config, options=options)(received.astype(np.complex64))
            assert np.array_equal(result.tb, tb)


def test_transform_precoding_uses_its_own_mcs_tables() -> None:
    # TS 38.214 6.1.4.1-1, 5.1.3.1-2 and 6.1.4.1-2.
    def mcs(table: int, index: int, pi2_bpsk: bool = False) -> tuple[int, float]:
        found = PuschConfig(
            n_prb=5,
            mcs_table=table,
            mcs_index=index,
            transform_precoding=True,
            pi2_bpsk=pi2_bpsk,
        ).mcs
        return found.modulation_order, found.code_rate * 1024

    assert mcs(1, 0) == (2, 120)
    assert mcs(1, 0, pi2_bpsk=True) == (1, 240)
    assert mcs(2, 27) == (8, 948)
    assert mcs(3, 5, pi2_bpsk=True) == (1, 198)
