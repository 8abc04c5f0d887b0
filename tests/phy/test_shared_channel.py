"""Layers, pilots and allocations of both shared channels, and their receiver, over fading."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phy import (
    PdschConfig,
    PdschReceiver,
    PdschTransmitter,
    PuschConfig,
    PuschReceiver,
    PuschTransmitter,
    ReceiverOptions,
)
from phy.nr import dmrs, modulation, sch


def test_layers_lie_on_their_ports_with_their_covers(rng, random_tb) -> None:
    config = PuschConfig(n_prb=3, mcs_index=3, n_layers=4, n_rx=4)
    grid = PuschTransmitter(config)(random_tb(config, rng))
    assert grid.shape == (4, 14, 36)
    pilots = config.pilots(0)
    np.testing.assert_allclose(grid[0, 2, 0::2], pilots[0])
    np.testing.assert_allclose(grid[1, 2, 0::2], pilots[0] * (-1) ** np.arange(18))
    np.testing.assert_allclose(grid[2, 11, 1::2], pilots[1])
    assert not grid[:2, 2, 1::2].any()
    assert not grid[2:, 2, 0::2].any()


def test_double_symbol_dm_rs_has_its_cover_in_time(rng, random_tb) -> None:
    config = PuschConfig(n_prb=2, mcs_index=3, dmrs_length=2, dmrs_ports=(4,))
    grid = PuschTransmitter(config)(random_tb(config, rng))
    assert config.dmrs_symbols == (2, 3, 10, 11)
    pilots = config.pilots(0)
    for row, (symbol, sign) in enumerate(zip((2, 3, 10, 11), (1, -1, 1, -1), strict=True)):
        np.testing.assert_allclose(grid[0, symbol, 0::2], sign * pilots[row])


@pytest.mark.parametrize("hopping", ["group_hopping", "sequence_hopping"])
def test_hopping_double_symbol_dm_rs_repeats_its_first_symbols_sequence(hopping) -> None:
    """TS 38.211 6.4.1.1.1.2: l is then the number of the pair's first symbol."""
    config = PuschConfig(n_prb=12, transform_precoding=True, dmrs_length=2, **{hopping: True})
    pairs = [config.pilots(slot).reshape(2, 2, -1) for slot in range(config.slots_per_frame)]
    for first, second in pairs:
        np.testing.assert_array_equal(first[0], first[1])
        np.testing.assert_array_equal(second[0], second[1])
    assert any(not np.array_equal(first[0], second[0]) for first, second in pairs)


def test_data_goes_to_layers_in_turn(rng, random_tb) -> None:
    config = PuschConfig(n_prb=1, mcs_index=3, n_layers=2)
    one = replace(config, n_layers=1)
    tb = random_tb(config, rng)
    grid = PuschTransmitter(config)(tb)
    # TS 38.211 6.3.1.3: x^(l)(i) = d(2 i + l).
    coded = sch.encode(tb, config.sch) ^ config.scrambling_sequence
    symbols = modulation.map(coded, 2)
    first = grid[:, 0]
    np.testing.assert_allclose(first[0], symbols[0:24:2])
    np.testing.assert_allclose(first[1], symbols[1:24:2])
    assert one.n_data_re == config.n_data_re


def test_an_allocation_lies_where_it_should_on_the_carrier(rng, random_tb) -> None:
    config = PuschConfig(
        n_prb=3,
        mcs_index=3,
        prbs=(12, 13, 17),
        carrier_start_prb=10,
        carrier_n_prb=20,
        slot_number=4,
        n_id=77,
    )
    grid = PuschTransmitter(config)(random_tb(config, rng))
    assert grid.shape == (1, 14, 240)
    used = np.flatnonzero(np.abs(grid[0, 0]) > 0)
    assert used.tolist() == [*range(24, 48), *range(84, 96)]
    whole = dmrs.sequence(4, 2, 77, 0, 0, 18)
    np.testing.assert_allclose(
        grid[0, 2, used[::2]] / dmrs.amplitude(2),
        np.concatenate([whole[72:84], whole[102:108]]),
        rtol=1e-5,
    )
    assert config.prb_runs == ((0, 2), (2, 1))


@settings(max_examples=60)
@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_any_configuration_comes_back(data, seed, random_tb, noise) -> None:
    rng = np.random.default_rng(seed)
    uplink = data.draw(st.booleans())
    dmrs_type = data.draw(st.sampled_from([1, 2]))
    length = data.draw(st.sampled_from([1, 2]))
    allowed = dmrs.allowed_ports(dmrs_type, length, dmrs_type + 1)
    n_layers = data.draw(st.integers(1, 4))
    ports = data.draw(st.permutations(allowed))[:n_layers]
    n_carrier = data.draw(st.integers(4, 40))
    prbs = tuple(sorted(data.draw(st.sets(st.integers(0, n_carrier - 1), min_size=1))))
    kind = PuschConfig if uplink else PdschConfig
    config = kind(
        n_prb=len(prbs),
        prbs=tuple(prb + 5 for prb in prbs),
        carrier_start_prb=5,
        carrier_n_prb=n_carrier,
        mcs_index=data.draw(st.integers(0, 9)),
        n_layers=n_layers,
        n_rx=4,
        dmrs_type=dmrs_type,
        dmrs_length=length,
        dmrs_ports=tuple(ports),
        dmrs_additional_positions=data.draw(st.integers(0, 1 if length == 2 else 3)),
        n_cdm_groups_without_data=dmrs_type + 1,
        n_overhead_re=data.draw(st.sampled_from([0, 6])),
        scs_khz=data.draw(st.sampled_from([15, 30, 60, 120])),
    )
    transmit, receive = (
        (PuschTransmitter(config), PuschReceiver(config))
        if isinstance(config, PuschConfig)
        else (PdschTransmitter(config), PdschReceiver(config))
    )
    tb = random_tb(config, rng)
    grid = transmit(tb)
    unitary = np.linalg.qr(noise(rng, 4, n_layers))[0]
    received = np.einsum("rp,ptk->rtk", unitary, grid) + 0.03 * noise(rng, 4, *grid.shape[1:])
    result = receive(received.astype(np.complex64))
    assert result.crc_ok
    assert np.array_equal(result.tb, tb)


