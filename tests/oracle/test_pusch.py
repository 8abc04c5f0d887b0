from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import pytest

from airan.bench.sionna_peer import PuschPeer
from phy import PuschConfig, PuschReceiver, PuschTransmitter
from phy.channel import Channel, ChannelConfig
from phy.nr import dmrs

CONFIGS = {
    "qpsk": PuschConfig(n_prb=20, mcs_index=4),
    "256qam": PuschConfig(n_prb=8, mcs_table=2, mcs_index=25, dmrs_additional_positions=0),
    "low rate": PuschConfig(n_prb=16, mcs_table=3, mcs_index=10, n_cdm_groups_without_data=1),
    "identities": PuschConfig(n_prb=51, mcs_index=27, rnti=4660, n_id=501, slot_number=13),
    "own dm-rs identity": PuschConfig(n_prb=30, mcs_index=12, dmrs_n_id=999, dmrs_n_scid=1),
    "four dm-rs symbols": PuschConfig(n_prb=30, mcs_index=12, dmrs_additional_positions=3),
    "later dm-rs": PuschConfig(n_prb=24, dmrs_type_a_position=3, scs_khz=15, slot_number=9),
    "mapping b": PuschConfig(n_prb=24, mapping_type="B", start_symbol=3, n_symbols=9),
    "two layers": PuschConfig(n_prb=25, mcs_index=14, n_layers=2, n_rx=4),
    "four layers": PuschConfig(n_prb=31, mcs_index=27, n_layers=4, n_rx=4),
    "other ports": PuschConfig(n_prb=25, n_layers=2, dmrs_ports=(1, 3), n_rx=4),
    "type 2": PuschConfig(
        n_prb=25,
        n_layers=4,
        dmrs_type=2,
        n_cdm_groups_without_data=3,
        dmrs_ports=(0, 1, 2, 5),
        n_rx=4,
    ),
    "double symbol": PuschConfig(
        n_prb=25, n_layers=4, dmrs_length=2, dmrs_ports=(0, 3, 4, 7), n_rx=4
    ),
    "double symbol of type 2": PuschConfig(
        n_prb=25, n_layers=2, dmrs_type=2, dmrs_length=2, dmrs_ports=(3, 8), n_rx=4
    ),
    "one layer on two ports": PuschConfig(n_prb=25, n_ports=2, tpmi=4),
    "one layer on four ports": PuschConfig(n_prb=25, n_ports=4, tpmi=21),
    "two layers on four ports": PuschConfig(n_prb=25, n_layers=2, n_ports=4, tpmi=15, n_rx=4),
    "three layers on four ports": PuschConfig(n_prb=25, n_layers=3, n_ports=4, tpmi=3, n_rx=4),
    "four layers on four ports": PuschConfig(n_prb=25, n_layers=4, n_ports=4, tpmi=2, n_rx=4),
    "whole carrier": PuschConfig(n_prb=273, mcs_index=27),
}
peer_of = lru_cache(PuschPeer)  # Sionna takes long to build its tables
named = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


@named
def test_every_resource_element_is_sionnas(sionna, rng, config) -> None:
    tb = rng.integers(0, 2, config.tb_size_bits, dtype=np.uint8)
    ours = PuschTransmitter(config)(tb)
    theirs = np.zeros_like(ours)
    symbols = slice(config.start_symbol, config.start_symbol + config.n_symbols)
    theirs[:, symbols] = peer_of(config).transmit(tb[None])[0]
    # TS 38.214 table 6.2.2-1: data is 3 dB below DM-RS. Sionna takes a factor of two in power.
    groups = config.n_cdm_groups_without_data
    scale = dmrs.amplitude(groups) / math.sqrt(groups)
    assert scale == pytest.approx(1, abs=2e-3)
    pilots = ~dmrs.data_subcarriers(config.n_prb, groups, config.dmrs_type)
    for symbol in config.dmrs_symbols:
        theirs[:, symbol, pilots] *= scale
    assert np.abs(ours).max() > 0.5
    assert np.abs(ours - theirs).max() < 1e-5


@named
def test_each_receives_what_the_other_sent(sionna, rng, config) -> None:
    peer = peer_of(config)
    tbs = rng.integers(0, 2, (2, config.tb_size_bits), dtype=np.uint8)
    ours = PuschTransmitter(config)(tbs[1])
    theirs = np.zeros_like(ours)
    symbols = slice(config.start_symbol, config.start_symbol + config.n_symbols)
    theirs[:, symbols] = peer.transmit(tbs[:1])[0]
    radio = ChannelConfig(
        "AWGN", n_rx=config.n_rx, n_tx=len(ours), scs_khz=config.scs_khz, snr_db=32
    )
    channel = Channel(radio, rng)

    found = PuschReceiver(config)(channel(theirs))
    assert found.crc_ok
    assert np.array_equal(found.tb, tbs[0])
    found_tb, crc_ok = peer.receive(channel(ours)[None], channel.config.noise_var)
    assert crc_ok.all()
    assert np.array_equal(found_tb[0], tbs[1])
