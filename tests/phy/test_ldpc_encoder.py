from __future__ import annotations

import numpy as np
import pytest

from airan.core.errors import InvalidInputError
from phy.nr import ldpc, ldpc_encoder
from phy.nr.base_graph import LIFTING_SIZES, lifted_graph

N_INFO_COLUMNS = {1: 22, 2: 10}
N_COLUMNS = {1: 68, 2: 52}


def test_there_are_the_51_lifting_sizes_of_the_spec(lifting_sets) -> None:
    assert sorted(z for sizes in lifting_sets for z in sizes) == list(LIFTING_SIZES)
    assert len(LIFTING_SIZES) == 51


@pytest.mark.parametrize(("number", "shape", "n_edges"), [(1, (46, 68), 316), (2, (42, 52), 197)])
def test_base_graphs_have_the_specs_dimensions(number, shape, n_edges) -> None:
    graph = lifted_graph(number, 384)
    assert (graph.n_rows, graph.n_columns) == shape
    assert graph.column.size == n_edges


def test_first_row_of_base_graph_1_is_the_specs() -> None:
    # TS 38.212 table 5.3.2-2, row 0, set index 1 (Z = 384 = 3 * 2^7).
    columns = [0, 1, 2, 3, 5, 6, 9, 10, 11, 12, 13, 15, 16, 18, 19, 20, 21, 22, 23]
    shifts = [
        307,
        19,
        50,
        369,
        181,
        216,
        317,
        288,
        109,
        17,
        357,
        215,
        106,
        242,
        180,
        330,
        346,
        1,
        0,
    ]
    assert lifted_graph(1, 384).row(0) == list(zip(columns, shifts, strict=True))


def test_no_column_has_more_edges_than_the_kernels_16_bits_allow() -> None:
    for number in (1, 2):
        heaviest = int(np.bincount(lifted_graph(number, 2).column).max())
        assert 2047 + heaviest * 1023 < 2**15


@pytest.mark.parametrize("number", [1, 2])
def test_every_lifting_size_gives_words_that_satisfy_all_checks(number, parity_checks, rng) -> None:
    for z in LIFTING_SIZES:
        info = rng.integers(0, 2, (2, N_INFO_COLUMNS[number] * z), dtype=np.uint8)
        coded = ldpc.encode(info, number, z)
        assert coded.shape == (2, (N_COLUMNS[number] - 2) * z)
        assert coded.dtype == np.uint8
        assert np.array_equal(coded, ldpc_encoder._array_encode(info, lifted_graph(number, z)))
        checks = parity_checks(number, z)
        for block in range(2):
            word = np.concatenate([info[block, : 2 * z], coded[block]])
            assert checks.hold(word), f"z = {z}"
            word[rng.integers(word.size)] ^= 1
            assert not checks.hold(word)


@pytest.mark.parametrize("number", [1, 2])
def test_code_is_systematic_without_its_first_two_columns(number, rng) -> None:
    z = 24
    info = rng.integers(0, 2, (3, N_INFO_COLUMNS[number] * z), dtype=np.uint8)
    assert np.array_equal(
        ldpc.encode(info, number, z)[:, : info.shape[1] - 2 * z], info[:, 2 * z :]
    )


@pytest.mark.parametrize(
    ("tb_size_bits", "code_rate", "expected"),
    # TS 38.212 6.2.2: the limits themselves belong to graph 2.
    [
        (292, 0.9, 2),
        (293, 0.9, 1),
        (3824, 0.67, 2),
        (3824, 0.6701, 1),
        (3825, 0.67, 1),
        (100_000, 0.25, 2),
        (100_000, 0.2501, 1),
    ],
)
def test_base_graph_selection_at_its_limits(tb_size_bits, code_rate, expected) -> None:
    assert ldpc.select_base_graph(tb_size_bits, code_rate) == expected


@pytest.mark.parametrize(
    ("info", "base_graph", "lifting_size", "field"),
    [
        (np.zeros((1, 20), np.uint8), 3, 2, "base_graph"),
        (np.zeros((1, 20), np.uint8), 2, 17, "lifting_size"),
        (np.zeros((1, 21), np.uint8), 2, 2, "info"),
        (np.zeros(20, np.uint8), 2, 2, "info"),
        (np.zeros((1, 20), np.float32), 2, 2, "info"),
        (np.full((1, 20), 3, np.uint8), 2, 2, "info"),
    ],
)
def test_wrong_arguments_are_named(info, base_graph, lifting_size, field) -> None:
    with pytest.raises(InvalidInputError) as caught:
        ldpc.encode(info, base_graph, lifting_size)
    assert caught.value.field == field
