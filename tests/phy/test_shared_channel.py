"""PUSCH and PDSCH with several layers, ports and UEs, and odd allocations, over fading."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airan.core.errors import InvalidInputError
from phy import (
    PdschConfig,
    PdschReceiver,
    PdschTransmitter,
    PuschConfig,
    PuschReceiver,
    PuschSlotReceiver,
    PuschTransmitter,
    ReceiverOptions,
)
from phy.nr import dmrs
from phy.receiver.delay_profile import DelayWindow


def random_tb(config, rng) -> np.ndarray:
    return rng.integers(0, 2, config.tb_size_bits, dtype=np.uint8)


def noise(rng, *shape) -> np.ndarray:
    values = rng.standard_normal((2, *shape)) / np.sqrt(2)
    return (values[0] + 1j * values[1]).astype(np.complex64)


def faded(grid, n_rx, rng, delays_ns=(0.0, 300.0), scs_khz=30) -> np.ndarray:
    """A still two-path Rayleigh channel of mean power 1: [port, 14, k] -> [rx, 14, k]."""
    turns = scs_khz * 1e-6 * np.multiply.outer(delays_ns, np.arange(grid.shape[-1]))
    taps = noise(rng, n_rx, grid.shape[0], len(delays_ns)) / np.sqrt(len(delays_ns))
    response = taps @ np.exp(-2j * np.pi * turns)
    return np.einsum("rpk,ptk->rtk", response, grid).astype(np.complex64)


def test_layers_lie_on_their_ports_with_their_covers(rng) -> None:
    config = PuschConfig(n_prb=3, mcs_index=3, n_layers=4, n_rx=4)
    grid = PuschTransmitter(config)(random_tb(config, rng))
    assert grid.shape == (4, 14, 36)
    pilots = config.pilots(0)
    np.testing.assert_allclose(grid[0, 2, 0::2], pilots[0])
    np.testing.assert_allclose(grid[1, 2, 0::2], pilots[0] * (-1) ** np.arange(18))
    np.testing.assert_allclose(grid[2, 11, 1::2], pilots[1])
    assert not grid[:2, 2, 1::2].any()
    assert not grid[2:, 2, 0::2].any()


def test_double_symbol_dm_rs_has_its_cover_in_time(rng) -> None:
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


def test_data_goes_to_layers_in_turn(rng) -> None:
    config = PuschConfig(n_prb=1, mcs_index=3, n_layers=2)
    one = replace(config, n_layers=1)
    tb = random_tb(config, rng)
    grid = PuschTransmitter(config)(tb)
    # TS 38.211 6.3.1.3: x^(l)(i) = d(2 i + l).
    from phy.nr import modulation, sch

    coded = sch.encode(tb, config.sch) ^ config.scrambling_sequence
    symbols = modulation.map(coded, 2)
    first = grid[:, 0]
    np.testing.assert_allclose(first[0], symbols[0:24:2])
    np.testing.assert_allclose(first[1], symbols[1:24:2])
    assert one.n_data_re == config.n_data_re


def test_an_allocation_lies_where_it_should_on_the_carrier(rng) -> None:
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


@settings(deadline=None, max_examples=60)
@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_any_configuration_comes_back(data, seed) -> None:
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
def test_four_faded_layers_are_separated(equaliser, demapper, rng) -> None:
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
def test_least_squares_works_too_and_wiener_does_better(dmrs_type, length, rng) -> None:
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


def test_pdsch_is_precoded_and_its_receiver_need_not_know(rng) -> None:
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


def test_ues_side_by_side_in_one_slot_all_come_back(rng) -> None:
    carrier = {"carrier_start_prb": 0, "carrier_n_prb": 60, "n_rx": 4}
    configs = [
        PuschConfig(n_prb=10, start_prb=0, rnti=1, mcs_index=10, **carrier),
        PuschConfig(n_prb=30, start_prb=10, rnti=2, mcs_index=5, n_layers=2, **carrier),
        PuschConfig(n_prb=5, start_prb=50, rnti=3, mcs_index=0, start_symbol=0, **carrier),
    ]
    tbs = [random_tb(config, rng) for config in configs]
    total = sum(
        faded(PuschTransmitter(config)(tb), 4, rng) for config, tb in zip(configs, tbs, strict=True)
    )
    results = PuschSlotReceiver(configs)(total + 0.05 * noise(rng, *total.shape))
    for result, tb in zip(results, tbs, strict=True):
        assert result.crc_ok
        assert np.array_equal(result.tb, tb)


@pytest.mark.parametrize("ports", [((0,), (1,)), ((0,), (2,)), ((0, 1), (2, 3))])
def test_ues_on_the_same_prbs_are_separated_together(ports, rng) -> None:
    configs = [
        PuschConfig(
            n_prb=24,
            rnti=10 + user,
            mcs_index=8 + 2 * user,
            n_layers=len(own),
            dmrs_ports=own,
            n_rx=8,
            n_id=3,
        )
        for user, own in enumerate(ports)
    ]
    tbs = [random_tb(config, rng) for config in configs]
    total = sum(
        faded(PuschTransmitter(config)(tb), 8, rng) for config, tb in zip(configs, tbs, strict=True)
    )
    total = total + 0.1 * noise(rng, *total.shape)
    for result, tb in zip(PuschSlotReceiver(configs)(total), tbs, strict=True):
        assert result.crc_ok
        assert np.array_equal(result.tb, tb)


def received_together(configs, rng) -> list[bool]:
    """Whether each UE's block comes back when all send in one slot at 30 dB."""
    tbs = [random_tb(config, rng) for config in configs]
    total = sum(
        faded(PuschTransmitter(config)(tb), config.n_rx, rng)
        for config, tb in zip(configs, tbs, strict=True)
    )
    total = total + 0.03 * noise(rng, *total.shape)
    return [
        result.crc_ok and np.array_equal(result.tb, tb)
        for result, tb in zip(PuschSlotReceiver(configs)(total), tbs, strict=True)
    ]


