from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airan.core.errors import InvalidInputError
from phy import PuschConfig, PuschReceiver, PuschTransmitter, ReceiverOptions
from phy.channel import Channel, ChannelConfig
from phy.nr import modulation, sch


def random_tb(config: PuschConfig, rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 2, config.tb_size_bits, dtype=np.uint8)


def received_slots(config, channel_config, n_slots, rng):
    """Sends `n_slots` random blocks through the simulated channel: (block, result) of each."""
    transmit, receive = PuschTransmitter(config), PuschReceiver(config)
    channel = Channel(channel_config, rng)
    for _ in range(n_slots):
        tb = random_tb(config, rng)
        yield tb, receive(channel(transmit(tb)))


def test_the_grid_carries_pilots_and_data_where_the_spec_puts_them(gold_sequence, rng) -> None:
    config = PuschConfig(n_prb=4, mcs_index=5, rnti=17, n_id=500, slot_number=3)
    tb = random_tb(config, rng)
    grid = PuschTransmitter(config)(tb)
    assert grid.shape == (1, 14, 48)
    assert grid.dtype == np.complex64
    # TS 38.211 6.3.1.1, 6.3.1.2, 6.3.1.6: scrambled bits to symbols, frequency first.
    coded = sch.encode(tb, config.sch) ^ gold_sequence(17 * 2**15 + 500, config.sch.n_coded_bits)
    data = modulation.map(coded.astype(np.uint8), 2)
    np.testing.assert_allclose(grid[0, [0, 1, *range(3, 11), 12, 13]].reshape(-1), data)
    for symbol in (2, 11):
        assert not grid[0, symbol, 1::2].any()
        np.testing.assert_allclose(np.abs(grid[0, symbol, 0::2]) ** 2, 10**0.3, rtol=1e-5)


def test_data_fills_the_free_comb_of_the_pilot_symbols(rng) -> None:
    config = PuschConfig(n_prb=4, mcs_index=5, n_cdm_groups_without_data=1)
    grid = PuschTransmitter(config)(random_tb(config, rng))
    np.testing.assert_allclose(np.abs(grid[0, 2]), 1.0, rtol=1e-5)
    assert config.n_data_re == 4 * (12 * 14 - 12)


@pytest.mark.parametrize(
    ("mcs_table", "mcs_index"),
    [(1, i) for i in range(29)]
    + [(2, i) for i in (5, 11, 20, 24, 27)]
    + [(3, 0), (3, 14), (3, 28)],
)
def test_every_mcs_comes_back_through_a_good_channel(mcs_table, mcs_index, rng) -> None:
    config = PuschConfig(n_prb=9, mcs_table=mcs_table, mcs_index=mcs_index)
    for tb, result in received_slots(config, ChannelConfig("AWGN", snr_db=38.0), 2, rng):
        assert result.crc_ok
        assert np.array_equal(result.tb, tb)


