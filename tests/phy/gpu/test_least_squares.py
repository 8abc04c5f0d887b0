from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airan.core.errors import InvalidInputError
from phy.gpu.least_squares import non_negative


def best_over_all_subsets(matrix: np.ndarray, values: np.ndarray) -> float:
    """The naive way: the least error over every choice of columns whose solution is allowed."""
    n = matrix.shape[1]
    least = float(np.linalg.norm(values))
    for size in range(1, n + 1):
        for columns in combinations(range(n), size):
            chosen = matrix[:, list(columns)]
            x = np.linalg.lstsq(chosen, values, rcond=None)[0]
            if (x >= 0).all():
                least = min(least, float(np.linalg.norm(chosen @ x - values)))
    return least


def test_a_solution_that_is_not_negative_is_found_exactly(rng) -> None:
    matrix = rng.random((30, 5))
    x = np.array([1.0, 0.0, 3.0, 0.5, 0.0])
    np.testing.assert_allclose(non_negative(matrix, matrix @ x), x, atol=1e-9)


def test_a_known_answer_with_a_column_at_its_bound() -> None:
    """Of x (1, 0) + y (1, 1) nearest to (2, -1), the unbound solution is (3, -1); with y = 0 it is
    the projection on the first column."""
    found = non_negative(np.array([[1.0, 1.0], [0.0, 1.0]]), np.array([2.0, -1.0]))
    np.testing.assert_allclose(found, [2.0, 0.0], atol=1e-12)


def test_what_points_away_from_all_columns_is_met_by_nothing() -> None:
    np.testing.assert_array_equal(non_negative(np.eye(3), -np.ones(3)), np.zeros(3))


@settings(max_examples=150)
@given(data=st.data())
def test_no_choice_of_columns_does_better(data) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    n_rows, n_columns = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 6))
    matrix = rng.standard_normal((n_rows, n_columns))
    # Columns of very unlike size, the same twice, and of nothing but zeros.
    matrix *= 10.0 ** rng.integers(-5, 6, n_columns)
    if data.draw(st.booleans()):
        matrix[:, -1] = matrix[:, 0]
    if data.draw(st.booleans()):
        matrix[:, 0] = 0
    values = rng.standard_normal(n_rows)
    x = non_negative(matrix, values)
    assert (x >= 0).all()
    assert np.linalg.norm(matrix @ x - values) <= best_over_all_subsets(matrix, values) + 1e-7


@pytest.mark.parametrize(
    ("matrix", "values", "field"),
    [
        (np.zeros((0, 2)), np.zeros(0), "matrix"),
        (np.zeros((2, 0)), np.zeros(2), "matrix"),
        (np.ones((2, 2)), np.ones(3), "values"),
        (np.full((2, 2), np.nan), np.ones(2), "matrix"),
        (np.ones((2, 2)), np.array([1.0, np.inf]), "values"),
    ],
)
def test_wrong_arguments_are_named(matrix, values, field) -> None:
    with pytest.raises(InvalidInputError) as caught:
        non_negative(matrix, values)
    assert caught.value.field == field
