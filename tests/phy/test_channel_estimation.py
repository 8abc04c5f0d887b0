from __future__ import annotations

import numpy as np
import pytest

from phy import PuschConfig, PuschTransmitter
from phy.channel import Channel, ChannelConfig
from phy.receiver import delay_profile, time_interpolation
from phy.receiver.channel_estimation import ChannelEstimator
from phy.receiver.delay_profile import DelayProfile, DelayWindow
from phy.receiver.wiener import FilterDesign, FrequencyFilter


def complex_normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    values = rng.standard_normal((2, *shape)) / np.sqrt(2)
    return values[0] + 1j * values[1]


def response(delays_ns, powers, subcarriers, shape, rng, scs_khz=30) -> np.ndarray:
    """Rayleigh taps: complex[*shape, subcarrier]."""
    taps = complex_normal(rng, *shape, len(delays_ns)) * np.sqrt(powers)
    turns = scs_khz * 1e-6 * np.multiply.outer(np.asarray(delays_ns), subcarriers)
    return taps @ np.exp(-2j * np.pi * turns)


@pytest.mark.parametrize("has_partner", [False, True])
@pytest.mark.parametrize("snr_db", [0.0, 20.0, 40.0])
def test_the_profile_shows_the_paths_and_the_noise(has_partner, snr_db, rng) -> None:
    delays, powers = [100.0, 1500.0], [0.7, 0.3]
    shape = (4, 2, 2)
    pilots = response(delays, powers, 2 * np.arange(600), shape, rng)
    if has_partner:
        pilots = pilots + (-1) ** np.arange(600) * response(
            delays, powers, 2 * np.arange(600), shape, rng
        )
    noise_var = 10 ** (-snr_db / 10)
    pilots = pilots + np.sqrt(noise_var) * complex_normal(rng, *pilots.shape)
    profile, noise = delay_profile.estimate(pilots.astype(np.complex64), 2, 30, has_partner, None)
    assert noise == pytest.approx(noise_var, rel=0.1)
    assert profile.power.sum() == pytest.approx(1.0, rel=0.5)
    near = [np.abs(profile.delay_ns - delay) < 200 for delay in delays]
    assert profile.power[near[0] | near[1]].sum() > 0.95 * profile.power.sum()
    assert profile.power[near[0]].sum() > profile.power[near[1]].sum()


@pytest.mark.parametrize("n_pilots", [6, 12, 46])
@pytest.mark.parametrize("has_partner", [False, True])
@pytest.mark.parametrize("snr_db", [0.0, 20.0])
def test_narrow_allocations_fit_power_and_noise(n_pilots, has_partner, snr_db, rng) -> None:
    found = []
    noise_var = 10 ** (-snr_db / 10)
    for _ in range(30):
        pilots = response([50, 600], [0.6, 0.4], 2 * np.arange(n_pilots), (2, 2, 2), rng)
        if has_partner:
            pilots = pilots + (-1) ** np.arange(n_pilots) * response(
                [50, 600], [0.6, 0.4], 2 * np.arange(n_pilots), (2, 2, 2), rng
            )
        pilots = pilots + np.sqrt(noise_var) * complex_normal(rng, *pilots.shape)
        found.append(
            delay_profile.fit_flat(pilots.astype(np.complex64), 2, 30, has_partner, DelayWindow())
        )
    power, noise = np.mean(found, axis=0)
    assert power == pytest.approx(1.0, rel=0.35)
    assert noise == pytest.approx(noise_var, rel=0.35)


@pytest.mark.parametrize("n_prb", [4, 8, 9, 11, 13, 14, 24, 60])
@pytest.mark.parametrize("n_layers", [1, 2])
def test_estimates_of_every_width_are_better_than_the_noise(n_prb, n_layers, rng) -> None:
    config = PuschConfig(n_prb=n_prb, n_layers=n_layers)
    channel = Channel(ChannelConfig(n_tx=n_layers, snr_db=26.0), rng)
    errors = []
    for _ in range(5):
        fading = channel.draw()
        tb = rng.integers(0, 2, config.tb_size_bits, dtype=np.uint8)
        grid = channel(PuschTransmitter(config)(tb), fading)
        estimate = ChannelEstimator([config])(grid, config.pilots(0), 0, None)
        true = fading.response(12 * n_prb)[:, :, :1]
        errors.append(np.mean(np.abs(estimate.at_positions - true) ** 2))
    assert np.mean(errors) < 0.3 * channel.config.noise_var


