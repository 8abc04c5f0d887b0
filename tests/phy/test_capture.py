"""A slot as samples: OFDM, paths, a late start, a wrong oscillator, noise, and back to bits."""

from __future__ import annotations

import numpy as np
import pytest

from phy import (
    PdschConfig,
    PdschReceiver,
    PdschTransmitter,
    PuschConfig,
    PuschReceiver,
    PuschTransmitter,
)
from phy.ofdm import OfdmConfig, OfdmDemodulator, OfdmModulator


def through_the_air(samples, rate_hz, rng, offset_hz=0.0, snr_db=25.0) -> np.ndarray:
    """Two receive antennas, three paths within 2 us, at sample level: [1, n] -> [2, n]."""
    received = np.zeros((2, samples.shape[-1]), dtype=complex)
    for delay_s, power in ((0.2e-6, 0.6), (0.7e-6, 0.3), (2e-6, 0.1)):
        gains = (rng.standard_normal((2, 1)) + 1j * rng.standard_normal((2, 1))) / np.sqrt(2)
        late = np.roll(samples, round(delay_s * rate_hz), axis=-1)
        received += np.sqrt(power) * gains * late
    received *= np.exp(2j * np.pi * offset_hz / rate_hz * np.arange(samples.shape[-1]))
    scale = np.sqrt(10 ** (-snr_db / 10) / 2)
    noise = rng.standard_normal((2, *received.shape))
    return (received + scale * (noise[0] + 1j * noise[1])).astype(np.complex64)


@pytest.mark.parametrize(("scs_khz", "n_prb", "slot"), [(15, 52, 3), (30, 106, 7), (60, 24, 2)])
@pytest.mark.parametrize("offset_hz", [0.0, 150.0])
def test_a_captured_slot_decodes(scs_khz, n_prb, slot, offset_hz, rng) -> None:
    ofdm = OfdmConfig(scs_khz, n_prb, carrier_frequency_hz=3.50001e9)
    config = PuschConfig(
        n_prb=n_prb // 2,
        start_prb=n_prb // 4,
        carrier_start_prb=0,
        carrier_n_prb=n_prb,
        scs_khz=scs_khz,
        mcs_index=14,
        slot_number=slot,
    )
    tb = rng.integers(0, 2, config.tb_size_bits, dtype=np.uint8)
    samples = OfdmModulator(ofdm)(PuschTransmitter(config)(tb), slot)
    received = through_the_air(samples, ofdm.sample_rate_hz, rng, offset_hz)
    grid = OfdmDemodulator(ofdm, window_offset_samples=4)(received, slot)
    result = PuschReceiver(config)(grid)
    assert result.crc_ok
    assert np.array_equal(result.tb, tb)
    assert result.frequency_offset_hz == pytest.approx(offset_hz, abs=25.0)
    assert 0 < result.timing_offset_ns < 1500


def test_a_slot_sent_at_another_carrier_frequency_does_not_decode(rng) -> None:
    # What the per-symbol phase compensation is for: the data's phase differs from the pilots'.
    config = PuschConfig(n_prb=20, mcs_index=14)
    tb = rng.integers(0, 2, config.tb_size_bits, dtype=np.uint8)
    sent = OfdmConfig(30, 20, carrier_frequency_hz=3.5e9)
    samples = OfdmModulator(sent)(PuschTransmitter(config)(tb), 0)
    received = through_the_air(samples, sent.sample_rate_hz, rng)
    for carrier_frequency_hz, decodes in ((3.5e9, True), (3.50001e9, False)):
        tuned = OfdmConfig(30, 20, carrier_frequency_hz=carrier_frequency_hz)
        result = PuschReceiver(config)(OfdmDemodulator(tuned)(received, 0))
        assert result.crc_ok == decodes


def test_the_whole_downlink_carrier_decodes(rng) -> None:
    ofdm = OfdmConfig(30, 273, carrier_frequency_hz=3.7e9)
    config = PdschConfig(n_prb=273, mcs_table=2, mcs_index=15)
    tb = rng.integers(0, 2, config.tb_size_bits, dtype=np.uint8)
    samples = OfdmModulator(ofdm)(PdschTransmitter(config)(tb), 0)
    assert ofdm.n_samples == 4096
    received = through_the_air(samples, ofdm.sample_rate_hz, rng, snr_db=30.0)
    result = PdschReceiver(config)(OfdmDemodulator(ofdm)(received, 0))
    assert result.crc_ok
    assert np.array_equal(result.tb, tb)
