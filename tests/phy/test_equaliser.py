from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phy.nr import modulation
from phy.receiver import covariance
from phy.receiver.equaliser import equalise


@settings(max_examples=40)
@given(n_rx=st.integers(1, 16), n_layers=st.integers(1, 4), seed=st.integers(0, 2**32 - 1))
def test_mmse_is_the_textbooks_without_its_bias(n_rx, n_layers, seed, noise) -> None:
    rng = np.random.default_rng(seed)
    channel = 3 * noise(rng, n_rx, n_layers, 20)
    received = noise(rng, n_rx, 20)
    symbols, noise = equalise(received, channel)
    for k in range(20):
        h = channel[:, :, k].astype(complex)
        inverse = np.linalg.inv(h.conj().T @ h + np.eye(n_layers))
        gain = np.real(np.diag(inverse @ h.conj().T @ h))
        expected = inverse @ h.conj().T @ received[:, k] / gain
        np.testing.assert_allclose(symbols[:, k], expected, rtol=2e-3, atol=2e-3)
        np.testing.assert_allclose(noise[:, k], (1 - gain) / gain, rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize(("n_rx", "n_layers"), [(1, 1), (2, 2), (4, 3), (4, 4), (16, 4)])
def test_zero_forcing_is_the_pseudo_inverse(n_rx, n_layers, rng, noise) -> None:
    channel = noise(rng, n_rx, n_layers, 50)
    received = noise(rng, n_rx, 50)
    symbols, noise = equalise(received, channel, "zf")
    for k in range(50):
        inverse = np.linalg.pinv(channel[:, :, k].astype(complex))
        np.testing.assert_allclose(symbols[:, k], inverse @ received[:, k], rtol=1e-2, atol=1e-2)
        row_power = (np.abs(inverse) ** 2).sum(axis=1)
        np.testing.assert_allclose(noise[:, k], row_power, rtol=2e-2)


@pytest.mark.parametrize(("n_layers", "method"), [(1, "mmse"), (3, "mmse"), (3, "zf")])
def test_symbols_have_the_noise_that_is_stated(n_layers, method, rng, noise) -> None:
    n = 40_000
    sent = modulation.map(rng.integers(0, 2, (n_layers, 2 * n), dtype=np.uint8), 2)
    channel = 2 * np.repeat(noise(rng, 4, n_layers, 1), n, axis=2)
    received = np.einsum("rln,ln->rn", channel, sent) + noise(rng, 4, n)
    symbols, noise = equalise(received, channel, method)
    error = symbols - sent
    assert np.abs(error.mean(axis=1)).max() < 0.02
    np.testing.assert_allclose((np.abs(error) ** 2).mean(axis=1), noise[:, 0], rtol=0.04)


@pytest.mark.parametrize("method", ["mmse", "zf"])
def test_a_dead_or_singular_channel_stays_finite(method, rng, noise) -> None:
    received = noise(rng, 2, 3)
    channel = np.zeros((2, 2, 3), np.complex64)
    channel[:, :, 1] = 1.0  # both layers alike
    channel[:, 0, 2] = 5.0  # one layer alone
    symbols, noise = equalise(received, channel, method)
    assert np.isfinite(symbols).all()
    assert (noise > 0).all()


def test_whitened_noise_is_white(rng, noise) -> None:
    colour = noise(rng, 4, 4)
    noise = np.einsum("ij,jtk->itk", colour, noise(rng, 4, 14, 960))
    found = covariance.estimate([noise[:, :2, 0::2], noise[:, :2, 1::2]], 2)
    np.testing.assert_allclose(found[0], colour @ colour.conj().T, atol=0.5)
    white = covariance.whiten(noise, covariance.whitener(found)).reshape(4, -1)
    np.testing.assert_allclose(white @ white.conj().T / white.shape[1], np.eye(4), atol=0.15)
