from __future__ import annotations

import numpy as np
import pytest

from phy.nr import sch, tbs
from phy.nr.sch import SchConfig


def block(n_re: int, order: int, rate: float, n_layers: int = 1) -> SchConfig:
    return SchConfig(
        tb_size_bits=tbs.size_from_re(n_re, order, rate, n_layers),
        code_rate=rate,
        modulation_order=order,
        n_layers=n_layers,
        n_coded_bits=n_re * order * n_layers,
    )


BLOCKS = [
    block(60, 2, 120 / 1024),  # CRC 16, graph 2
    block(700, 2, 602 / 1024),
    block(700, 4, 658 / 1024),
    block(3000, 6, 772 / 1024),  # several code blocks, graph 1
    block(3001, 4, 616 / 1024, n_layers=2),  # code blocks of two lengths
    block(2500, 8, 948 / 1024, n_layers=3),
    block(2500, 6, 910 / 1024, n_layers=4),
]


def peer(sionna, config: SchConfig):
    return sionna.nr.TBEncoder(
        target_tb_size=config.tb_size_bits,
        num_coded_bits=config.n_coded_bits,
        target_coderate=config.code_rate,
        num_bits_per_symbol=config.modulation_order,
        num_layers=config.n_layers,
        use_scrambler=False,
    )


@pytest.mark.parametrize("config", BLOCKS, ids=str)
def test_coded_blocks_are_sionnas(sionna, tensor, rng, config) -> None:
    encoder = peer(sionna, config)
    assert encoder.tb_size == config.tb_size_bits
    assert encoder.num_cbs == config.segmentation.n_code_blocks
    tb = rng.integers(0, 2, config.tb_size_bits, dtype=np.uint8)
    assert np.array_equal(sch.encode(tb, config), encoder(tensor(tb[None])).numpy()[0])


@pytest.mark.parametrize("config", BLOCKS, ids=str)
def test_what_sionna_coded_is_decoded_and_the_other_way_round(sionna, tensor, rng, config) -> None:
    encoder = peer(sionna, config)
    decoder = sionna.nr.TBDecoder(encoder, num_bp_iter=10, cn_update="minsum")
    tb = rng.integers(0, 2, config.tb_size_bits, dtype=np.uint8)
    noise = rng.normal(size=config.n_coded_bits)
    theirs_coded = encoder(tensor(tb[None])).numpy()[0]
    ours = sch.decode((20 * (1 - 2 * theirs_coded) + noise).astype(np.float32), config)
    assert ours.crc_ok
    assert np.array_equal(ours.tb, tb)
    llr = 20 * (1 - 2.0 * sch.encode(tb, config)) + noise
    theirs, crc_ok = decoder(tensor(-llr[None]))
    assert bool(crc_ok[0])
    assert np.array_equal(theirs.numpy()[0], tb)