@pytest.mark.parametrize("port", [1, 2])
def test_ues_with_transform_precoding_are_separated_together(port, rng) -> None:
    one = PuschConfig(n_prb=24, n_rx=4, transform_precoding=True, pi2_bpsk=True, rnti=5)
    other = replace(one, rnti=6, mcs_index=0, dmrs_ports=(port,))
    assert received_together([one, other], rng) == [True, True]


def test_the_same_prbs_are_the_same_however_they_are_written(rng) -> None:
    carrier = {"n_prb": 8, "n_rx": 4, "carrier_start_prb": 0, "carrier_n_prb": 20}
    one = PuschConfig(start_prb=3, **carrier)
    other = PuschConfig(prbs=tuple(range(3, 11)), rnti=2, dmrs_ports=(1,), **carrier)
    assert received_together([one, other], rng) == [True, True]
    with pytest.raises(InvalidInputError, match="dmrs_ports"):
        PuschSlotReceiver([one, replace(other, dmrs_ports=(0,))])


def test_ues_of_a_slot_must_fit_together() -> None:
    one = PuschConfig(n_prb=4)
    with pytest.raises(InvalidInputError, match="dmrs_ports"):
        PuschSlotReceiver([one, replace(one, rnti=2)])
    with pytest.raises(InvalidInputError, match="configs"):
        PuschSlotReceiver([one, replace(one, start_prb=4, dmrs_ports=(1,))])
    with pytest.raises(InvalidInputError, match="configs"):
        PuschSlotReceiver([])
    receive = PuschSlotReceiver([one])
    with pytest.raises(InvalidInputError, match="soft_buffers"):
        receive(np.zeros((2, 14, 48), np.complex64), soft_buffers=[])