@settings(max_examples=40)
@given(
    n_prb=st.integers(1, 60),
    n_rx=st.integers(1, 4),
    mapping_type=st.sampled_from(["A", "B"]),
    additional=st.integers(0, 3),
    groups=st.integers(1, 2),
    scs_khz=st.sampled_from([15, 30, 60, 120]),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_allocation_comes_back(
    n_prb, n_rx, mapping_type, additional, groups, scs_khz, seed
) -> None:
    rng = np.random.default_rng(seed)
    config = PuschConfig(
        n_prb=n_prb,
        mcs_index=int(rng.integers(0, 11)),
        scs_khz=scs_khz,
        n_rx=n_rx,
        rnti=int(rng.integers(0, 65536)),
        n_id=int(rng.integers(0, 1024)),
        slot_number=int(rng.integers(0, 10)),
        start_prb=int(rng.integers(0, 100)),
        mapping_type=mapping_type,
        dmrs_additional_positions=additional,
        n_cdm_groups_without_data=groups,
    )
    channel = ChannelConfig("AWGN", n_rx=n_rx, scs_khz=scs_khz, snr_db=30.0)
    [(tb, result)] = received_slots(config, channel, 1, rng)
    assert result.crc_ok
    assert np.array_equal(result.tb, tb)


def test_the_full_carrier_comes_back(rng) -> None:
    config = PuschConfig(n_prb=273, mcs_index=20)
    [(tb, result)] = received_slots(config, ChannelConfig("TDL-A", 30.0, snr_db=35.0), 1, rng)
    assert result.crc_ok
    assert np.array_equal(result.tb, tb)


@pytest.mark.parametrize(
    ("snr_db", "fewest", "most"),
    # MCS 16 on 2 antennas in white noise: Shannon's limit for its 2.57 bit/s/Hz lies at 4.0 dB.
    [(4.0, 0, 0), (6.05, 3, 27), (7.0, 30, 30)],
)
def test_blocks_fail_below_the_waterfall_and_pass_above(snr_db, fewest, most, rng) -> None:
    config = PuschConfig(n_prb=24, mcs_index=16)
    n_good = 0
    for tb, result in received_slots(config, ChannelConfig("AWGN", snr_db=snr_db), 30, rng):
        assert result.crc_ok == np.array_equal(result.tb, tb)
        n_good += result.crc_ok
    assert fewest <= n_good <= most


@pytest.mark.parametrize(("profile", "spread_ns"), [("TDL-A", 100.0), ("TDL-C", 100.0)])
def test_fading_slots_come_back_at_20_db(profile, spread_ns, rng) -> None:
    config = PuschConfig(n_prb=51, mcs_index=16)
    channel = ChannelConfig(profile, spread_ns, doppler_hz=30.0, snr_db=20.0)
    good = [result.crc_ok for _, result in received_slots(config, channel, 40, rng)]
    assert sum(good) >= 37


def test_a_second_antenna_brings_three_decibels(rng) -> None:
    def n_good(n_rx: int, snr_db: float) -> int:
        config = PuschConfig(n_prb=24, mcs_index=16, n_rx=n_rx)
        channel = ChannelConfig("AWGN", n_rx=n_rx, snr_db=snr_db)
        return sum(result.crc_ok for _, result in received_slots(config, channel, 15, rng))

    assert n_good(1, 8.3) == 0
    assert n_good(2, 5.3) == 0
    assert n_good(1, 10.0) == 15
    assert n_good(2, 7.0) == 15


@pytest.mark.parametrize("snr_db", [0.0, 10.0, 20.0])
def test_noise_and_snr_are_estimated(snr_db, rng) -> None:
    config = PuschConfig(n_prb=51, mcs_index=5)
    results = [
        result
        for _, result in received_slots(config, ChannelConfig("AWGN", snr_db=snr_db), 20, rng)
    ]
    noise_var = np.mean([result.noise_var for result in results])
    assert noise_var == pytest.approx(10 ** (-snr_db / 10), rel=0.05)
    assert np.mean([result.snr_db for result in results]) == pytest.approx(snr_db, abs=0.3)


def test_llrs_mean_what_they_say(rng) -> None:
    symbols = modulation.map(bits := rng.integers(0, 2, 400_000, dtype=np.uint8), 2)
    noise = rng.normal(size=(2, symbols.size)) * np.sqrt(0.5 / 2)
    llr = modulation.demap(symbols + noise[0] + 1j * noise[1], 0.5, 2)
    for low, high in ((0.5, 1.0), (1.5, 2.0), (2.5, 3.0)):
        chosen = (llr > low) & (llr < high)
        expected = np.mean(1 / (1 + np.exp(llr[chosen])))
        assert np.mean(bits[chosen]) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("noise_var", [None, 0.01])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, complex(0, np.nan), complex(1e38, 1e38)])
@pytest.mark.parametrize("where", [(0, 2, 0), (1, 11, 50), (0, 5, 7), ...])
def test_bad_samples_never_crash_a_slot_and_never_pass(bad, where, noise_var, rng) -> None:
    config = PuschConfig(n_prb=6, mcs_index=20)
    sent = PuschTransmitter(config)(random_tb(config, rng))
    grid = Channel(ChannelConfig("AWGN", snr_db=30.0), rng)(sent)
    grid[where] = bad
    result = PuschReceiver(config)(grid, noise_var)
    if not np.isfinite(grid).all() or where is ...:
        assert not result.crc_ok
    assert result.tb.shape == (config.tb_size_bits,)


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1.0])
def test_silence_and_noise_never_pass(scale, rng) -> None:
    config = PuschConfig(n_prb=6, mcs_index=0)
    noise = rng.normal(size=(2, 2, 14, 72)) * scale
    result = PuschReceiver(config)((noise[0] + 1j * noise[1]).astype(np.complex64))
    assert not result.crc_ok


@pytest.mark.parametrize("n_prb", [4, 20])
def test_silence_has_no_offsets(n_prb) -> None:
    result = PuschReceiver(PuschConfig(n_prb=n_prb))(np.zeros((2, 14, 12 * n_prb), np.complex64))
    assert result.snr_db == -np.inf
    assert np.isnan(result.timing_offset_ns)
    assert np.isnan(result.frequency_offset_hz)