@pytest.mark.parametrize("runs", [[(0, 1)], [(0, 3), (3, 20)], [(0, 52)]])
@pytest.mark.parametrize(("spacing", "offset"), [(2, 0.0), (2, 1.0), (6, 2.5)])
def test_the_wiener_filter_beats_its_input_everywhere(runs, spacing, offset, rng) -> None:
    n_prb = sum(count for _, count in runs)
    subcarriers = np.arange(12 * n_prb)
    truth = response([100, 700], [0.5, 0.5], subcarriers, (200,), rng)
    at_pilots = offset + spacing * np.arange(12 * n_prb // spacing)
    taps = np.random.default_rng(5)
    between = response(
        [100, 700], [0.5, 0.5], np.concatenate([subcarriers, at_pilots]), (200,), taps
    )
    truth, pilots = between[:, : subcarriers.size], between[:, subcarriers.size :]
    pilots = pilots + np.sqrt(0.1) * complex_normal(rng, *pilots.shape)
    profile = DelayProfile(np.array([100.0, 700.0]), np.array([0.5, 0.5]))
    filtered = FrequencyFilter(runs, spacing, offset)(
        pilots.astype(np.complex64), FilterDesign(profile, None, 0.1, 30)
    )
    error = np.abs(filtered.channel - truth) ** 2
    assert error.mean() < 0.1
    assert error.mean(axis=0).max() < 0.2
    assert 0 < filtered.residual_part < 1


def test_the_wiener_filter_tells_two_layers_on_the_same_pilots_apart(rng) -> None:
    subcarriers = np.arange(600)
    layers = response([0, 900], [0.5, 0.5], subcarriers, (2, 50), rng)
    sign = (-1) ** np.arange(300)
    pilots = layers[0, :, 0::2] + sign * layers[1, :, 0::2]
    pilots = pilots + 0.03 * complex_normal(rng, *pilots.shape)
    profile = DelayProfile(np.array([0.0, 900.0]), np.array([0.5, 0.5]))
    design = FilterDesign(profile, profile, 0.001, 30)
    apply = FrequencyFilter([(0, 50)], 2, 0.0)
    for layer, seen in zip(layers, (pilots, sign * pilots), strict=True):
        found = apply(seen.astype(np.complex64), design).channel
        assert (np.abs(found - layer) ** 2).mean() < 1e-3


def test_a_still_channel_is_averaged_and_a_turning_one_followed(rng) -> None:
    times = np.array([2.5, 11.5]) * 35.7e-6
    symbol_times = np.arange(14) * 35.7e-6
    still = complex_normal(rng, 4, 1, 1, 300)
    noise = 0.3 * complex_normal(rng, 4, 1, 2, 300)
    model = time_interpolation.fit(still + noise, times, symbol_times, 0.09)
    assert model.frequency_offset_hz == pytest.approx(0.0, abs=20.0)
    assert model.doppler_hz < 200.0
    np.testing.assert_allclose(model.weights, 0.5, atol=0.1)
    turning = still * np.exp(2j * np.pi * 400.0 * times)[:, None]
    model = time_interpolation.fit(turning, times, symbol_times, 1e-4)
    assert model.frequency_offset_hz == pytest.approx(400.0, abs=1.0)
    followed = np.einsum("ta,rlak->rltk", model.weights, turning)
    truth = still * np.exp(2j * np.pi * 400.0 * symbol_times)[:, None]
    np.testing.assert_allclose(followed, truth, atol=0.02)


def test_a_fast_channel_is_interpolated_between_its_positions(rng) -> None:
    times = np.array([2.5, 11.5]) * 35.7e-6
    symbol_times = np.arange(14) * 35.7e-6
    angles = rng.uniform(0, 2 * np.pi, (2000, 32))
    phases = rng.uniform(0, 2 * np.pi, (2000, 32))

    def at(t: np.ndarray) -> np.ndarray:
        waves = 2 * np.pi * 900.0 * np.cos(angles)[..., None] * t + phases[..., None]
        return np.exp(1j * waves).sum(axis=1).T / np.sqrt(32)

    model = time_interpolation.fit(at(times)[None, None], times, symbol_times, 1e-3)
    assert model.doppler_hz == pytest.approx(900.0, rel=0.15)
    error = np.abs(model.weights @ at(times) - at(symbol_times)) ** 2
    held = np.abs(at(times).mean(axis=0) - at(symbol_times)) ** 2
    assert error[3:11].mean() < 0.3 * held[3:11].mean()
