from __future__ import annotations

import math

import numpy as np
import pytest

from airan.core.errors import InvalidInputError
from phy.channel import Channel, ChannelConfig
from phy.ofdm import OfdmConfig, OfdmDemodulator, OfdmModulator
from phy.receiver import offsets


def complex_noise(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return (rng.standard_normal((*shape, 2)) @ (1, 1j) / np.sqrt(2)).astype(np.complex64)


def with_timing_offset(channel: np.ndarray, offset_ns: float, spacing_hz: float) -> np.ndarray:
    turns = -np.arange(channel.shape[-1]) * spacing_hz * offset_ns * 1e-9
    return (channel * np.exp(2j * np.pi * turns)).astype(np.complex64)


def with_frequency_offset(channel: np.ndarray, offset_hz: float, times: np.ndarray) -> np.ndarray:
    turns = np.exp(2j * np.pi * offset_hz * times)[:, None]
    return (channel * turns).astype(np.complex64)


def frequency_of(raw, times) -> float:
    return offsets.frequency_offset_hz(offsets.position_products(raw), times)


@pytest.mark.parametrize("offset_ns", [-4000.0, -130.0, 0.0, 25.0, 2500.0, 8200.0])
def test_a_delay_is_measured_over_its_whole_range(rng, offset_ns) -> None:
    flat = complex_noise(rng, 2, 3, 2, 1) * np.ones(300, np.complex64)
    raw = with_timing_offset(flat, offset_ns, 60e3)
    assert offsets.timing_offset_ns(raw, 60e3) == pytest.approx(offset_ns, abs=0.1)


@pytest.mark.parametrize(("snr_db", "tolerance_ns"), [(20.0, 2.0), (0.0, 32.0), (-6.0, 130.0)])
def test_a_delay_is_measured_in_noise(rng, snr_db, tolerance_ns) -> None:
    """24 PRBs, two antennas and symbols; the tolerance is about five standard deviations."""
    for offset_ns in rng.uniform(-1000, 1000, 20):
        flat = complex_noise(rng, 2, 1, 1, 1) * np.ones((2, 144), np.complex64)
        flat /= np.sqrt(np.mean(np.abs(flat) ** 2))
        raw = with_timing_offset(flat, offset_ns, 60e3)
        raw += np.float32(10 ** (-snr_db / 20)) * complex_noise(rng, *raw.shape)
        found = offsets.timing_offset_ns(raw, 60e3)
        assert found == pytest.approx(offset_ns, abs=tolerance_ns)


def test_of_many_paths_the_mean_delay_is_measured(rng) -> None:
    """TDL-C of 100 ns has a mean normalised delay that follows from its table; a further offset
    adds to it."""
    mean_delays, added = [], []
    for seed in range(40):
        config = ChannelConfig(profile="TDL-C", delay_spread_ns=100.0, n_rx=4)
        response = Channel(config, np.random.default_rng(seed)).response(624)
        channel = response[:, None, :2, ::2]
        base = offsets.timing_offset_ns(np.ascontiguousarray(channel), 60e3)
        late = offsets.timing_offset_ns(with_timing_offset(channel, 500.0, 60e3), 60e3)
        mean_delays.append(base)
        added.append(late - base)
    np.testing.assert_allclose(added, 500.0, atol=0.5)
    # TR 38.901 table 7.7.2-3: mean delay of TDL-C at an rms spread of 1 is 0.82.
    assert np.mean(mean_delays) == pytest.approx(82.0, abs=15.0)


def test_covers_on_neighbouring_pilots_do_not_disturb_a_lag_of_two(rng) -> None:
    """Two ports of a CDM group seen through the cover of the first: h0 + (-1)^k h1."""
    h0, h1 = complex_noise(rng, 2, 4, 1, 1, 1)
    signs = np.where(np.arange(200) % 2, -1, 1)
    raw = with_timing_offset(h0 + h1 * signs, 700.0, 60e3)
    assert offsets.timing_offset_ns(raw, 60e3, first_lag=2) == pytest.approx(700.0, abs=0.1)


@pytest.mark.parametrize("symbols", [(2, 11), (2, 7, 11), (2, 5, 8, 11), (2, 3, 10, 11)])
def test_a_frequency_offset_is_measured_over_its_whole_range(rng, symbols) -> None:
    times = offsets.symbol_times_s(30, 1)[list(symbols)]
    limit = 1 / (2 * np.diff(times).min())
    channel = complex_noise(rng, 2, 2, 1, 60)
    for offset_hz in (-0.97 * limit, -0.3 * limit, 0.0, 55.0, 0.6 * limit, 0.97 * limit):
        raw = with_frequency_offset(channel, offset_hz, times)
        assert frequency_of(raw, times) == pytest.approx(offset_hz, abs=0.5)


@pytest.mark.parametrize("symbols", [(2, 11), (2, 5, 8, 11)])
@pytest.mark.parametrize(("snr_db", "tolerance_hz"), [(20.0, 12.0), (0.0, 145.0)])
def test_a_frequency_offset_is_measured_in_noise(rng, symbols, snr_db, tolerance_hz) -> None:
    """24 PRBs, two antennas, a selective channel; about four standard deviations."""
    times = offsets.symbol_times_s(30, 0)[list(symbols)]
    for seed, offset_hz in enumerate(rng.uniform(-1000, 1000, 20)):
        config = ChannelConfig(profile="TDL-B", delay_spread_ns=100.0, n_rx=2)
        response = Channel(config, np.random.default_rng(seed)).response(288)
        channel = response[:, None, : len(symbols), ::2]
        channel = channel / np.sqrt(np.mean(np.abs(channel) ** 2))
        raw = with_frequency_offset(channel, offset_hz, times)
        raw += np.float32(10 ** (-snr_db / 20)) * complex_noise(rng, *raw.shape)
        found = frequency_of(raw, times)
        assert found == pytest.approx(offset_hz, abs=tolerance_hz)


def test_more_symbols_measure_a_frequency_better(rng) -> None:
    errors = {}
    for symbols in ((2, 11), (2, 5, 8, 11)):
        times = offsets.symbol_times_s(30, 0)[list(symbols)]
        errors[symbols] = []
        for _ in range(200):
            raw = complex_noise(rng, 1, 1, 1, 24) + 0.7 * complex_noise(rng, 1, 1, times.size, 24)
            errors[symbols].append(frequency_of(raw, times))
    assert np.std(errors[2, 5, 8, 11]) < np.std(errors[2, 11])


@pytest.mark.parametrize(("scs_khz", "slot_number"), [(15, 0), (30, 1), (60, 3), (120, 4)])
def test_times_are_those_of_the_samples(scs_khz, slot_number) -> None:
    config = OfdmConfig(scs_khz, 10, 2048)
    expected = np.array(config.useful_starts(slot_number)) / config.sample_rate_hz
    found = offsets.symbol_times_s(scs_khz, slot_number)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_offsets_of_a_waveform_are_measured(rng) -> None:
    """A modulated slot, delayed by 3 samples and shifted by 400 Hz as a waveform, not as a grid."""
    config = OfdmConfig(30, 51)
    grid = np.exp(1j * np.pi / 2 * rng.integers(0, 4, (14, 612))).astype(np.complex64)
    samples = OfdmModulator(config)(grid, 3)
    samples = np.concatenate([np.zeros(3, np.complex64), samples])
    t = np.arange(samples.size) / config.sample_rate_hz
    samples = (samples * np.exp(2j * np.pi * 400.0 * t)).astype(np.complex64)
    received = OfdmDemodulator(config)(samples, 3)
    times = offsets.symbol_times_s(30, 3)
    raw = (received / grid)[None, None, [2, 11], ::2]
    timing_ns = offsets.timing_offset_ns(raw, 60e3)
    frequency_hz = frequency_of(raw, times[[2, 11]])
    assert timing_ns == pytest.approx(3e9 / config.sample_rate_hz, abs=1.0)
    assert frequency_hz == pytest.approx(400.0, abs=5.0)


def test_non_finite_estimates_are_left_out(rng) -> None:
    channel = complex_noise(rng, 2, 1, 1, 1) * np.ones((2, 48), np.complex64)
    raw = with_timing_offset(channel, 300.0, 60e3)
    raw[0, 0, 0, 5:9] = [np.nan, np.inf, 1j * np.nan, -np.inf]
    assert offsets.timing_offset_ns(raw, 60e3) == pytest.approx(300.0, abs=0.2)


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_where_there_is_nothing_to_measure_nothing_is_said(value) -> None:
    raw = np.full((2, 1, 2, 12), value, np.complex64)
    assert math.isnan(offsets.timing_offset_ns(raw, 60e3))


def test_silence_has_no_frequency() -> None:
    assert math.isnan(frequency_of(np.zeros((2, 1, 2, 12), np.complex64), np.array([0.0, 1e-4])))


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_estimates_near_the_ends_of_the_float_range_are_measured(rng, scale) -> None:
    flat = complex_noise(rng, 1, 1, 2, 1) * np.ones(48, np.complex64)
    raw = (with_timing_offset(flat, 300.0, 60e3) * scale).astype(np.complex64)
    assert offsets.timing_offset_ns(raw, 60e3) == pytest.approx(300.0, abs=0.2)


def test_one_dmrs_symbol_says_nothing_of_frequency(rng) -> None:
    assert math.isnan(frequency_of(complex_noise(rng, 1, 1, 1, 12), np.zeros(1)))


RAW = np.ones((1, 1, 2, 12), np.complex64)


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda: offsets.timing_offset_ns(RAW[0], 60e3), "raw"),
        (lambda: offsets.timing_offset_ns(RAW.real, 60e3), "raw"),
        (lambda: offsets.timing_offset_ns(RAW, 0.0), "pilot_spacing_hz"),
        (lambda: offsets.timing_offset_ns(RAW, 60e3, 12), "first_lag"),
        (lambda: frequency_of(RAW, np.zeros(1)), "times_s"),
        (lambda: frequency_of(RAW, np.array([1.0, 0.0])), "times_s"),
        (lambda: offsets.symbol_times_s(45, 0), "scs_khz"),
    ],
)
def test_wrong_arguments_are_named(call, field) -> None:
    with pytest.raises(InvalidInputError) as caught:
        call()
    assert caught.value.field == field
