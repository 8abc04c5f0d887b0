from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airan.core.errors import InvalidInputError
from phy.nr import modulation, scrambling


@given(c_init=st.integers(0, 2**31 - 1), n=st.integers(0, 3000))
def test_scrambling_is_the_specs_gold_sequence(gold_sequence, c_init, n) -> None:
    assert scrambling.sequence(c_init, n).tolist() == gold_sequence(c_init, n)


@pytest.mark.parametrize(
    ("c_init", "n", "field"), [(2**31, 1, "c_init"), (-1, 1, "c_init"), (0, -1, "n")]
)
def test_wrong_sequences_are_named(c_init, n, field) -> None:
    with pytest.raises(InvalidInputError) as caught:
        scrambling.sequence(c_init, n)
    assert caught.value.field == field


def point_by_the_spec(b: list[int]) -> complex:
    """TS 38.211 5.1.2 to 5.1.6, the formulas as printed."""
    s = [1 - 2 * bit for bit in b]
    if len(b) == 1:
        return (s[0] + 1j * s[0]) / math.sqrt(2)
    if len(b) == 2:
        return (s[0] + 1j * s[1]) / math.sqrt(2)
    if len(b) == 4:
        return (s[0] * (2 - s[2]) + 1j * s[1] * (2 - s[3])) / math.sqrt(10)
    if len(b) == 6:
        i, q = s[0] * (4 - s[2] * (2 - s[4])), s[1] * (4 - s[3] * (2 - s[5]))
        return (i + 1j * q) / math.sqrt(42)
    i = s[0] * (8 - s[2] * (4 - s[4] * (2 - s[6])))
    q = s[1] * (8 - s[3] * (4 - s[5] * (2 - s[7])))
    return (i + 1j * q) / math.sqrt(170)


def constellation(order: int) -> tuple[np.ndarray, np.ndarray]:
    labels = np.array([[(v >> (order - 1 - i)) & 1 for i in range(order)] for v in range(2**order)])
    return labels, np.array([point_by_the_spec(list(label)) for label in labels])


@pytest.mark.parametrize("order", [1, 2, 4, 6, 8])
def test_every_label_is_mapped_as_the_spec_says(order) -> None:
    labels, points = constellation(order)
    symbols = modulation.map(labels.astype(np.uint8).reshape(-1), order)
    np.testing.assert_allclose(symbols, points, atol=1e-6)
    assert symbols.dtype == np.complex64
    assert np.mean(np.abs(symbols) ** 2) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("order", [1, 2, 4, 6, 8])
def test_llrs_are_the_max_log_of_all_points(order, rng) -> None:
    labels, points = constellation(order)
    symbols = (rng.normal(size=200) + 1j * rng.normal(size=200)).astype(np.complex64)
    noise_var = rng.uniform(0.05, 2.0, 200).astype(np.float32)
    metric = -(np.abs(symbols[:, None] - points) ** 2) / noise_var[:, None]
    expected = np.stack(
        [
            metric[:, labels[:, bit] == 0].max(axis=1) - metric[:, labels[:, bit] == 1].max(axis=1)
            for bit in range(order)
        ],
        axis=1,
    ).reshape(-1)
    llr = modulation.demap(symbols, noise_var, order)
    assert llr.dtype == np.float32
    np.testing.assert_allclose(llr, expected, rtol=1e-3, atol=1e-3)


@given(
    order=st.sampled_from([1, 2, 4, 6, 8]),
    n_symbols=st.integers(1, 60),
    seed=st.integers(0, 2**32 - 1),
)
def test_bits_come_back_as_the_signs_of_their_llrs(order, n_symbols, seed) -> None:
    bits = np.random.default_rng(seed).integers(0, 2, (2, order * n_symbols), dtype=np.uint8)
    llr = modulation.demap(modulation.map(bits, order), 0.01, order)
    assert np.array_equal(llr < 0, bits == 1)


def test_a_noiseless_symbol_has_finite_llrs() -> None:
    llr = modulation.demap(np.array([1 + 1j], np.complex64) / np.sqrt(np.float32(2)), 0.0, 2)
    assert np.isfinite(llr).all()
    assert (llr > 0).all()


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda: modulation.map(np.zeros(4, np.uint8), 3), "order"),
        (lambda: modulation.map(np.zeros(5, np.uint8), 4), "bits"),
        (lambda: modulation.map(np.zeros(4), 4), "bits"),
        (lambda: modulation.demap(np.zeros(4), 1.0, 4), "symbols"),
        (lambda: modulation.demap(np.zeros(4, np.complex64), 1.0, 10), "order"),
    ],
)
def test_wrong_arguments_are_named(call, field) -> None:
    with pytest.raises(InvalidInputError) as caught:
        call()
    assert caught.value.field == field
