from __future__ import annotations

import numpy as np
import pytest

from phy.nr import ldpc
from phy.nr.base_graph import LIFTING_SIZES, lifted_graph

# K_b of TS 38.212 5.2.2: which K' makes Sionna choose the lifting size of graph 2.
GRAPH_2_COLUMNS = ((640, 10), (560, 9), (192, 8), (0, 6))


def fullest_block(graph: int, lifting_size: int) -> int:
    """The largest K' that is lifted by `lifting_size`."""
    if graph == 1:
        return 22 * lifting_size
    return next(n * lifting_size for least, n in GRAPH_2_COLUMNS if n * lifting_size > least)


def with_fillers(bits: np.ndarray, graph: int, lifting_size: int) -> np.ndarray:
    info = np.zeros((bits.shape[0], lifted_graph(graph, lifting_size).n_info_bits), np.uint8)
    info[:, : bits.shape[1]] = bits
    return info


def without_fillers(coded: np.ndarray, n_bits: int, n_info: int, lifting_size: int) -> np.ndarray:
    """Drops the fillers of code words whose first 2 Z are already left out."""
    return np.delete(coded, np.s_[n_bits - 2 * lifting_size : n_info - 2 * lifting_size], axis=1)


@pytest.mark.parametrize("graph", [1, 2])
@pytest.mark.parametrize("lifting_size", LIFTING_SIZES)
def test_code_words_are_sionnas(sionna, tensor, rng, graph, lifting_size) -> None:
    n_bits = fullest_block(graph, lifting_size)
    n_sent = (3 if graph == 1 else 5) * n_bits  # Sionna stops at the rates 1/3 and 1/5
    bits = rng.integers(0, 2, (2, n_bits), dtype=np.uint8)
    info = with_fillers(bits, graph, lifting_size)
    ours = without_fillers(
        ldpc.encode(info, graph, lifting_size), n_bits, info.shape[1], lifting_size
    )
    theirs = sionna.ldpc.LDPC5GEncoder(n_bits, n_sent, bg=f"bg{graph}")
    assert theirs.z == lifting_size
    assert np.array_equal(ours[:, :n_sent], theirs(tensor(bits)).numpy())


@pytest.mark.parametrize(
    ("n_bits", "e_bits", "order", "graph"),
    [
        (8448, 9216, 6, 1),  # no fillers, high rate
        (8424, 11232, 8, 1),
        (5000, 12000, 4, 1),
        (3840, 19200, 2, 2),
        (700, 1404, 6, 2),
        (100, 480, 1, 2),
    ],
)
def test_every_redundancy_version_is_sionnas(
    sionna, tensor, rng, n_bits, e_bits, order, graph
) -> None:
    encoder = sionna.ldpc.LDPC5GEncoder(n_bits, e_bits, num_bits_per_symbol=order, bg=f"bg{graph}")
    bits = rng.integers(0, 2, (2, n_bits), dtype=np.uint8)
    theirs = encoder(tensor(bits), rv=[0, 1, 2, 3]).numpy()
    info = with_fillers(bits, graph, encoder.z)
    coded = ldpc.encode(info, graph, encoder.z)
    for rv in range(4):
        ours = ldpc.rate_match(coded, e_bits, rv, order, graph, encoder.z, info.shape[1] - n_bits)
        assert np.array_equal(ours, theirs[:, rv]), f"rv {rv}"


@pytest.mark.parametrize(
    ("n_bits", "e_bits", "graph", "snr_db"),
    [(8424, 10530, 1, 5.0), (4000, 8000, 1, 2.6), (1000, 3000, 2, 0.6)],
)
def test_blocks_that_sionna_decodes_are_decoded_to_the_same_bits(
    sionna, tensor, rng, n_bits, e_bits, graph, snr_db
) -> None:
    encoder = sionna.ldpc.LDPC5GEncoder(n_bits, e_bits, bg=f"bg{graph}")
    bits = rng.integers(0, 2, (10, n_bits), dtype=np.uint8)
    noise_var = 10 ** (-snr_db / 10)
    sent = 1.0 - 2.0 * encoder(tensor(bits)).numpy()  # BPSK on the real axis
    received = sent + rng.normal(size=sent.shape) * np.sqrt(noise_var)
    llr = (2 / noise_var * received).astype(np.float32)

    decoder = sionna.ldpc.LDPC5GDecoder(encoder, cn_update="minsum", num_iter=20)
    theirs = decoder(tensor(-llr)).numpy()
    n_filler = lifted_graph(graph, encoder.z).n_info_bits - n_bits
    soft = ldpc.rate_recover(llr, e_bits, 0, 1, graph, encoder.z, n_filler)
    ours = ldpc.decode(soft, graph, encoder.z, n_iterations=20).bits[:, :n_bits]

    decoded = (theirs == bits).all(axis=1)
    assert decoded.sum() >= 3, "too much noise for a comparison"
    assert np.array_equal(ours[decoded], bits[decoded])
