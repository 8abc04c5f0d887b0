from __future__ import annotations

import itertools

import numpy as np
import pytest

from airan.core.errors import InvalidInputError
from phy.nr import precoding

j = 1j

# TS 38.211 table 6.3.1.5-5, TPMI 0 to 21, rows (ports) as printed, without the factors.
TWO_LAYERS = [
    [[1, 0], [0, 1], [0, 0], [0, 0]],
    [[1, 0], [0, 0], [0, 1], [0, 0]],
    [[1, 0], [0, 0], [0, 0], [0, 1]],
    [[0, 0], [1, 0], [0, 1], [0, 0]],
    [[0, 0], [1, 0], [0, 0], [0, 1]],
    [[0, 0], [0, 0], [1, 0], [0, 1]],
    [[1, 0], [0, 1], [1, 0], [0, -j]],
    [[1, 0], [0, 1], [1, 0], [0, j]],
    [[1, 0], [0, 1], [-j, 0], [0, 1]],
    [[1, 0], [0, 1], [-j, 0], [0, -1]],
    [[1, 0], [0, 1], [-1, 0], [0, -j]],
    [[1, 0], [0, 1], [-1, 0], [0, j]],
    [[1, 0], [0, 1], [j, 0], [0, 1]],
    [[1, 0], [0, 1], [j, 0], [0, -1]],
    [[1, 1], [1, 1], [1, -1], [1, -1]],
    [[1, 1], [1, 1], [j, -j], [j, -j]],
    [[1, 1], [j, j], [1, -1], [j, -j]],
    [[1, 1], [j, j], [j, -j], [-1, 1]],
    [[1, 1], [-1, -1], [1, -1], [-1, 1]],
    [[1, 1], [-1, -1], [j, -j], [-j, j]],
    [[1, 1], [-j, -j], [1, -1], [-j, j]],
    [[1, 1], [-j, -j], [j, -j], [1, -1]],
]
# Tables 6.3.1.5-6 and -7.
THREE_LAYERS = [
    [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]],
    [[1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 1]],
    [[1, 0, 0], [0, 1, 0], [-1, 0, 0], [0, 0, 1]],
    [[1, 1, 1], [1, -1, 1], [1, 1, -1], [1, -1, -1]],
    [[1, 1, 1], [1, -1, 1], [j, j, -j], [j, -j, -j]],
    [[1, 1, 1], [-1, 1, -1], [1, 1, -1], [-1, 1, 1]],
    [[1, 1, 1], [-1, 1, -1], [j, j, -j], [-j, j, j]],
]
FOUR_LAYERS = [
    [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]],
    [[1, 1, 0, 0], [0, 0, 1, 1], [1, -1, 0, 0], [0, 0, 1, -1]],
    [[1, 1, 0, 0], [0, 0, 1, 1], [j, -j, 0, 0], [0, 0, j, -j]],
    [[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]],
    [[1, 1, 1, 1], [1, -1, 1, -1], [j, j, -j, -j], [j, -j, -j, j]],
]
ROOT_2, ROOT_3 = np.sqrt(2), np.sqrt(3)
PRINTED = {
    (2, 1): [
        (np.transpose([w]), ROOT_2) for w in ([1, 0], [0, 1], [1, 1], [1, -1], [1, j], [1, -j])
    ],
    (2, 2): [([[1, 0], [0, 1]], ROOT_2), ([[1, 1], [1, -1]], 2), ([[1, 1], [j, -j]], 2)],
    (4, 2): [(w, 2 if tpmi < 14 else 2 * ROOT_2) for tpmi, w in enumerate(TWO_LAYERS)],
    (4, 3): [(w, 2 if tpmi < 3 else 2 * ROOT_3) for tpmi, w in enumerate(THREE_LAYERS)],
    (4, 4): [(w, (2, 2 * ROOT_2, 2 * ROOT_2, 4, 4)[t]) for t, w in enumerate(FOUR_LAYERS)],
}
ALL = [(1, 1, False), (2, 1, False), (2, 2, False), (2, 1, True), (4, 1, True)]
ALL += [(4, n_layers, False) for n_layers in (1, 2, 3, 4)]


