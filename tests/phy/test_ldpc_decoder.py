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


def layered_min_sum(total, base_graph, z, n_iterations, weaken) -> tuple[np.ndarray, int]:
    """Layered min-sum of one block, as the textbook has it: the final totals of its information
    bits and the iterations run. `weaken` is applied to the magnitudes of the messages."""
    graph = lifted_graph(base_graph, z)
    message = np.zeros((graph.column.size, z), total.dtype)
    used = [r for r in range(graph.n_rows) if r < 4 or total[graph.n_info_columns + r].any()]
    iterations = 0
    while iterations < n_iterations:
        iterations += 1
        for row in used:
            edges, column, at = edges_of(graph, row, z)
            extrinsic = total[column, at] - message[edges]
            magnitude = np.abs(extrinsic)
            least, second = np.sort(magnitude, axis=0)[:2]
            sign = np.where(extrinsic < 0, -1, 1)
            new = weaken(np.where(magnitude == least, second, least))
            message[edges] = new * sign * sign.prod(axis=0)
            total[column, at] = extrinsic + message[edges]
        if all(holds(total, *edges_of(graph, row, z)[1:]) for row in used):
            break
    return total[: graph.n_info_columns].reshape(-1), iterations


def edges_of(graph, row, z):
    edges = slice(graph.row_start[row], graph.row_start[row + 1])
    return edges, graph.column[edges, None], (np.arange(z) + graph.shift[edges, None]) % z


def holds(total, column, at) -> bool:
    value = total[column, at]
    return bool(value.all()) and not np.any((value < 0).sum(axis=0) % 2)


def with_punctured(llr, z) -> np.ndarray:
    return np.concatenate([np.zeros(2 * z, llr.dtype), llr]).reshape(-1, z)


@pytest.mark.parametrize("base_graph", [1, 2])
@pytest.mark.parametrize("z", [2, 7, 15, 26, 32, 36, 64])
def test_the_kernel_does_what_the_textbook_does_in_whole_numbers(base_graph, z, rng) -> None:
    n = lifted_graph(base_graph, z).n_coded_bits
    llr = np.zeros((8, n), np.float32)
    for row, n_sent in zip(llr, [n, 30 * z] * 4, strict=True):
        # Mean magnitude 192, the kernel's own level, so that it rounds nothing.
        magnitude = rng.permuted(np.resize([24, 360, 168, 216], n_sent))
        row[:n_sent] = magnitude * rng.choice([-1, 1], n_sent, p=[0.05, 0.95])
    found = ldpc.decode(llr, base_graph, z, 8, normalisation=0.75)
    for block in range(len(llr)):
        total = with_punctured(llr[block].astype(int), z)
        expected, iterations = layered_min_sum(
            total, base_graph, z, 8, lambda m: np.minimum(m, 1023) * 24 >> 5
        )
        assert np.array_equal(found.bits[block], expected < 0)
        assert found.iterations[block] == iterations
    assert len(set(found.iterations.tolist())) > 1


def words_of_eight_bits(base_graph, z) -> tuple[np.ndarray, np.ndarray, int]:
    """All 256 code blocks with all but the first 8 bits fillers, coded, and the filler count."""
    info = np.zeros((256, N_INFO_COLUMNS[base_graph] * z), np.uint8)
    info[:, :8] = (np.arange(256)[:, None] >> np.arange(8)) & 1
    return info, ldpc.encode(info, base_graph, z), info.shape[1] - 8


@pytest.mark.parametrize(
    ("base_graph", "noise_std", "least_agreeing"), [(1, 1.0, 1.0), (2, 1.3, 0.97)]
)
def test_decoding_finds_the_most_likely_of_all_words(
    base_graph, noise_std, least_agreeing, rng
) -> None:
    z, n_blocks = 4, 200
    info, coded, n_filler = words_of_eight_bits(base_graph, z)
    sent = 1.0 - 2.0 * coded[rng.integers(0, 256, n_blocks)]
    llr = (2 / noise_std**2 * (sent + noise_std * rng.normal(size=sent.shape))).astype(np.float32)
    filler_end = info.shape[1] - 2 * z
    llr[:, filler_end - min(n_filler, filler_end) : filler_end] = ldpc.FILLER_LLR
    likeliest = info[np.argmax(llr @ (1.0 - 2.0 * coded.T), axis=1)]
    found = ldpc.decode(llr, base_graph, z, 30)
    agree = (found.bits == likeliest).all(axis=1)
    assert agree.mean() >= least_agreeing


@settings(max_examples=60)
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


@pytest.mark.parametrize("base_graph", [1, 2])
def test_noisy_words_come_back_at_all_51_lifting_sizes(base_graph, rng) -> None:
    for z in LIFTING_SIZES:
        n_info = N_INFO_COLUMNS[base_graph] * z
        info = rng.integers(0, 2, (3, n_info), dtype=np.uint8)
        llr = received_llr(info, 2 * n_info, 0.45, base_graph, z, rng)
        found = ldpc.decode(llr, base_graph, z, n_iterations=20)
        assert found.parity_ok.all(), f"z = {z}"
        assert np.array_equal(found.bits, info)