@pytest.mark.parametrize("changed", [{"rnti": 2}, {"n_id": 9}, {"slot_number": 1}, {"rv": 2}])
def test_a_receiver_set_otherwise_never_passes(changed, rng) -> None:
    config = PuschConfig(n_prb=10, mcs_index=16, rnti=1, n_id=8)
    grid = Channel(ChannelConfig("AWGN", snr_db=30.0), rng)(
        PuschTransmitter(config)(random_tb(config, rng))
    )
    fields = {name: getattr(config, name) for name in ("n_prb", "mcs_index", "rnti", "n_id")}
    assert PuschReceiver(config)(grid).crc_ok
    assert not PuschReceiver(PuschConfig(**(fields | changed)))(grid).crc_ok


@pytest.mark.parametrize("equaliser", ["mmse", "mmse_irc", "zf"])
def test_strength_and_phase_of_the_signal_do_not_matter(equaliser, rng) -> None:
    """Samples may be volts at an antenna, too: -100 dBm are some 1e-7."""
    config = PuschConfig(n_prb=10, mcs_index=20)
    tb = random_tb(config, rng)
    grid = Channel(ChannelConfig("AWGN", snr_db=25.0), rng)(PuschTransmitter(config)(tb))
    receive = PuschReceiver(config, options=ReceiverOptions(equaliser=equaliser))
    plain = receive(grid)
    for gain in (1e-12, 1e-9, 1e-7, 1.0, -1j, 3000.0, 1e9):
        result = receive((gain * grid).astype(np.complex64))
        assert result.crc_ok
        assert np.array_equal(result.tb, tb)
        assert result.snr_db == pytest.approx(plain.snr_db, abs=0.01)
        assert result.sinr_db == pytest.approx(plain.sinr_db, abs=0.01)


def test_a_retransmission_is_combined_with_the_soft_buffer(rng) -> None:
    first = PuschConfig(n_prb=24, mcs_index=16)
    second = PuschConfig(n_prb=24, mcs_index=16, rv=2)
    channel = Channel(ChannelConfig("AWGN", snr_db=5.0), rng)
    for _ in range(5):
        tb = random_tb(first, rng)
        before = PuschReceiver(first)(channel(PuschTransmitter(first)(tb)))
        grid = channel(PuschTransmitter(second)(tb))
        after = PuschReceiver(second)(grid, soft_buffer=before.soft_buffer)
        assert not before.crc_ok
        assert after.crc_ok
        assert np.array_equal(after.tb, tb)


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"n_prb": 0}, "n_prb"),
        ({"n_prb": 274}, "n_prb"),
        ({"n_prb": 5.0}, "n_prb"),
        ({"mcs_table": 4}, "mcs_table"),
        ({"mcs_index": 29}, "mcs_index"),
        ({"scs_khz": 20}, "scs_khz"),
        ({"n_layers": 5}, "n_layers"),
        ({"n_rx": 0}, "n_rx"),
        ({"rnti": 65536}, "rnti"),
        ({"n_id": 1024}, "n_id"),
        ({"slot_number": 20}, "slot_number"),
        ({"n_symbols": 0}, "n_symbols"),
        ({"dmrs_additional_positions": 4}, "dmrs_additional_positions"),
        ({"n_cdm_groups_without_data": 3}, "n_cdm_groups_without_data"),
        ({"rv": 4}, "rv"),
        ({"limited_buffer_bits": 1}, "limited_buffer_bits"),
    ],
)
def test_wrong_configurations_are_named(changed, field) -> None:
    with pytest.raises(InvalidInputError) as caught:
        PuschConfig(**({"n_prb": 10} | changed))
    assert caught.value.field == field


def test_wrong_grids_and_blocks_are_named() -> None:
    config = PuschConfig(n_prb=2)
    receive, transmit = PuschReceiver(config), PuschTransmitter(config)
    grid = np.zeros((2, 14, 24), np.complex64)
    for call, field in (
        (lambda: receive(grid[:1]), "grid"),
        (lambda: receive(grid[..., 1:]), "grid"),
        (lambda: receive(grid.real), "grid"),
        (lambda: receive([1, 2]), "grid"),
        (lambda: receive(grid, noise_var=-1.0), "noise_var"),
        (lambda: receive(grid, noise_var=float("nan")), "noise_var"),
        (lambda: receive(grid, noise_var=float("inf")), "noise_var"),
        (lambda: receive(grid, noise_var="0.1"), "noise_var"),
        (lambda: receive(grid, noise_var=np.ones(2)), "noise_var"),
        (lambda: receive(grid, slot_number=20), "slot_number"),
        (lambda: transmit(np.zeros(3, np.uint8)), "tb"),
        (lambda: transmit(np.zeros(config.tb_size_bits)), "tb"),
    ):
        with pytest.raises(InvalidInputError) as caught:
            call()
        assert caught.value.field == field
