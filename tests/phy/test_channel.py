from __future__ import annotations

import numpy as np
import pytest

from airan.core.errors import InvalidInputError
from phy.channel import PROFILES, Channel, ChannelConfig, _profile


def test_profiles_are_the_specs() -> None:
    # TR 38.901 tables 7.7.2-1 and 7.7.2-3: number of taps, second and last tap.
    for name, n_taps, second, last in (
        ("TDL-A", 23, (0.3819, 0.0), (9.6586, -29.7)),
        ("TDL-C", 24, (0.2099, -1.2), (8.6523, -22.8)),
    ):
        delay, power, los = _profile(name)
        assert delay.size == n_taps
        assert not los.any()
        for index, (expected_delay, expected_db) in ((1, second), (-1, last)):
            assert delay[index] == expected_delay
            relative_db = 10 * np.log10(power[index] / power[1])
            assert relative_db == pytest.approx(expected_db - second[1])


@pytest.mark.parametrize("profile", [*PROFILES, "AWGN"])
@pytest.mark.parametrize("doppler_hz", [0.0, 70.0])
def test_mean_power_is_one(profile, doppler_hz, rng) -> None:
    channel = Channel(ChannelConfig(profile, 300.0, doppler_hz, n_rx=8), rng)
    power = [np.mean(np.abs(channel.response(24)) ** 2) for _ in range(250)]
    assert np.mean(power) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("profile", ["TDL-A", "TDL-C"])
def test_delay_spread_is_the_configured_one(profile) -> None:
    # 7.7.3: normalised delays times the wanted delay spread; the profile's own spread is about 1.
    delay, power, _ = _profile(profile)
    mean = (power * delay).sum()
    assert np.sqrt((power * delay**2).sum() - mean**2) == pytest.approx(1.0, abs=0.01)


def test_correlation_over_frequency_is_that_of_the_delay_profile(rng) -> None:
    channel = Channel(ChannelConfig("TDL-A", 100.0, n_rx=16), rng)
    responses = np.concatenate([channel.response(121)[:, 0] for _ in range(300)])
    measured = np.mean(responses[:, 120] * responses[:, 0].conj())
    delay, power, _ = _profile("TDL-A")
    expected = (power * np.exp(-2j * np.pi * 120 * 30e3 * delay * 100e-9)).sum()
    assert abs(measured - expected) < 0.05


def test_antennas_fade_independently(rng) -> None:
    channel = Channel(ChannelConfig("TDL-C", 300.0, n_rx=2), rng)
    first, second = np.array([channel.response(1)[:, 0, 0] for _ in range(3000)]).T
    assert abs(np.mean(first * second.conj())) < 0.06


def test_a_still_channel_is_still_and_a_moving_one_moves(rng) -> None:
    still = Channel(ChannelConfig("TDL-A", doppler_hz=0.0), rng).response(12)
    moving = Channel(ChannelConfig("TDL-A", doppler_hz=400.0), rng).response(12)
    assert np.array_equal(still[:, 0], still[:, 13])
    assert np.abs(moving[:, 0] - moving[:, 13]).max() > 0.1


def test_noise_has_the_power_the_snr_says(rng) -> None:
    config = ChannelConfig("AWGN", snr_db=7.0, n_rx=4)
    noise = Channel(config, rng)(np.zeros((1, 14, 1200), np.complex64))
    assert noise.shape == (4, 14, 1200)
    assert noise.dtype == np.complex64
    assert np.mean(np.abs(noise) ** 2) == pytest.approx(10**-0.7, rel=0.02)
    assert abs(np.mean(noise**2)) < 0.01  # real and imaginary parts alike


def test_one_seed_gives_one_channel() -> None:
    grid = np.ones((1, 14, 24), np.complex64)
    config = ChannelConfig("TDL-C", doppler_hz=30.0)
    once, again = (Channel(config, np.random.default_rng(5))(grid) for _ in range(2))
    assert np.array_equal(once, again)


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"profile": "TDL-Z"}, "profile"),
        ({"delay_spread_ns": -1.0}, "delay_spread_ns"),
        ({"doppler_hz": float("nan")}, "doppler_hz"),
        ({"n_rx": 0}, "n_rx"),
        ({"scs_khz": 45}, "scs_khz"),
        ({"snr_db": float("inf")}, "snr_db"),
    ],
)
def test_wrong_configurations_are_named(changed, field) -> None:
    with pytest.raises(InvalidInputError) as caught:
        ChannelConfig(**changed)
    assert caught.value.field == field
