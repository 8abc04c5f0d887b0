"""Least squares whose solution has no negative entry."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from airan.core.errors import InvalidInputError

_TOLERANCE = 1e-10


def non_negative(
    matrix: npt.NDArray[np.float64], values: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Returns the x >= 0 that makes |matrix x - values| smallest.

    Active sets: a column enters when more of it would lessen the error, and leaves when the
    unbound solution over the columns that are in takes it below zero. Ends after a number of steps
    that is finite for any matrix; columns of zeros, and those that others make up for, get 0.

    Args:
        matrix: float64[sample, column], finite.
        values: float64[sample], finite.

    Returns:
        float64[column].

    Raises:
        InvalidInputError: shapes that do not match, or values that are not finite.

    Spec: Lawson and Hanson, Solving Least Squares Problems, chapter 23
    """
    _check(matrix, values)
    n_columns = matrix.shape[1]
    # Columns of one length make one tolerance mean the same for all.
    lengths = np.sqrt((matrix * matrix).sum(axis=0))
    scaled = matrix / np.where(lengths > 0, lengths, 1.0)
    is_in = np.zeros(n_columns, dtype=bool)
    x = np.zeros(n_columns)
    least_gain = _TOLERANCE * max(float(np.linalg.norm(values)), np.finfo(np.float64).tiny)
    for _ in range(3 * n_columns):
        gain = np.where(is_in, 0.0, scaled.T @ (values - scaled @ x))
        entering = int(np.argmax(gain))
        if gain[entering] <= least_gain:
            break
        is_in[entering] = True
        x = _settled(scaled, values, is_in, x)
    return x / np.where(lengths > 0, lengths, 1.0)


def _settled(
    matrix: npt.NDArray[np.float64],
    values: npt.NDArray[np.float64],
    is_in: npt.NDArray[np.bool_],
    x: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """Drops columns from `is_in` until the solution over the others is not negative; returns it."""
    while True:
        wanted = np.zeros_like(x)
        wanted[is_in] = np.linalg.lstsq(matrix[:, is_in], values, rcond=None)[0]
        if (wanted >= 0).all():
            return wanted
        below = is_in & (wanted < 0)
        # As far towards the solution as nothing turns negative.
        step = float(np.min(x[below] / (x[below] - wanted[below])))
        x = np.maximum(x + step * (wanted - x), 0.0)
        is_in &= ~(below & (x <= _TOLERANCE * max(float(x.max()), 1.0)))
        is_in[int(np.argmin(np.where(below, x, np.inf)))] = False
        x[~is_in] = 0.0


def _check(matrix: npt.NDArray[np.float64], values: npt.NDArray[np.float64]) -> None:
    if matrix.ndim != 2 or matrix.shape[0] == 0 or matrix.shape[1] == 0:
        raise InvalidInputError("matrix", f"must have samples and columns, got {matrix.shape}")
    if values.shape != matrix.shape[:1]:
        expected = matrix.shape[:1]
        raise InvalidInputError("values", f"must have shape {expected}, got {values.shape}")
    for field, array in (("matrix", matrix), ("values", values)):
        if not np.isfinite(array).all():
            raise InvalidInputError(field, "must be finite")