def matrices(n_ports: int, n_layers: int, transform_precoding: bool = False) -> np.ndarray:
    n = precoding.n_tpmi(n_ports, n_layers, transform_precoding)
    return np.stack(
        [precoding.codebook(n_ports, n_layers, tpmi, transform_precoding) for tpmi in range(n)]
    )


@pytest.mark.parametrize(("n_ports", "n_layers"), PRINTED)
def test_matrices_are_the_printed_ones(n_ports, n_layers) -> None:
    printed = PRINTED[n_ports, n_layers]
    found = matrices(n_ports, n_layers)
    assert found.dtype == np.complex64
    assert len(found) == len(printed)
    for w, (rows, divisor) in zip(found, printed, strict=True):
        np.testing.assert_allclose(w, np.array(rows) / divisor, atol=1e-7)


def test_one_layer_on_four_ports_runs_through_its_phases_in_order() -> None:
    """Tables 6.3.1.5-2 and -3, transcribed column by column instead of row by row."""
    without, transform = 2 * matrices(4, 1)[..., 0], 2 * matrices(4, 1, True)[..., 0]
    phases = [1, j, -1, -j]
    assert without[:4].tolist() == transform[:4].tolist() == np.eye(4).tolist()
    for ports, first in (((0, 2), 4), ((1, 3), 8)):
        expected = np.zeros((4, 4), dtype=complex)
        expected[:, ports[0]] = 1
        expected[:, ports[1]] = [1, -1, j, -j]
        np.testing.assert_array_equal(without[first : first + 4], expected)
        np.testing.assert_array_equal(transform[first : first + 4], expected)
    pairs = list(itertools.product(phases, phases))
    np.testing.assert_array_equal(without[12:, :3], [(1, a, b) for a, b in pairs])
    np.testing.assert_array_equal(transform[12:, :3], [(1, a, b) for a, b in pairs])
    np.testing.assert_array_equal(without[12:, 3], [a * b for a, b in pairs])
    last = [-1, j, 1, -j, j, 1, -j, -1, 1, -j, -1, j, -j, -1, j, 1]
    np.testing.assert_array_equal(transform[12:, 3], last)


@pytest.mark.parametrize(("n_ports", "n_layers", "transform"), ALL)
def test_layers_are_orthogonal_and_power_is_shared_evenly_among_live_ports(
    n_ports, n_layers, transform
) -> None:
    for w in matrices(n_ports, n_layers, transform):
        gram = w.conj().T @ w
        np.testing.assert_allclose(gram, np.diag(np.diag(gram)), atol=1e-7)
        of_ports = np.sum(np.abs(w) ** 2, axis=1)
        live = of_ports > 0
        np.testing.assert_allclose(of_ports[live], 1 / n_ports, atol=1e-7)
        if live.all() and (n_layers, np.count_nonzero(w)) != (3, 4):
            np.testing.assert_allclose(np.diag(gram).real, 1 / n_layers, atol=1e-7)


@pytest.mark.parametrize(("n_ports", "n_layers", "transform"), ALL)
def test_no_two_tpmis_mean_the_same_matrix(n_ports, n_layers, transform) -> None:
    found = matrices(n_ports, n_layers, transform)
    for a, b in itertools.combinations(found, 2):
        assert np.abs(a - b).max() > 0.1


def test_numbers_of_matrices() -> None:
    counts = [precoding.n_tpmi(*key) for key in ALL]
    assert counts == [1, 6, 3, 6, 28, 28, 22, 7, 5]


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ((3, 1, 0), "n_ports"),
        ((2, 3, 0), "n_layers"),
        ((4, 2, 0, True), "n_layers"),
        ((4, 2, 22), "tpmi"),
        ((2, 1, -1), "tpmi"),
    ],
)
def test_wrong_arguments_are_named(arguments, field) -> None:
    with pytest.raises(InvalidInputError) as caught:
        precoding.codebook(*arguments)
    assert caught.value.field == field
