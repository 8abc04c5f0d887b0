from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airan.core.errors import InvalidInputError
from phy.ofdm import OfdmConfig, OfdmDemodulator, OfdmModulator

T_C = 1 / (480e3 * 4096)
KAPPA = 64
NUMEROLOGIES = {15: 0, 30: 1, 60: 2, 120: 3}


def complex_noise(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return (rng.standard_normal((*shape, 2)) @ (1, 1j) / np.sqrt(2)).astype(np.complex64)


class SpecSymbols:
    """TS 38.211 5.3.1 as printed: symbols of a subframe in continuous time, in seconds."""

    def __init__(self, scs_khz: int) -> None:
        mu = NUMEROLOGIES[scs_khz]
        self.scs_hz = scs_khz * 1e3
        n_u = 2048 * KAPPA / 2**mu
        self.cp, self.start, self.length = [], [], []
        t = 0.0
        for at in range(14 * 2**mu):
            n_cp = 144 * KAPPA / 2**mu + (16 * KAPPA if at in (0, 7 * 2**mu) else 0)
            self.cp.append(n_cp * T_C)
            self.start.append(t)
            self.length.append((n_u + n_cp) * T_C)
            t += (n_u + n_cp) * T_C

    def baseband(self, at: int, a: np.ndarray, t: np.ndarray) -> np.ndarray:
        """s_l(t) for one symbol's resource elements `a`, without the spec's rectangular window."""
        k = np.arange(a.size)[:, None]
        inner = t[None, :] - self.cp[at] - self.start[at]
        waves = np.exp(2j * np.pi * (k - a.size / 2) * self.scs_hz * inner)
        return np.asarray(np.sum(a[:, None] * waves, axis=0))


@pytest.mark.parametrize(("scs_khz", "slot_number"), [(15, 3), (30, 0), (30, 5), (60, 2), (120, 7)])
@pytest.mark.parametrize("carrier_frequency_hz", [0.0, 3_619_235_000.0])
def test_samples_are_the_printed_sums_of_exponentials_after_a_mixer(
    rng, scs_khz, slot_number, carrier_frequency_hz
) -> None:
    """5.4 upconverts s_l(t) by exp(j 2 pi f0 (t - t_start - N_CP T_c)); a mixer that runs on from
    the subframe's start takes exp(j 2 pi f0 t) off again."""
    config = OfdmConfig(scs_khz, 2, 128, carrier_frequency_hz)
    grid = complex_noise(rng, 14, 24)
    samples = OfdmModulator(config)(grid, slot_number)
    spec = SpecSymbols(scs_khz)
    first = 14 * (slot_number % 2 ** NUMEROLOGIES[scs_khz])
    position = 0
    for symbol in range(14):
        at = first + symbol
        n = round(spec.length[at] * config.sample_rate_hz)
        t = spec.start[at] + np.arange(n) / config.sample_rate_hz
        up = np.exp(2j * np.pi * carrier_frequency_hz * (t - spec.start[at] - spec.cp[at]))
        down = np.exp(-2j * np.pi * carrier_frequency_hz * t)
        expected = spec.baseband(at, grid[symbol], t) * up * down / np.sqrt(128)
        np.testing.assert_allclose(samples[position : position + n], expected, atol=2e-5)
        position += n
    assert position == samples.size


def test_a_real_radio_signal_at_the_carrier_is_received(rng) -> None:
    """The real signal of 5.4 at 37.515 MHz, mixed down with a free-running carrier at 64 times the
    sample rate and thinned out: the demodulator's own FFT is the low-pass filter."""
    scs_khz, slot_number, over = 30, 3, 64
    f0 = 1250.5 * scs_khz * 1e3
    config = OfdmConfig(scs_khz, 2, 128 * over, f0)
    grid = complex_noise(rng, 14, 24)
    spec = SpecSymbols(scs_khz)
    pieces = []
    for symbol in range(14):
        at = 14 + symbol
        n = round(spec.length[at] * config.sample_rate_hz)
        t = spec.start[at] + np.arange(n) / config.sample_rate_hz
        carrier = np.exp(2j * np.pi * f0 * (t - spec.start[at] - spec.cp[at]))
        passband = np.real(spec.baseband(at, grid[symbol], t) * carrier)
        pieces.append(2 * passband * np.exp(-2j * np.pi * f0 * t))
    received = np.concatenate(pieces).astype(np.complex64) / np.sqrt(np.float32(128 * over))
    found = OfdmDemodulator(config)(received, slot_number)
    np.testing.assert_allclose(found, grid, atol=1e-3)
    without = OfdmDemodulator(OfdmConfig(scs_khz, 2, 128 * over))(received, slot_number)
    rotation = np.angle(np.sum(without * grid.conj(), axis=-1))
    start = np.array([spec.start[14 + symbol] + spec.cp[14 + symbol] for symbol in range(14)])
    wrapped = np.exp(1j * (rotation + 2 * np.pi * f0 * start))
    np.testing.assert_allclose(wrapped, 1, atol=1e-3)
    assert np.ptp(rotation) > 1


@pytest.mark.parametrize("scs_khz", NUMEROLOGIES)
@pytest.mark.parametrize("fft_size", [128, 1536, 4096])
def test_a_subframe_is_one_millisecond_of_samples(scs_khz, fft_size) -> None:
    config = OfdmConfig(scs_khz, 10, fft_size)
    slots = 2 ** NUMEROLOGIES[scs_khz]
    assert config.sample_rate_hz == fft_size * scs_khz * 1000
    for subframe in (0, 9):
        total = sum(config.slot_samples(slots * subframe + slot) for slot in range(slots))
        assert total == config.sample_rate_hz // 1000


@pytest.mark.parametrize("scs_khz", NUMEROLOGIES)
def test_prefixes_are_the_specs(scs_khz) -> None:
    config = OfdmConfig(scs_khz, 10, 2048)
    spec = SpecSymbols(scs_khz)
    cp = [cp for slot in range(scs_khz // 15) for cp in config.cp_lengths(slot)]
    np.testing.assert_allclose(cp, np.array(spec.cp) * config.sample_rate_hz, rtol=1e-9)
    starts, before = [], 0
    for slot in range(scs_khz // 15):
        starts += [before + start for start in config.useful_starts(slot)]
        before += config.slot_samples(slot)
    expected = (np.array(spec.start) + spec.cp) * config.sample_rate_hz
    np.testing.assert_allclose(starts, expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("n_prb", "fft_size"), [(1, 128), (25, 512), (51, 1024), (106, 2048), (162, 4096), (273, 4096)]
)
def test_the_carrier_fills_at_most_85_percent_of_the_default_fft(n_prb, fft_size) -> None:
    assert OfdmConfig(30, n_prb).fft_size == fft_size


def test_energy_of_the_useful_parts_is_that_of_the_resource_elements(rng) -> None:
    config = OfdmConfig(30, 51, carrier_frequency_hz=2e9)
    grid = complex_noise(rng, 2, 14, 612)
    samples = OfdmModulator(config)(grid, 4)
    for symbol, start in enumerate(config.useful_starts(4)):
        useful = samples[:, start : start + config.n_samples]
        np.testing.assert_allclose(
            np.linalg.norm(useful, axis=-1), np.linalg.norm(grid[:, symbol], axis=-1), rtol=1e-5
        )


def test_noise_has_one_variance_in_time_and_on_resource_elements(rng) -> None:
    config = OfdmConfig(15, 106)
    noise = 0.3 * complex_noise(rng, config.slot_samples(0))
    grid = OfdmDemodulator(config, 70)(noise, 0)
    assert np.mean(np.abs(grid) ** 2) == pytest.approx(0.09, rel=0.03)


@settings(max_examples=60)
@given(data=st.data())
def test_any_grid_comes_back_from_its_samples(data) -> None:
    scs_khz = data.draw(st.sampled_from(list(NUMEROLOGIES)))
    n_prb = data.draw(st.integers(1, 60))
    sizes = [None, *(128 * n for n in range(1, 17) if 128 * n >= 12 * n_prb)]
    carrier = data.draw(st.floats(0, 52e9))
    config = OfdmConfig(scs_khz, n_prb, data.draw(st.sampled_from(sizes)), carrier)
    slot_number = data.draw(st.integers(0, 10 * scs_khz // 15 - 1))
    offset = data.draw(st.integers(0, 9 * config.n_samples // 128))
    first = data.draw(st.integers(0, 100))
    batch = data.draw(st.lists(st.integers(1, 2), max_size=2))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    grid = complex_noise(rng, *batch, 14, 12 * n_prb)
    samples = OfdmModulator(config)(grid, slot_number)
    assert samples.dtype == np.complex64
    assert samples.shape == (*batch, config.slot_samples(slot_number))
    capture = np.concatenate([complex_noise(rng, *batch, first), samples], axis=-1)
    found = OfdmDemodulator(config, offset)(capture, slot_number, first)
    assert found.dtype == np.complex64
    np.testing.assert_allclose(found, grid, atol=2e-5)


@pytest.mark.parametrize(("offset", "delay"), [(0, 0), (0, 60), (36, 36), (36, -36), (72, -72)])
def test_a_shift_within_the_prefix_is_a_phase_ramp(rng, offset, delay) -> None:
    config = OfdmConfig(30, 51, carrier_frequency_hz=3.5e9)
    grid = complex_noise(rng, 14, 612)
    samples = OfdmModulator(config)(grid, 7)
    around = complex_noise(rng, 2, 100)
    capture = np.concatenate([around[0], samples, around[1]])
    found = OfdmDemodulator(config, offset)(capture, 7, first_sample=100 - delay)
    subcarrier = np.arange(612) - 306
    ramp = np.exp(-2j * np.pi * subcarrier * delay / config.n_samples)
    np.testing.assert_allclose(found, grid * ramp, atol=2e-5)


def test_a_shift_beyond_the_prefix_mixes_symbols(rng) -> None:
    config = OfdmConfig(30, 51)
    grid = complex_noise(rng, 14, 612)
    capture = np.concatenate([OfdmModulator(config)(grid, 7), np.zeros(100, np.complex64)])
    found = OfdmDemodulator(config)(capture, 7, first_sample=20)
    ramp = np.exp(2j * np.pi * (np.arange(612) - 306) * 20 / config.n_samples)
    assert np.abs(found - grid * ramp).max() > 0.1


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda: OfdmConfig(45, 10), "scs_khz"),
        (lambda: OfdmConfig(30, 276), "n_prb"),
        (lambda: OfdmConfig(30, 11, 130), "fft_size"),
        (lambda: OfdmConfig(30, 11, 128), "fft_size"),
        (lambda: OfdmConfig(30, 11, carrier_frequency_hz=float("nan")), "carrier_frequency_hz"),
        (lambda: OfdmConfig(30, 10).cp_lengths(20), "slot_number"),
        (lambda: OfdmDemodulator(OfdmConfig(30, 10, 256), 19), "window_offset_samples"),
        (lambda: OfdmModulator(OfdmConfig(30, 1))(np.zeros((14, 12)), 0), "grid"),
        (lambda: OfdmModulator(OfdmConfig(30, 1))(np.zeros((12, 14), np.complex64), 0), "grid"),
        (lambda: OfdmDemodulator(OfdmConfig(30, 1))(np.zeros(1900, np.complex64), 0), "samples"),
        (lambda: OfdmDemodulator(OfdmConfig(30, 1))(np.zeros(9999), 0), "samples"),
        (
            lambda: OfdmDemodulator(OfdmConfig(30, 1))(np.zeros(9999, np.complex64), 0, -1),
            "first_sample",
        ),
    ],
)
def test_wrong_arguments_are_named(call, field) -> None:
    with pytest.raises(InvalidInputError) as caught:
        call()
    assert caught.value.field == field
