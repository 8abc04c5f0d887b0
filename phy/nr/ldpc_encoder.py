"""LDPC encoding by back substitution through the base graph's dual-diagonal core.

Spec: TS 38.212 5.3.2
"""

from __future__ import annotations

from collections.abc import Sequence

from airan.core.errors import InvalidInputError
from phy.array import Array, array_module
from phy.checks import check_bits
from phy.nr.base_graph import N_CORE_ROWS, BaseGraph, lifted_graph


def encode(info: Array, base_graph: int, lifting_size: int) -> Array:
    """Encodes code blocks.

    Args:
        info: uint8[cb, K], K = 22 Z (graph 1) or 10 Z (graph 2); filler bits are 0.
        base_graph: 1 or 2.
        lifting_size: Z, one of the 51 sizes.

    Returns:
        uint8[cb, N], N = 66 Z or 50 Z: the code word without its first 2 Z bits. Fillers are
        still in it, as zeros.

    Raises:
        InvalidInputError: wrong shape, dtype, values, graph or lifting size.

    Spec: TS 38.212 5.3.2
    """
    graph = lifted_graph(base_graph, lifting_size)
    check_bits("info", info)
    if info.ndim != 2 or info.shape[1] != graph.n_info_bits:
        raise InvalidInputError(
            "info", f"must have shape [cb, {graph.n_info_bits}], got {tuple(info.shape)}"
        )
    xp = array_module(info)
    z = graph.lifting_size
    word = _Word(info.reshape(info.shape[0], graph.n_info_columns, z), graph)
    word.append_core()
    for row in range(N_CORE_ROWS, graph.n_rows):
        word.append(word.check_sum(graph.row(row)[:-1]))
    return xp.stack(word.columns[2:], axis=1).reshape(info.shape[0], graph.n_coded_bits)


class _Word:
    """A code word that grows column by column; each column is kept twice, end to end, so that a
    cyclic shift is a plain slice."""

    def __init__(self, info: Array, graph: BaseGraph) -> None:
        self._xp = array_module(info)
        self._graph = graph
        self._doubled: list[Array] = []
        self.columns: list[Array] = []
        for column in range(graph.n_info_columns):
            self.append(info[:, column])

    def append(self, column: Array) -> None:
        self.columns.append(column)
        self._doubled.append(self._xp.concatenate([column, column], axis=1))

    def check_sum(self, edges: Sequence[tuple[int, int]]) -> Array:
        """Modulo-2 sum of the shifted columns: uint8[cb, Z]."""
        z = self._graph.lifting_size
        total = self._xp.zeros_like(self.columns[0])
        for column, shift in edges:
            total ^= self._doubled[column][:, shift : shift + z]
        return total

    def append_core(self) -> None:
        """Solves the four core rows for their four parity columns."""
        graph, z = self._graph, self._graph.lifting_size
        first = graph.n_info_columns
        rows = [graph.row(row) for row in range(N_CORE_ROWS)]
        sums = [self.check_sum([edge for edge in row if edge[0] < first]) for row in rows]
        # Added up, the rows leave the first parity column alone, shifted by the one shift that
        # occurs an odd number of times; the other parity columns cancel.
        shifts = [shift for row in rows for column, shift in row if column == first]
        odd_shift = next(shift for shift in shifts if shifts.count(shift) % 2 == 1)
        total = sums[0] ^ sums[1] ^ sums[2] ^ sums[3]
        self.append(self._xp.roll(total, odd_shift % z, axis=1))
        for index, row in enumerate(rows[:-1]):
            known = [edge for edge in row if first <= edge[0] <= first + index]
            self.append(sums[index] ^ self.check_sum(known))