def test_interference_rejection_passes_where_plain_mmse_fails(rng) -> None:
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
def test_offsets_and_powers_are_measured(n_prb, rng) -> None:
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
def test_bad_samples_outside_the_allocation_do_no_harm(bad, rng) -> None:
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


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"prbs": (1, 2)}, "prbs"),
        ({"prbs": 1}, "prbs"),
        ({"prbs": (0, 1, 2, 3.5)}, "prbs"),
        ({"dmrs_ports": 0}, "dmrs_ports"),
        ({"dmrs_ports": (0.0,)}, "dmrs_ports"),
        ({"mcs_table": [1]}, "mcs_table"),
        ({"mapping_type": "B", "n_symbols": 1}, "n_symbols"),
        ({"mapping_type": "B", "n_symbols": 2, "n_overhead_re": 12}, "n_overhead_re"),
        ({"prbs": (1, 2, 2, 4)}, "prbs"),
        ({"prbs": (0, 1, 2, 280)}, "prbs"),
        ({"carrier_start_prb": 1}, "carrier_start_prb"),
        ({"carrier_n_prb": 3}, "carrier_n_prb"),
        ({"dmrs_type": 3}, "dmrs_type"),
        ({"dmrs_length": 0}, "dmrs_length"),
        ({"dmrs_ports": (0, 0), "n_layers": 2}, "dmrs_ports"),
        ({"dmrs_ports": (4,)}, "dmrs_ports"),
        ({"n_layers": 4, "n_cdm_groups_without_data": 1}, "dmrs_ports"),
        ({"n_overhead_re": 5}, "n_overhead_re"),
        ({"n_layers": 3, "n_ports": 2}, "n_layers"),
        ({"n_ports": 3}, "n_ports"),
        ({"tpmi": 1}, "tpmi"),
        ({"tpmi": 28, "n_ports": 4}, "tpmi"),
        ({"transform_precoding": True, "n_layers": 2}, "n_layers"),
        ({"transform_precoding": True, "n_prb": 7}, "n_prb"),
        ({"transform_precoding": True, "prbs": (0, 1, 2, 4)}, "prbs"),
        ({"transform_precoding": True, "dmrs_type": 2}, "dmrs_type"),
        ({"transform_precoding": True, "n_id": 1008}, "n_id"),
        ({"transform_precoding": True, "dmrs_n_id": 1008}, "dmrs_n_id"),
        ({"pi2_bpsk": True}, "pi2_bpsk"),
    ],
)
def test_wrong_configurations_are_named(changed, field) -> None:
    with pytest.raises(InvalidInputError) as caught:
        PuschConfig(**({"n_prb": 4} | changed))
    assert caught.value.field == field


def test_prbs_and_ports_may_be_any_sequence() -> None:
    plain = PuschConfig(n_prb=4, prbs=(0, 1, 2, 5), n_layers=2, dmrs_ports=(0, 2))
    other = PuschConfig(n_prb=4, prbs=np.array([0, 1, 2, 5]), n_layers=2, dmrs_ports=[0, 2])
    assert hash(other) == hash(plain)
    assert other == plain


def test_wrong_options_and_weights_are_named() -> None:
    for make, field in (
        (lambda: ReceiverOptions(n_iterations=0), "n_iterations"),
        (lambda: ReceiverOptions(equaliser="best"), "equaliser"),  # type: ignore[arg-type]
        (lambda: ReceiverOptions(estimator="ls", equaliser="mmse_irc"), "equaliser"),
        (lambda: ReceiverOptions(estimator="none"), "estimator"),  # type: ignore[arg-type]
        (lambda: ReceiverOptions(demapper="soft"), "demapper"),  # type: ignore[arg-type]
        (
            lambda: PuschReceiver(
                PuschConfig(n_prb=4, n_layers=3), options=ReceiverOptions(equaliser="zf")
            ),
            "equaliser",
        ),
        (lambda: DelayWindow(100.0, -100.0), "latest_ns"),
        (lambda: DelayWindow(float("nan")), "earliest_ns"),
        (lambda: DelayWindow(0.0, 100.0, 50.0), "stragglers_ns"),
        (lambda: PdschConfig(n_prb=4, precoding_weights=((1, 1),)), "precoding_weights"),
        (lambda: PdschConfig(n_prb=4, precoding_weights=()), "precoding_weights"),
        (lambda: PdschConfig(n_prb=4, precoding_weights=((1e300,),)), "precoding_weights"),
        (lambda: PdschConfig(n_prb=4, start_symbol=1, n_symbols=2), "n_symbols"),
        (
            lambda: PdschConfig(n_prb=4, precoding_weights=((float("nan"),),)),
            "precoding_weights",
        ),
    ):
        with pytest.raises(InvalidInputError) as caught:
            make()
        assert caught.value.field == field


def test_each_prg_has_its_own_precoding(rng) -> None:
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
