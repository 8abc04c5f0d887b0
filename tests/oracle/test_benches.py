"""The benches with Sionna in them, in small."""

from __future__ import annotations

import numpy as np

from airan.bench import link
from airan.bench.coding import Code, CodingConfig, compare
from airan.bench.link import LinkConfig, simulate
from airan.bench.speed import SpeedOptions, measure
from phy import PuschConfig


def test_ldpc_decoding_needs_no_more_snr_than_sionnas() -> None:
    config = CodingConfig(codes=(Code(640, 0.6),), n_blocks=150, max_errors=40)
    gaps = list(compare(config))
    assert [gap.bler for gap in gaps] == [0.1, 0.01]
    assert all(gap.ok for gap in gaps)
    assert gaps[0].row(config).peer == "Sionna 2.2.0, flooding min-sum"


def test_a_decoder_that_decodes_nothing_fails_the_comparison(monkeypatch) -> None:
    from airan.bench import coding

    monkeypatch.setattr(
        coding, "_decode", lambda llr, code, n: np.zeros_like(llr, np.uint8)[:, : code.n_bits]
    )
    config = CodingConfig(codes=(Code(640, 0.6),), n_blocks=25, max_errors=5)
    assert not any(gap.ok for gap in compare(config))


def test_our_receiver_is_better_than_sionnas_default_one_on_tdl_c_300_ns() -> None:
    config = LinkConfig(
        PuschConfig(n_prb=12, mcs_index=13),
        ("TDL-C",),
        (3.0, 6.0, 9.0, 12.0),
        n_slots=40,
        delay_spread_ns=300.0,
    )
    points = list(simulate(config))
    assert len(points) == 8
    [row] = link.rows(config, points)
    assert row.ratio is not None
    assert row.ratio > 10**0.05  # more than half a dB


def test_decoding_is_far_quicker_than_sionnas() -> None:
    [row] = measure(SpeedOptions(rounds=1, names=("ldpc_decode",)))
    assert row.peer == "Sionna 2.2.0"
    assert row.ratio is not None
    assert row.ratio > 10
