from __future__ import annotations

import numpy as np
import pytest

from airan.core.errors import InvalidInputError
from phy.channel import FIXED_PROFILES, PROFILES, Channel, ChannelConfig, _profile


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


@pytest.mark.parametrize("profile", [*PROFILES, *FIXED_PROFILES, "AWGN"])
@pytest.mark.parametrize("doppler_hz", [0.0, 70.0])
def test_mean_power_is_one(profile, doppler_hz, rng) -> None:
    channel = Channel(ChannelConfig(profile, 300.0, doppler_hz, n_rx=8), rng)
    power = [np.mean(np.abs(channel.response(24)) ** 2) for _ in range(250)]
    assert np.mean(power) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize(
    ("profile", "first", "last", "spread_ns"),
    [
        ("TDLA30", (0, -15.5), (290, -26.2), 30),
        ("TDLB100", (0, 0.0), (480, -7.1), 100),
        ("TDLC300", (0, -6.9), (2595, -16.0), 300),
    ],
)
def test_simplified_profiles_are_the_specs(profile, first, last, spread_ns) -> None:
    # TS 38.104 G.2.1.1: 12 taps, whose delays hold as they are, in steps of 5 ns.
    delay, power, _ = _profile(profile)
    assert delay.size == 12
    assert not (delay % 5).any()
    strongest_db = 10 * np.log10(power.max())
    for index, (expected_ns, expected_db) in ((0, first), (-1, last)):
        assert delay[index] == expected_ns
        assert 10 * np.log10(power[index]) - strongest_db == pytest.approx(expected_db)
    mean = (power * delay).sum()
    assert np.sqrt((power * delay**2).sum() - mean**2) == pytest.approx(spread_ns, rel=0.02)
    fading = Channel(ChannelConfig(profile, delay_spread_ns=5.0), np.random.default_rng(1)).draw()
    assert np.array_equal(fading.delay_ns, delay)


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


@pytest.mark.parametrize("n_tx", [1, 2, 4])
def test_ports_of_a_flat_channel_are_orthogonal(n_tx, rng) -> None:
    response = Channel(ChannelConfig("AWGN", n_rx=4, n_tx=n_tx), rng).draw().response(3)[:, :, 5, 1]
    assert np.allclose(response.conj().T @ response, 4 * np.eye(n_tx), atol=1e-5)


@pytest.mark.parametrize("doppler_hz", [0.0, 50.0])
def test_every_pair_of_antennas_fades_independently(doppler_hz, rng) -> None:
    channel = Channel(ChannelConfig("TDL-C", 300.0, doppler_hz, n_rx=2, n_tx=2), rng)
    gains = np.array([channel.draw().response(1)[..., 0, 0].reshape(-1) for _ in range(1500)])
    covariance = gains.T @ gains.conj() / len(gains)
    assert np.abs(covariance - np.eye(4)).max() < 0.13


def test_what_all_ports_send_adds_up(rng) -> None:
    channel = Channel(ChannelConfig("TDL-A", n_rx=3, n_tx=2, snr_db=100.0), rng)
    fading = channel.draw()
    sent = rng.normal(size=(2, 14, 12)).astype(np.complex64)
    expected = np.einsum("rtlk,tlk->rlk", fading.response(12), sent)
    assert np.allclose(channel(sent, fading), expected, atol=1e-3)


def test_a_drawn_channel_goes_on_in_time(rng) -> None:
    # Correlation over a lag tau is J0(2 pi f_D tau) for waves from all sides: 0.904 for 0.1 turns.
    config = ChannelConfig("TDL-A", doppler_hz=100.0, n_rx=16)
    now, later, much_later = [], [], []
    for _ in range(60):
        fading = Channel(config, rng).draw()
        now.append(fading.response(1)[..., 0, 0])
        later.append(fading.response(1, start_s=1e-3)[..., 0, 0])
        much_later.append(fading.response(1, start_s=5.0)[..., 0, 0])
    assert np.mean(np.multiply(later, np.conj(now))).real == pytest.approx(0.904, abs=0.05)
    assert abs(np.mean(np.multiply(much_later, np.conj(now)))) < 0.08


def test_a_timing_offset_turns_the_subcarriers_and_a_frequency_offset_the_symbols(rng) -> None:
    config = ChannelConfig("AWGN", timing_offset_ns=250.0, frequency_offset_hz=300.0)
    response = Channel(config, rng).draw().response(40, start_s=2e-3)[0, 0]
    over_frequency = np.angle(response[0, 1:] / response[0, :-1]) / (2 * np.pi)
    assert np.allclose(over_frequency, -30e3 * 250e-9, atol=1e-5)
    over_time = np.angle(response[1:, 0] / response[:-1, 0]) / (2 * np.pi)
    assert np.allclose(over_time, 300.0 * 0.5e-3 / 14, atol=1e-5)


def test_interference_has_its_power_and_one_direction_in_space(rng) -> None:
    config = ChannelConfig("AWGN", snr_db=10.0, n_rx=4, interference_to_noise_db=12.0)
    silence = np.zeros((1, 14, 1200), np.complex64)
    received = Channel(config, rng)(silence).reshape(4, -1)
    covariance = received @ received.conj().T / received.shape[1] / config.noise_var
    strengths = np.linalg.eigvalsh(covariance)
    assert strengths[-1] == pytest.approx(1 + 4 * 10**1.2, rel=0.05)
    assert np.allclose(strengths[:-1], 1.0, atol=0.1)


@pytest.mark.parametrize("shape", [(2, 14, 12), (1, 12, 12), (14, 12)])
def test_a_grid_of_another_shape_is_refused(shape, rng) -> None:
    with pytest.raises(InvalidInputError, match="grid"):
        Channel(ChannelConfig(), rng)(np.zeros(shape, np.complex64))


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"profile": "TDL-Z"}, "profile"),
        ({"delay_spread_ns": -1.0}, "delay_spread_ns"),
        ({"doppler_hz": float("nan")}, "doppler_hz"),
        ({"n_rx": 0}, "n_rx"),
        ({"scs_khz": 45}, "scs_khz"),
        ({"snr_db": float("inf")}, "snr_db"),
        ({"n_tx": 0}, "n_tx"),
        ({"timing_offset_ns": float("nan")}, "timing_offset_ns"),
        ({"frequency_offset_hz": 1e6}, "frequency_offset_hz"),
        ({"interference_to_noise_db": 500.0}, "interference_to_noise_db"),
    ],
)
def test_wrong_configurations_are_named(changed, field) -> None:
    with pytest.raises(InvalidInputError) as caught:
        ChannelConfig(**changed)
    assert caught.value.field == field
