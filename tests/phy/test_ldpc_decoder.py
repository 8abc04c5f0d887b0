from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airan.core.errors import InvalidInputError
from phy.nr import ldpc
from phy.nr.base_graph import LIFTING_SIZES, lifted_graph

N_INFO_COLUMNS = {1: 22, 2: 10}


def received_llr(info, e_bits, noise_std, base_graph, z, rng) -> np.ndarray:
    """LLRs of QPSK-like bits of amplitude 1 in white noise, rate recovered."""
    sent = ldpc.rate_match(
        ldpc.encode(info, base_graph, z), e_bits, 0, 2, base_graph, z, n_filler=0
    )
    noisy = 1.0 - 2.0 * sent + noise_std * rng.standard_normal(sent.shape)
    llr = (2 * noisy / noise_std**2).astype(np.float32)
    return ldpc.rate_recover(llr, e_bits, 0, 2, base_graph, z, n_filler=0)


def float_min_sum(llr, base_graph, z, n_iterations) -> np.ndarray:
    """Layered min-sum in double precision with normalisation 0.75: the kernel's oracle."""
    graph = lifted_graph(base_graph, z)
    total = np.zeros((len(llr), graph.n_columns, z))
    total[:, 2:] = llr.reshape(len(llr), -1, z)
    message = np.zeros((len(llr), graph.column.size, z))
    for _ in range(n_iterations):
        for row in range(graph.n_rows):
            edges = slice(graph.row_start[row], graph.row_start[row + 1])
            at = (np.arange(z) + graph.shift[edges, None]) % z
            column = graph.column[edges, None]
            extrinsic = total[:, column, at] - message[:, edges]
            magnitude = np.abs(extrinsic)
            ordered = np.sort(magnitude, axis=1)
            least, second = ordered[:, :1], ordered[:, 1:2]
            sign = np.where(extrinsic < 0, -1.0, 1.0)
            new = 0.75 * np.where(magnitude == least, second, least)
            new *= sign * sign.prod(axis=1, keepdims=True)
            message[:, edges] = new
            total[:, column, at] = extrinsic + new
    return (total[:, : graph.n_info_columns].reshape(len(llr), -1) < 0).astype(np.uint8)


@settings(deadline=None, max_examples=60)
@given(
    base_graph=st.sampled_from([1, 2]),
    z=st.sampled_from(LIFTING_SIZES),
    rate=st.sampled_from([0.3, 0.5, 0.8]),
    seed=st.integers(0, 2**32 - 1),
)
def test_clear_words_come_back_at_every_size_and_rate(base_graph, z, rate, seed) -> None:
    rng = np.random.default_rng(seed)
    n_info = N_INFO_COLUMNS[base_graph] * z
    e_bits = 2 * round(n_info / rate / 2)
    info = rng.integers(0, 2, (2, n_info), dtype=np.uint8)
    llr = received_llr(info, e_bits, 0.1, base_graph, z, rng)
    found = ldpc.decode(llr, base_graph, z, n_iterations=30)
    # The shortest codes at high rates have words only a few bits apart.
    if z >= 8 or rate < 0.8:
        assert found.parity_ok.all()
        assert np.array_equal(found.bits, info)


@pytest.mark.parametrize(
    ("base_graph", "z", "rate", "ebno_db"),
    [(2, 26, 1 / 3, 1.4), (1, 20, 0.5, 1.6), (1, 20, 0.8, 3.0)],
)
def test_block_errors_match_a_double_precision_decoder(base_graph, z, rate, ebno_db, rng) -> None:
    n_info = N_INFO_COLUMNS[base_graph] * z
    info = rng.integers(0, 2, (150, n_info), dtype=np.uint8)
    noise_std = np.sqrt(1 / (2 * rate * 10 ** (ebno_db / 10)))
    llr = received_llr(info, 2 * round(n_info / rate / 2), noise_std, base_graph, z, rng)
    ours = (ldpc.decode(llr, base_graph, z, n_iterations=10).bits != info).any(axis=1)
    exact = (float_min_sum(llr, base_graph, z, 10) != info).any(axis=1)
    assert 10 <= exact.sum() <= 75  # on the waterfall, or the comparison would say nothing
    assert abs(int(ours.sum()) - int(exact.sum())) <= 8


def test_a_block_claimed_consistent_is_the_one_that_was_sent(rng) -> None:
    info = rng.integers(0, 2, (200, 160), dtype=np.uint8)
    llr = received_llr(info, 500, 1.15, 2, 16, rng)
    found = ldpc.decode(llr, 2, 16, n_iterations=20)
    right = (found.bits == info).all(axis=1)
    assert 20 <= found.parity_ok.sum() <= 180
    assert right[found.parity_ok].all()


def test_decoding_stops_as_soon_as_all_checks_hold(rng) -> None:
    info = rng.integers(0, 2, (2, 100), dtype=np.uint8)
    clear = received_llr(info, 300, 0.1, 2, 10, rng)
    noise = rng.standard_normal(clear.shape).astype(np.float32)
    found = ldpc.decode(np.concatenate([clear, noise]), 2, 10, n_iterations=12)
    assert (found.iterations[:2] < 4).all()
    assert (found.iterations[2:] == 12).all()
    assert found.parity_ok.tolist() == [True, True, False, False]


def test_only_the_ratios_of_the_llrs_matter(rng) -> None:
    info = rng.integers(0, 2, (20, 200), dtype=np.uint8)
    llr = received_llr(info, 500, 0.7, 2, 20, rng)
    expected = ldpc.decode(llr, 2, 20).bits
    for scale in (1e-3, 0.3, 40.0):
        assert np.array_equal(ldpc.decode(llr * np.float32(scale), 2, 20).bits, expected)


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_silence_and_nan_are_never_parity_ok(value) -> None:
    found = ldpc.decode(np.full((2, 500), value, np.float32), 2, 10)
    assert not found.parity_ok.any()


def test_one_nan_spoils_its_own_block_only(rng) -> None:
    info = rng.integers(0, 2, (2, 100), dtype=np.uint8)
    llr = received_llr(info, 400, 0.2, 2, 10, rng)
    llr[0, 7] = np.nan
    assert ldpc.decode(llr, 2, 10).parity_ok.tolist() == [False, True]


def test_infinite_llrs_are_certain_bits(rng) -> None:
    info = rng.integers(0, 2, (2, 100), dtype=np.uint8)
    coded = ldpc.encode(info, 2, 10)
    llr = np.where(coded == 0, np.inf, -np.inf).astype(np.float32)
    found = ldpc.decode(llr, 2, 10)
    assert found.parity_ok.all()
    assert np.array_equal(found.bits, info)


@pytest.mark.parametrize(
    ("llr", "changed", "field"),
    [
        (np.zeros((1, 499), np.float32), {}, "llr"),
        (np.zeros(500, np.float32), {}, "llr"),
        (np.zeros((1, 500), np.int32), {}, "llr"),
        (np.zeros((1, 500), np.float32), {"base_graph": 0}, "base_graph"),
        (np.zeros((1, 500), np.float32), {"lifting_size": 19}, "lifting_size"),
        (np.zeros((1, 500), np.float32), {"n_iterations": 0}, "n_iterations"),
    ],
)
def test_wrong_arguments_are_named(llr, changed, field) -> None:
    arguments = {"base_graph": 2, "lifting_size": 10} | changed
    with pytest.raises(InvalidInputError) as caught:
        ldpc.decode(llr, **arguments)
    assert caught.value.field == field
