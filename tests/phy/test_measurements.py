from __future__ import annotations

import math

import numpy as np
import pytest

from airan.core.errors import InvalidInputError
from phy.receiver import measurements


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
        (lambda: measurements.sinr_db(np.ones(3, int)), "symbol_noise_var"),
        (lambda: measurements.sinr_db(np.array([-1.0])), "symbol_noise_var"),
    ],
)
def test_wrong_arguments_are_named(call, field) -> None:
    with pytest.raises(InvalidInputError) as caught:
        call()
    assert caught.value.field == field