WEAKEN = {
    "normalised": lambda magnitude: 0.75 * magnitude,
    "offset": lambda magnitude: np.maximum(magnitude - 0.5, 0.0),
}


@pytest.mark.parametrize("algorithm", ["normalised", "offset"])
@pytest.mark.parametrize(
    ("base_graph", "z", "rate", "ebno_db"),
    [(2, 26, 1 / 3, 1.1), (1, 20, 0.8, 3.1)],
)
def test_block_errors_match_a_double_precision_decoder(
    base_graph, z, rate, ebno_db, algorithm, rng
) -> None:
    n_info = N_INFO_COLUMNS[base_graph] * z
    info = rng.integers(0, 2, (120, n_info), dtype=np.uint8)
    noise_std = np.sqrt(1 / (2 * rate * 10 ** (ebno_db / 10)))
    llr = received_llr(info, 2 * round(n_info / rate / 2), noise_std, base_graph, z, rng)
    normalisation = 0.75 if algorithm == "normalised" else None
    found = ldpc.decode(llr, base_graph, z, 10, normalisation, algorithm=algorithm)
    ours = (found.bits != info).any(axis=1)
    exact = [
        np.any(
            (layered_min_sum(with_punctured(b, z), base_graph, z, 10, WEAKEN[algorithm])[0] < 0)
            != w
        )
        for b, w in zip(llr.astype(float), info, strict=True)
    ]
    assert 10 <= sum(exact) <= 60  # on the waterfall, or the comparison would say nothing
    assert abs(int(ours.sum()) - int(sum(exact))) <= 7


def test_the_measured_normalisation_loses_fewer_blocks_at_a_low_rate(rng) -> None:
    z, rate = 64, 1 / 3
    info = rng.integers(0, 2, (600, 22 * z), dtype=np.uint8)
    noise_std = np.sqrt(1 / (2 * rate * 10 ** (1.2 / 10)))
    llr = received_llr(info, 66 * z, noise_std, 1, z, rng)
    lost = {
        norm: int((ldpc.decode(llr, 1, z, normalisation=norm).bits != info).any(axis=1).sum())
        for norm in (None, 0.75)
    }
    assert lost[0.75] >= 20
    assert lost[None] < lost[0.75] / 2


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


def test_without_early_stop_all_iterations_are_run(rng) -> None:
    info = rng.integers(0, 2, (2, 100), dtype=np.uint8)
    llr = received_llr(info, 300, 0.1, 2, 10, rng)
    found = ldpc.decode(llr, 2, 10, n_iterations=7, early_stop=False)
    assert found.iterations.tolist() == [7, 7]
    assert found.parity_ok.all()
    assert np.array_equal(found.bits, info)


@pytest.mark.parametrize("n_threads", [2, 3, 9])
def test_threads_change_nothing_but_the_time(n_threads, rng) -> None:
    info = rng.integers(0, 2, (7, 10 * 16), dtype=np.uint8)
    llr = received_llr(info, 400, 0.9, 2, 16, rng)
    alone, shared = ldpc.decode(llr, 2, 16), ldpc.decode(llr, 2, 16, n_threads=n_threads)
    assert np.array_equal(alone.bits, shared.bits)
    assert np.array_equal(alone.parity_ok, shared.parity_ok)
    assert np.array_equal(alone.iterations, shared.iterations)


def test_llrs_may_be_read_only_and_strided(rng) -> None:
    info = rng.integers(0, 2, (4, 100), dtype=np.uint8)
    llr = received_llr(info, 400, 0.3, 2, 10, rng)
    llr.setflags(write=False)
    assert np.array_equal(ldpc.decode(llr[::2], 2, 10).bits, info[::2])


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
        (np.zeros((1, 500), np.float32), {"n_threads": 0}, "n_threads"),
        (np.zeros((1, 500), np.float32), {"normalisation": 1.5}, "normalisation"),
        (np.zeros((1, 500), np.float32), {"algorithm": "sum"}, "algorithm"),
        (np.zeros((1, 500), np.float32), {"offset": 0.5}, "offset"),
        (np.zeros((1, 500), np.float32), {"algorithm": "offset", "offset": -1.0}, "offset"),
        (
            np.zeros((1, 500), np.float32),
            {"algorithm": "offset", "normalisation": 0.5},
            "normalisation",
        ),
    ],
)
def test_wrong_arguments_are_named(llr, changed, field) -> None:
    arguments = {"base_graph": 2, "lifting_size": 10} | changed
    with pytest.raises(InvalidInputError) as caught:
        ldpc.decode(llr, **arguments)
    assert caught.value.field == field
