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


def test_pi2_bpsk_turns_every_second_symbol_by_a_quarter() -> None:
    bits = np.array([[0, 1, 0, 1, 1], [0, 0, 0, 0, 0]], np.uint8)
    # TS 38.211 5.1.1, the formula as printed: i counts from the first symbol of the last axis.
    expected = [
        [
            np.exp(1j * math.pi / 2 * (i % 2)) / math.sqrt(2) * ((1 - 2 * b) + 1j * (1 - 2 * b))
            for i, b in enumerate(row)
        ]
        for row in bits.tolist()
    ]
    symbols = modulation.map(bits, 1, pi2=True)
    assert symbols.dtype == np.complex64
    np.testing.assert_allclose(symbols, expected, atol=1e-6)


def llr_by_all_points(symbols, noise_var, order, method) -> np.ndarray:
    """Over the whole constellation in double precision: the largest, or the sum, of each side."""
    labels, points = constellation(order)
    metric = -(np.abs(symbols[:, None].astype(complex) - points) ** 2) / noise_var[:, None]
    side = np.max if method == "max_log" else lambda m, axis: np.logaddexp.reduce(m, axis=axis)
    return np.stack(
        [
            side(metric[:, labels[:, bit] == 0], axis=1)
            - side(metric[:, labels[:, bit] == 1], axis=1)
            for bit in range(order)
        ],
        axis=1,
    ).reshape(-1)


@pytest.mark.parametrize("method", ["max_log", "exact"])
@pytest.mark.parametrize("order", [1, 2, 4, 6, 8])
def test_llrs_are_those_of_all_points_of_the_constellation(order, method, rng) -> None:
    symbols = (rng.normal(size=700) + 1j * rng.normal(size=700)).astype(np.complex64)
    noise_var = rng.uniform(0.02, 2.0, 700).astype(np.float32)
    llr = modulation.demap(symbols, noise_var, order, method=method)
    assert llr.dtype == np.float32
    expected = llr_by_all_points(symbols, noise_var, order, method)
    np.testing.assert_allclose(llr, expected, rtol=1e-3, atol=2e-3)


def test_exact_llrs_are_not_max_log_ones_in_strong_noise() -> None:
    symbols = np.array([0.1 + 0.2j], np.complex64)
    exact = modulation.demap(symbols, 1.0, 6, method="exact")
    assert np.abs(exact - modulation.demap(symbols, 1.0, 6)).max() > 0.1


@pytest.mark.parametrize("order", [2, 4, 6, 8])
def test_the_kernel_agrees_with_the_array_code(order, rng) -> None:
    symbols = rng.normal(size=(3, 301, 2)).view(complex)[..., 0].astype(np.complex64)
    noise_var = rng.uniform(0.01, 1.0, (3, 301)).astype(np.float32)
    by_kernel = modulation.demap(symbols, noise_var, order)
    by_arrays = modulation._array_llr(symbols, noise_var, order, "max_log")
    assert by_kernel.shape == by_arrays.shape == (3, 301 * order)
    np.testing.assert_allclose(by_kernel, by_arrays, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("order", "method"), [(1, "max_log"), (6, "max_log"), (4, "exact")])
def test_descrambling_is_a_change_of_sign(order, method, rng) -> None:
    symbols = rng.normal(size=(2, 300, 2)).view(complex)[..., 0].astype(np.complex64)
    scrambling_bits = rng.integers(0, 2, (2, 300 * order), dtype=np.uint8)
    scrambling_bits.setflags(write=False)
    plain = modulation.demap(symbols, 0.3, order, method=method)
    taken_off = modulation.demap(symbols, 0.3, order, method=method, scrambling=scrambling_bits)
    assert np.array_equal(taken_off, np.where(scrambling_bits == 1, -plain, plain))


@pytest.mark.parametrize("order", [1, 2, 4, 6, 8])
@pytest.mark.parametrize("method", ["max_log", "exact"])
def test_what_is_nan_stays_nan_and_alone(order, method) -> None:
    symbols = np.full(4, 0.3 - 0.2j, np.complex64)
    symbols[1] = np.nan * (1 + 1j)
    noise_var = np.array([1, 1, 1, np.nan], np.float32)
    llr = modulation.demap(symbols, noise_var, order, method=method).reshape(4, order)
    assert np.isnan(llr).all(axis=1).tolist() == [False, True, False, True]
    assert np.isfinite(llr[[0, 2]]).all()


@given(n_symbols=st.integers(1, 9), seed=st.integers(0, 2**32 - 1))
def test_pi2_bpsk_bits_come_back_with_the_llrs_of_bpsk(n_symbols, seed) -> None:
    bits = np.random.default_rng(seed).integers(0, 2, (2, n_symbols), dtype=np.uint8)
    llr = modulation.demap(modulation.map(bits, 1, pi2=True), 0.5, 1, pi2=True)
    np.testing.assert_allclose(llr, modulation.demap(modulation.map(bits, 1), 0.5, 1), rtol=1e-5)
    assert np.array_equal(llr < 0, bits == 1)


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
        (lambda: modulation.demap(np.complex64(1), 1.0, 2), "symbols"),
        (lambda: modulation.demap(np.zeros(4, np.complex64), np.ones(3), 2), "noise_var"),
        (lambda: modulation.demap(np.zeros(4, np.complex64), 1.0, 2, method="log"), "method"),
        (lambda: modulation.demap(np.zeros(4, np.complex64), 1.0, 2, pi2=True), "pi2"),
        (
            lambda: modulation.demap(
                np.zeros(4, np.complex64), 1.0, 2, scrambling=np.zeros(4, np.uint8)
            ),
            "scrambling",
        ),
        (lambda: modulation.map(np.zeros(4, np.uint8), 2, pi2=True), "pi2"),
    ],
)
def test_wrong_arguments_are_named(call, field) -> None:
    with pytest.raises(InvalidInputError) as caught:
        call()
    assert caught.value.field == field
