from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from airan.bench.sionna_peer import PuschPeer
from phy import PuschConfig, PuschReceiver, PuschTransmitter
from phy.channel import Channel, ChannelConfig
from phy.nr import dmrs

CONFIGS = [
    PuschConfig(n_prb=20, mcs_index=4),
    PuschConfig(n_prb=51, mcs_index=27, rnti=4660, n_id=501, slot_number=13),
    PuschConfig(n_prb=8, mcs_table=2, mcs_index=25, dmrs_additional_positions=0),
    PuschConfig(n_prb=30, mcs_index=12, dmrs_additional_positions=3, dmrs_n_id=999, dmrs_n_scid=1),
    PuschConfig(n_prb=16, mcs_table=3, mcs_index=10, n_cdm_groups_without_data=1),
    PuschConfig(n_prb=24, mcs_index=19, dmrs_type_a_position=3, scs_khz=15, slot_number=9),
    PuschConfig(n_prb=24, mcs_index=10, mapping_type="B", start_symbol=3, n_symbols=9),
    PuschConfig(n_prb=273, mcs_index=27),
]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_every_resource_element_is_sionnas(sionna, rng, config) -> None:
    tb = rng.integers(0, 2, config.tb_size_bits, dtype=np.uint8)
    ours = PuschTransmitter(config)(tb)
    theirs = np.zeros_like(ours)
    symbols = slice(config.start_symbol, config.start_symbol + config.n_symbols)
    theirs[:, symbols] = PuschPeer(config).transmit(tb[None])[0]
    # TS 38.214 table 6.2.2-1: data is 3 dB below DM-RS. Sionna takes a factor of two in power.
    groups = config.n_cdm_groups_without_data
    scale = dmrs.amplitude(groups) / math.sqrt(groups)
    assert scale == pytest.approx(1, abs=2e-3)
    pilots = ~dmrs.data_subcarriers(config.n_prb, groups)
    for symbol in config.dmrs_symbols:
        theirs[:, symbol, pilots] *= scale
    assert np.abs(ours).max() > 0.5
    assert np.abs(ours - theirs).max() < 1e-5


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_each_receives_what_the_other_sent(sionna, rng, config) -> None:
    config = replace(config, n_rx=2)
    peer = PuschPeer(config)
    tbs = rng.integers(0, 2, (2, config.tb_size_bits), dtype=np.uint8)
    theirs = np.zeros((1, 14, config.n_subcarriers), np.complex64)
    symbols = slice(config.start_symbol, config.start_symbol + config.n_symbols)
    theirs[:, symbols] = peer.transmit(tbs[:1])[0]
    ours = PuschTransmitter(config)(tbs[1])
    channel = Channel(ChannelConfig("AWGN", n_rx=2, scs_khz=config.scs_khz, snr_db=32), rng)

    found = PuschReceiver(config)(channel(theirs))
    assert found.crc_ok
    assert np.array_equal(found.tb, tbs[0])
    found_tb, crc_ok = peer.receive(channel(ours)[None], channel.config.noise_var)
    assert crc_ok.all()
    assert np.array_equal(found_tb[0], tbs[1])