@pytest.mark.parametrize("equaliser", ["mmse", "mmse_irc", "zf"])
@pytest.mark.parametrize("demapper", ["max_log", "exact"])
def test_four_faded_layers_are_separated(equaliser, demapper, rng, random_tb, noise, faded) -> None:
    config = PuschConfig(n_prb=24, mcs_index=10, n_layers=4, n_rx=8)
    options = ReceiverOptions(equaliser=equaliser, demapper=demapper)
    transmit, receive = PuschTransmitter(config), PuschReceiver(config, options=options)
    for _ in range(3):
        tb = random_tb(config, rng)
        sent = faded(transmit(tb), 8, rng)
        result = receive(sent + 0.1 * noise(rng, *sent.shape))
        assert result.crc_ok
        assert np.array_equal(result.tb, tb)


@pytest.mark.parametrize(("dmrs_type", "length"), [(1, 1), (2, 1), (1, 2)])
def test_least_squares_works_too_and_wiener_does_better(
    dmrs_type, length, rng, random_tb, noise, faded
) -> None:
    config = PuschConfig(
        n_prb=51, mcs_index=10, n_layers=2, n_rx=4, dmrs_type=dmrs_type, dmrs_length=length
    )
    transmit = PuschTransmitter(config)
    least_squares = PuschReceiver(config, options=ReceiverOptions(estimator="ls"))
    tb = random_tb(config, rng)
    sent = faded(transmit(tb), 4, rng)
    assert least_squares(sent + 0.1 * noise(rng, *sent.shape)).crc_ok
    good = {"ls": 0, "wiener": 0}
    for _ in range(24):
        tb = random_tb(config, rng)
        sent = faded(transmit(tb), 4, rng)
        received = sent + 1.1 * noise(rng, *sent.shape)
        for estimator in good:
            receive = PuschReceiver(config, options=ReceiverOptions(estimator=estimator))
            good[estimator] += receive(received).crc_ok
    assert good["wiener"] > good["ls"] + 2


def test_interference_rejection_passes_where_plain_mmse_fails(rng, random_tb, noise, faded) -> None:
    config = PuschConfig(n_prb=51, mcs_index=19, n_rx=4)
    transmit = PuschTransmitter(config)
    neighbour = PuschConfig(n_prb=51, mcs_index=19, n_id=500, rnti=9)
    good = {"mmse": 0, "mmse_irc": 0}
    for _ in range(6):
        tb = random_tb(config, rng)
        wanted = faded(transmit(tb), 4, rng)
        other = faded(PuschTransmitter(neighbour)(random_tb(neighbour, rng)), 4, rng)
        received = wanted + other + 0.05 * noise(rng, *wanted.shape)
        for equaliser in good:
            receive = PuschReceiver(config, options=ReceiverOptions(equaliser=equaliser))
            result = receive(received)
            good[equaliser] += result.crc_ok
            assert not result.crc_ok or np.array_equal(result.tb, tb)
    assert good["mmse_irc"] >= 5
    assert good["mmse"] <= 1


@pytest.mark.parametrize("n_prb", [4, 51, 273])
def test_offsets_and_powers_are_measured(n_prb, rng, random_tb, noise) -> None:
    config = PuschConfig(n_prb=n_prb, mcs_index=5, n_rx=2)
    tb = random_tb(config, rng)
    grid = PuschTransmitter(config)(tb)
    subcarrier, symbol = np.arange(grid.shape[-1]), np.arange(14)
    late = np.exp(-2j * np.pi * 30e3 * 400e-9 * subcarrier)
    turning = np.exp(2j * np.pi * 300.0 * symbol * 1e-3 / 28)
    received = 3 * np.array([1, 1j])[:, None, None] * grid * late * turning[:, None]
    result = PuschReceiver(config)(received + 0.1 * noise(rng, *received.shape))
    assert np.array_equal(result.tb, tb)
    assert result.timing_offset_ns == pytest.approx(400.0, abs=30.0)
    assert result.frequency_offset_hz == pytest.approx(300.0, rel=0.03)
    assert result.rsrp_db == pytest.approx(20 * np.log10(3) + 3, abs=0.3)
    assert result.snr_db == pytest.approx(20 * np.log10(30), abs=0.7)
    assert result.sinr_db == pytest.approx(20 * np.log10(30) + 3, abs=1.5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, complex(1e38, 1e38)])
def test_bad_samples_outside_the_allocation_do_no_harm(bad, rng, random_tb, noise) -> None:
    config = PuschConfig(n_prb=4, start_prb=4, carrier_start_prb=0, carrier_n_prb=12)
    tb = random_tb(config, rng)
    grid = np.repeat(PuschTransmitter(config)(tb), 2, axis=0)
    grid = grid + 0.01 * noise(rng, *grid.shape)
    grid[:, :, :40] = bad
    result = PuschReceiver(config)(grid)
    assert result.crc_ok
    assert np.array_equal(result.tb, tb)
    grid[0, 5, 50] = bad
    assert not PuschReceiver(config)(grid).crc_ok or np.isfinite(bad)
