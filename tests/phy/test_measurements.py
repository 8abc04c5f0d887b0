from __future__ import annotations

import math

import numpy as np
import pytest

from airan.core.errors import InvalidInputError
from phy.receiver import measurements


def complex_noise(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return (rng.standard_normal((*shape, 2)) @ (1, 1j) / np.sqrt(2)).astype(np.complex64)


@pytest.mark.parametrize("pilot_power", [1.0, 2.0])
@pytest.mark.parametrize("noise_var", [0.0, 0.01, 2.0])
def test_rsrp_is_each_ports_received_pilot_power_without_noise(rng, pilot_power, noise_var) -> None:
    levels_db = np.array([0.0, -7.0, 3.0])
    amplitude = 10 ** (levels_db / 20)
    phases = np.exp(2j * np.pi * rng.random((4, 3, 2, 600)))
    raw = amplitude[:, None, None] * phases
    raw = raw + math.sqrt(noise_var / pilot_power) * complex_noise(rng, *raw.shape)
    found = measurements.rsrp_db(raw.astype(np.complex64), noise_var, pilot_power)
    expected = levels_db + 10 * math.log10(pilot_power)
    # Four standard deviations of the mean over 4800 samples, at the weakest port.
    atol = {0.0: 1e-4, 0.01: 0.06, 2.0: 3.0}[noise_var]
    np.testing.assert_allclose(found, expected, atol=atol)


def test_rsrp_averages_power_over_antennas() -> None:
    raw = np.zeros((2, 1, 1, 12), np.complex64)
    raw[0] = 2.0
    assert measurements.rsrp_db(raw, 0.0)[0] == pytest.approx(10 * math.log10(2.0))


def test_rsrp_without_signal_is_minus_infinity_and_without_samples_unknown() -> None:
    raw = np.zeros((2, 2, 1, 12), np.complex64)
    raw[:, 1] = np.nan
    found = measurements.rsrp_db(raw, 0.1)
    assert found[0] == -math.inf
    assert math.isnan(found[1])
    raw[1, 1] = 3.0
    assert measurements.rsrp_db(raw, 0.0)[1] == pytest.approx(20 * math.log10(3.0))


@pytest.mark.parametrize("noise_var", [1e-6, 0.01, 1.0, 30.0])
def test_equal_symbols_have_the_sinr_of_each(noise_var) -> None:
    found = measurements.sinr_db(np.full((2, 50), noise_var, np.float32))
    assert found == pytest.approx(-10 * math.log10(noise_var), abs=1e-3)


def test_sinr_is_that_of_a_steady_channel_of_equal_capacity(rng) -> None:
    noise_var = rng.uniform(0.01, 3.0, 500).astype(np.float32)
    capacity = np.mean(np.log2(1 + 1 / noise_var))
    found = measurements.sinr_db(noise_var)
    assert math.log2(1 + 10 ** (found / 10)) == pytest.approx(capacity, rel=1e-5)
    arithmetic_db = 10 * math.log10(np.mean(1 / noise_var))
    harmonic_db = -10 * math.log10(np.mean(noise_var))
    assert harmonic_db < found < arithmetic_db


def test_sinr_takes_dead_symbols_as_lost_and_unknown_ones_not_at_all() -> None:
    half_lost = measurements.sinr_db(np.array([0.1, np.inf], np.float32))
    assert half_lost == pytest.approx(10 * math.log10(math.sqrt(11) - 1), abs=1e-4)
    assert measurements.sinr_db(np.array([0.1, np.nan], np.float32)) == pytest.approx(10.0)
    assert measurements.sinr_db(np.array([np.inf], np.float32)) == -math.inf
    assert math.isnan(measurements.sinr_db(np.array([np.nan], np.float32)))
    assert measurements.sinr_db(np.zeros(3, np.float32)) == pytest.approx(100.0, abs=0.01)


RAW = np.ones((1, 1, 1, 12), np.complex64)


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda: measurements.rsrp_db(RAW.real, 0.0), "raw"),
        (lambda: measurements.rsrp_db(RAW[0], 0.0), "raw"),
        (lambda: measurements.rsrp_db(RAW, -1.0), "noise_var"),
        (lambda: measurements.rsrp_db(RAW, float("nan")), "noise_var"),
        (lambda: measurements.rsrp_db(RAW, 0.0, 0.0), "pilot_power"),
        (lambda: measurements.sinr_db(np.ones(3, int)), "symbol_noise_var"),
        (lambda: measurements.sinr_db(np.array([-1.0])), "symbol_noise_var"),
    ],
)
def test_wrong_arguments_are_named(call, field) -> None:
    with pytest.raises(InvalidInputError) as caught:
        call()
    assert caught.value.field == field
