"""The two LDPC base graphs and their lifting.

Spec: TS 38.212 5.3.2, tables 5.3.2-1 (lifting sizes), 5.3.2-2 and 5.3.2-3 (the graphs).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

import numpy as np
import numpy.typing as npt

from phy.checks import check_choice

# Table 5.3.2-1: the lifting sizes are a * 2^j; the odd factor a chooses the set index i_LS.
_SET_FACTORS = (2, 3, 5, 7, 9, 11, 13, 15)
_MAX_LIFTING_SIZE = 384


def _lifting_sets() -> dict[int, int]:
    sets = {}
    for index, factor in enumerate(_SET_FACTORS):
        size = factor
        while size <= _MAX_LIFTING_SIZE:
            sets[size] = index
            size *= 2
    return sets


_SET_INDEX = dict(sorted(_lifting_sets().items()))

LIFTING_SIZES: tuple[int, ...] = tuple(_SET_INDEX)
"""All 51 lifting sizes Z_c, ascending."""

N_CORE_ROWS = 4
"""Rows whose parity columns form the dual-diagonal core; the rows below each add one column."""


@dataclass(frozen=True)
class BaseGraph:
    """One base graph lifted by `lifting_size`: the edges in row order.

    Attributes:
        number: 1 or 2.
        lifting_size: Z_c.
        n_rows: rows of the base graph, 46 or 42.
        n_columns: columns of the base graph, 68 or 52, the first two punctured.
        n_info_columns: systematic columns, 22 or 10.
        row_start: int32[n_rows + 1], first edge of each row.
        column: int32[n_edges].
        shift: int32[n_edges]; check j of the row meets bit (j + shift) mod Z_c of the column.
    """

    number: int
    lifting_size: int
    n_rows: int
    n_columns: int
    n_info_columns: int
    row_start: npt.NDArray[np.int32]
    column: npt.NDArray[np.int32]
    shift: npt.NDArray[np.int32]

    @property
    def n_info_bits(self) -> int:
        """K, the information bits with fillers."""
        return self.n_info_columns * self.lifting_size

    @property
    def n_coded_bits(self) -> int:
        """N, the coded bits without the first 2 Z_c."""
        return (self.n_columns - 2) * self.lifting_size

    def row(self, row: int) -> list[tuple[int, int]]:
        """Returns the (column, shift) pairs of one row."""
        edges = slice(self.row_start[row], self.row_start[row + 1])
        columns, shifts = self.column[edges].tolist(), self.shift[edges].tolist()
        return list(zip(columns, shifts, strict=True))


@lru_cache(maxsize=102)
def lifted_graph(number: int, lifting_size: int) -> BaseGraph:
    """Returns base graph 1 or 2 lifted by one of the 51 lifting sizes.

    Raises:
        InvalidInputError: no such graph or lifting size.

    Spec: TS 38.212 5.3.2
    """
    check_choice("base_graph", number, (1, 2))
    check_choice("lifting_size", lifting_size, LIFTING_SIZES)
    table = _read_table(number)
    rows = table[:, 0]
    n_rows = int(rows[-1]) + 1
    graph = BaseGraph(
        number=int(number),
        lifting_size=int(lifting_size),
        n_rows=n_rows,
        n_columns=int(table[:, 1].max()) + 1,
        n_info_columns=22 if number == 1 else 10,
        row_start=np.searchsorted(rows, np.arange(n_rows + 1)).astype(np.int32),
        column=np.ascontiguousarray(table[:, 1]),
        shift=table[:, 2 + _SET_INDEX[lifting_size]] % np.int32(lifting_size),
    )
    for array in (graph.row_start, graph.column, graph.shift):
        array.setflags(write=False)
    return graph


@lru_cache(maxsize=2)
def _read_table(number: int) -> npt.NDArray[np.int32]:
    """int32[n_edges, 10]: row, column, V for set index 0..7."""
    text = resources.files("phy.nr").joinpath(f"data/base_graph_{number}.csv").read_text("utf-8")
    lines = [line for line in text.splitlines() if line[0].isdigit()]
    return np.array([line.split(",") for line in lines], dtype=np.int32)
