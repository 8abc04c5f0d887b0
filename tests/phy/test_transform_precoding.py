from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airan.core.errors import InvalidInputError
from phy.nr import transform_precoding

ALLOWED = [
    2**a * 3**b * 5**c
    for a in range(9)
    for b in range(6)
    for c in range(4)
    if 2**a * 3**b * 5**c <= 273
]


def noise(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


def test_widths_are_products_of_2_3_and_5() -> None:
    assert [n for n in range(-1, 274) if transform_precoding.is_allowed(n)] == sorted(ALLOWED)


def test_spreading_is_the_printed_sum(rng) -> None:
    m = 36
    x = noise(rng, 2, 3 * m)
    y = transform_precoding.spread(x, m)
    assert y.dtype == np.complex64
    i = np.arange(m)
    for batch in range(2):
        for symbol in range(3):
            part = x[batch, symbol * m : (symbol + 1) * m]
            for k in range(m):
                expected = np.sum(part * np.exp(-2j * np.pi * i * k / m)) / np.sqrt(m)
                assert y[batch, symbol * m + k] == pytest.approx(expected, abs=1e-5)


@given(n_prb=st.sampled_from(ALLOWED), n_symbols=st.integers(1, 3), seed=st.integers(0, 2**32 - 1))
def test_despreading_gives_the_symbols_back_and_power_is_kept(n_prb, n_symbols, seed) -> None:
    x = noise(np.random.default_rng(seed), 12 * n_prb * n_symbols)
    y = transform_precoding.spread(x, 12 * n_prb)
    assert np.linalg.norm(y) == pytest.approx(np.linalg.norm(x), rel=1e-5)
    np.testing.assert_allclose(transform_precoding.despread(y, 12 * n_prb), x, atol=1e-5)


@pytest.mark.parametrize("call", [transform_precoding.spread, transform_precoding.despread])
@pytest.mark.parametrize(
    ("symbols", "n_subcarriers", "field"),
    [
        (np.zeros(84, np.complex64), 84, "n_subcarriers"),
        (np.zeros(18, np.complex64), 18, "n_subcarriers"),
        (np.zeros(12, np.complex64), 0, "n_subcarriers"),
        (np.zeros(12), 12, "symbols"),
        (np.zeros(13, np.complex64), 12, "symbols"),
        (1j, 12, "symbols"),
    ],
)
def test_wrong_arguments_are_named(call, symbols, n_subcarriers, field) -> None:
    with pytest.raises(InvalidInputError) as caught:
        call(symbols, n_subcarriers)
    assert caught.value.field == field
