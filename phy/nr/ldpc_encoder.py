"""LDPC encoding by back substitution through the base graph's dual-diagonal core.

Spec: TS 38.212 5.3.2
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from airan.core.errors import InvalidInputError
from phy.array import Array, array_module
from phy.checks import check_bits
from phy.jit import kernel_input, kernels
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
    if array_module(info) is np:
        return _kernel_encode(info, graph)
    return _array_encode(info, graph)


def _kernel_encode(info: npt.NDArray[np.uint8], graph: BaseGraph) -> npt.NDArray[np.uint8]:
    """The CPU's own way."""
    z = graph.lifting_size
    coded = np.empty((info.shape[0], graph.n_coded_bits), dtype=np.uint8)
    word = np.empty((graph.n_columns + N_CORE_ROWS + 1) * z, dtype=np.uint8)
    steps = _kernel_steps(graph.number, z)
    kernels("phy.nr.sch_kernel").encode_blocks(kernel_input(info), np.uint64(z), steps, word, coded)
    return coded


@lru_cache(maxsize=102)
def _kernel_steps(base_graph: int, lifting_size: int) -> npt.NDArray[np.uint64]:
    """The whole encoding as additions of Z bits: uint64[n, 3], from where, turned by how much, to
    where. Behind the code word come the sums of the core rows, and the sum of those."""
    graph, z = lifted_graph(base_graph, lifting_size), lifting_size
    first = graph.n_info_columns
    total = (graph.n_columns + N_CORE_ROWS) * z
    steps = []
    for row in range(N_CORE_ROWS):
        row_sum = (graph.n_columns + row) * z
        steps += [(column * z, s, row_sum) for column, s in graph.row(row) if column < first]
        steps.append((row_sum, 0, total))
    steps.append((total, -_core_shift(graph) % z, first * z))
    for row in range(N_CORE_ROWS - 1):
        new = first + 1 + row
        known = [(column, s) for column, s in graph.row(row) if first <= column < new]
        steps += [(column * z, s, new * z) for column, s in known]
        steps.append(((graph.n_columns + row) * z, 0, new * z))
    for row in range(N_CORE_ROWS, graph.n_rows):
        steps += [(column * z, s, (first + row) * z) for column, s in graph.row(row)[:-1]]
    return np.array(steps, dtype=np.uint64)


def _core_shift(graph: BaseGraph) -> int:
    """How far the sum of the core rows is turned against the first parity column.

    Added up, the rows leave the first parity column alone, shifted by the one shift that occurs an
    odd number of times; the other parity columns cancel.
    """
    rows = [graph.row(row) for row in range(N_CORE_ROWS)]
    shifts = [shift for row in rows for column, shift in row if column == graph.n_info_columns]
    return next(shift for shift in shifts if shifts.count(shift) % 2 == 1)


def _array_encode(info: Array, graph: BaseGraph) -> Array:
    """The general way, for any array module."""
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
        total = sums[0] ^ sums[1] ^ sums[2] ^ sums[3]
        self.append(self._xp.roll(total, _core_shift(graph) % z, axis=1))
        for index, row in enumerate(rows[:-1]):
            known = [edge for edge in row if first <= edge[0] <= first + index]
            self.append(sums[index] ^ self.check_sum(known))
