"""The LDPC decoding kernel, its twin, and the decoder of the array path."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from phy.gpu import ldpc_twin
from phy.gpu.ldpc import LdpcDecoder, decoder_control
from phy.gpu.ldpc_layout import ldpc_layout, llr_units_of_16
from phy.nr import ldpc
from phy.nr.base_graph import LIFTING_SIZES, lifted_graph

from .host_kernel import launch

# Graph, Z, rows, noise: register rows alone, words, bytes, several pairs a thread block, odd sizes.
GPU_CASES = [
    (1, 384, 5, 0.35),
    (1, 384, 8, 0.45),
    (1, 384, 46, 1.0),
    (1, 208, 24, 0.8),
    (1, 7, 6, 0.4),
    (2, 384, 42, 1.1),
    (2, 36, 12, 0.6),
    (2, 2, 42, 0.8),
]


def in_registers(base_graph, z, n_rows):
    return ldpc_layout(base_graph, z, n_rows)


def in_words(base_graph, z, n_rows):
    return replace(ldpc_layout(base_graph, z, n_rows), n_register_rows=4)


def in_bytes(base_graph, z, n_rows):
    return replace(in_words(base_graph, z, n_rows), message_bytes=True)


HOST_CASES = [
    (in_registers(1, 96, 6), 0.4),
    (in_words(1, 13, 9), 0.45),
    (in_bytes(2, 36, 11), 0.6),
    (replace(in_registers(2, 3, 22), sums_of_four=3), 0.7),
]


def received(base_graph, z, n_rows, noise_std, n_blocks, rng):
    """Information bits, and int8 LLRs of what was sent of them up to the last row in use."""
    graph = lifted_graph(base_graph, z)
    info = rng.integers(0, 2, (n_blocks, graph.n_info_bits), dtype=np.uint8)
    sent = ldpc.encode(info, base_graph, z)
    noisy = 1.0 - 2.0 * sent + noise_std * rng.standard_normal(sent.shape)
    llr = np.clip(np.rint(20 * noisy), -127, 127).astype(np.int8)
    llr[:, (graph.n_info_columns - 2 + n_rows) * z :] = 0
    return info, llr


def scattered(llr, layout, rng):
    """The blocks' LLRs in another order, with other things between, and where they are."""
    room = llr_units_of_16(layout.graph)
    row = rng.permutation(len(llr) + 2)[: len(llr)]
    rows = rng.integers(-127, 128, (len(llr) + 2, 16 * room)).astype(np.int8)
    rows[row, : llr.shape[1]] = llr
    return rows, (row * room).astype(np.int32)


def results(n_blocks, layout, xp=np):
    """Arrays for the kernel to fill, full of what it must not leave there."""
    n_words = -(-layout.graph.n_info_bits // 32)
    return (
        xp.full((n_blocks, n_words), 0xDEADBEEF, xp.uint32),
        xp.full(n_blocks, 77, xp.uint8),
        xp.full(n_blocks, -1, xp.int32),
    )


@pytest.mark.parametrize("early_stop", [True, False])
@pytest.mark.parametrize(("layout", "noise_std"), HOST_CASES)
def test_the_kernel_run_on_the_host_equals_its_twin(layout, noise_std, early_stop, rng) -> None:
    n_blocks = 2 * layout.n_pairs + 1
    sizes = layout.base_graph, layout.lifting_size, layout.n_rows
    _, llr = received(*sizes, noise_std, n_blocks, rng)
    control = decoder_control(n_blocks, 4, 0.75, early_stop=early_stop)
    found = results(n_blocks, layout)
    launch(
        *("ldpc_decode", "ldpc_decode", layout.prelude()),
        *(layout.n_thread_blocks(n_blocks), layout.n_threads),
        *(*scattered(llr, layout, rng), control, *found),
    )
    expected = ldpc_twin.decode(llr, layout, 4, 0.75, early_stop=early_stop)
    np.testing.assert_array_equal(found[0], expected.bits)
    np.testing.assert_array_equal(found[1], expected.parity_ok)
    np.testing.assert_array_equal(found[2], expected.iterations)


@pytest.mark.gpu
@pytest.mark.parametrize("early_stop", [True, False])
@pytest.mark.parametrize(("base_graph", "z", "n_rows", "noise_std"), GPU_CASES)
def test_the_kernel_on_the_gpu_equals_its_twin(
    cp, base_graph, z, n_rows, noise_std, early_stop, rng
) -> None:
    decoder = LdpcDecoder(base_graph, z, n_rows)
    _, llr = received(base_graph, z, n_rows, noise_std, 301, rng)
    control = decoder_control(301, 8, 0.75, early_stop=early_stop)
    found = results(301, decoder.layout, cp)
    rows = scattered(llr, decoder.layout, rng)
    decoder.launch(*map(cp.asarray, (*rows, control)), *found)
    expected = ldpc_twin.decode(llr, decoder.layout, 8, 0.75, early_stop=early_stop)
    np.testing.assert_array_equal(cp.asnumpy(found[0]), expected.bits)
    np.testing.assert_array_equal(cp.asnumpy(found[1]), expected.parity_ok)
    np.testing.assert_array_equal(cp.asnumpy(found[2]), expected.iterations)


@pytest.mark.parametrize(
    ("base_graph", "z", "n_rows", "ebno_db"), [(1, 64, 8, 2.7), (1, 26, 46, 1.2), (2, 26, 42, 1.2)]
)
def test_the_twin_loses_about_as_many_blocks_as_the_float_path(
    base_graph, z, n_rows, ebno_db, rng
) -> None:
    graph = lifted_graph(base_graph, z)
    rate = graph.n_info_columns / (graph.n_info_columns - 2 + n_rows)
    noise_std = np.sqrt(1 / (2 * rate * 10 ** (ebno_db / 10)))
    info, llr = received(base_graph, z, n_rows, noise_std, 150, rng)
    found = ldpc_twin.decode(llr, ldpc_layout(base_graph, z, n_rows), 10, 0.75)
    bits = ldpc_twin.unpack_words(found.bits, info.shape[1])
    lost = (bits != info).any(axis=1).sum()
    float_path = ldpc.decode(llr.astype(np.float32), base_graph, z, 10, 0.75)
    lost_there = (float_path.bits != info).any(axis=1).sum()
    assert 10 <= lost_there <= 110
    assert abs(int(lost) - int(lost_there)) <= 12


def test_silence_is_never_parity_ok() -> None:
    found = ldpc_twin.decode(np.zeros((2, 66 * 8), np.int8), ldpc_layout(1, 8, 46), 3, 0.75)
    assert not found.parity_ok.any()


@pytest.mark.parametrize("base_graph", [1, 2])
def test_every_size_and_number_of_rows_has_a_layout_that_fits(base_graph) -> None:
    for z in LIFTING_SIZES:
        for n_rows in range(4, lifted_graph(base_graph, z).n_rows + 1):
            layout = ldpc_layout(base_graph, z, n_rows)
            assert layout.blocks_per_sm * (layout.shared_bytes + 2048) <= 227 * 1024 + 1024
            assert layout.n_threads <= 1024
            assert layout.n_threads * layout.blocks_per_sm <= 2048
