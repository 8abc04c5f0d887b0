"""LDPC decoding: layered normalised or offset min-sum with early stop.

The CPU kernel works on 16-bit integers (see phy/nr/ldpc_kernel.py); the scale is chosen for every
code block, so normalised min-sum cares for nothing but the ratios of the LLRs.

Spec: the code is TS 38.212 5.3.2; the algorithm is layered belief propagation (Hocevar, 2004) with
the normalised or the offset min-sum check node (Chen and Fossorier, 2002).
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from airan.core.errors import InvalidInputError
from phy.array import Array, array_module, to_host
from phy.checks import check_choice, check_integer, check_llr, check_range
from phy.jit import kernel_input, kernels
from phy.nr.base_graph import N_CORE_ROWS, BaseGraph, lifted_graph

Algorithm = Literal["normalised", "offset"]
ALGORITHMS = ("normalised", "offset")

DEFAULT_OFFSET = 0.5
"""Taken off the smallest magnitude by offset min-sum, in LLR units."""

_MAX_ROWS = 46

# The best normalisation in 1/32, by base graph and by rows in use, that is by code rate: from 0.88
# to 1/3 for graph 1, from 0.77 to 1/5 for graph 2. Measured by scripts/tune_ldpc.py (2000 blocks a
# point, BPSK in white noise at 10 % of blocks lost, 10 iterations, seed 212), means of Z = 384 and
# Z = 64, which differ by 0.9 at most. In between it is interpolated. The best for 5 iterations is
# about one higher, for 20 about half lower.
_MEASURED = {
    1: {5: 25.9, 6: 25.4, 8: 24.8, 11: 23.3, 15: 22.6, 22: 22.0, 31: 21.5, 46: 20.8},
    2: {5: 27.3, 7: 25.7, 10: 24.6, 14: 23.8, 20: 23.2, 30: 22.1, 42: 21.5},
}


@dataclass(frozen=True)
class LdpcResult:
    """What the decoder found.

    Attributes:
        bits: uint8[cb, K], the information bits with fillers.
        parity_ok: bool[cb], every parity check holds and no bit is undecided.
        iterations: int32[cb], iterations run; fewer than asked for where it stopped early.
    """

    bits: Array
    parity_ok: Array
    iterations: Array


def decode(
    llr: Array,
    base_graph: int,
    lifting_size: int,
    n_iterations: int = 10,
    normalisation: float | None = None,
    *,
    algorithm: Algorithm = "normalised",
    offset: float | None = None,
    early_stop: bool = True,
    n_threads: int = 1,
) -> LdpcResult:
    """Decodes code blocks.

    Args:
        llr: float[cb, N], N = 66 Z or 50 Z, log P(0)/P(1), 0 for bits that were not received (the
            punctured first 2 Z are left out altogether). Infinite values are cut; a block with a
            NaN comes back with parity_ok False.
        base_graph: 1 or 2.
        lifting_size: Z.
        n_iterations: most iterations to run.
        normalisation: factor on the check-node minimum, [1/32, 1], kept to 1/32; None: the one
            measured to be best for the graph and the rate of each block.
        algorithm: "normalised" or "offset" min-sum.
        offset: for offset min-sum, LLR taken off the check-node minimum, [0, 10]; None: 0.5. Here
            the LLRs must be true ones, not merely in proportion.
        early_stop: stop a block as soon as all its checks hold; False: always run all iterations.
        n_threads: threads that share the blocks; worth it from about 50 large blocks on.

    Raises:
        InvalidInputError: wrong shape, dtype or range; the field is named.
    """
    llr = check_llr("llr", llr)
    graph = lifted_graph(base_graph, lifting_size)
    if llr.ndim != 2 or llr.shape[1] != graph.n_coded_bits:
        raise InvalidInputError(
            "llr", f"must have shape [cb, {graph.n_coded_bits}], got {tuple(llr.shape)}"
        )
    check_integer("n_iterations", n_iterations, 1, 1000)
    check_integer("n_threads", n_threads, 1, 256)
    rule = _rule(graph, algorithm, normalisation, offset)
    host = kernel_input(to_host(llr))
    n_blocks = host.shape[0]
    bits = np.empty((n_blocks, graph.n_info_bits), dtype=np.uint8)
    parity_ok = np.empty(n_blocks, dtype=np.bool_)
    iterations = np.empty(n_blocks, dtype=np.int32)
    kernel = kernels("phy.nr.ldpc_kernel")
    edges = _kernel_graph(base_graph, lifting_size)
    z = graph.lifting_size

    def decode_part(part: slice) -> None:
        work = kernel.workspace(graph.n_columns, graph.column.size, z)
        results = bits[part], parity_ok[part], iterations[part]
        kernel.decode_blocks(
            host[part], z, edges, rule, int(n_iterations), bool(early_stop), work, results
        )

    _share(decode_part, n_blocks, n_threads)
    xp = array_module(llr)
    return LdpcResult(xp.asarray(bits), xp.asarray(parity_ok), xp.asarray(iterations))


def _rule(
    graph: BaseGraph, algorithm: Algorithm, normalisation: float | None, offset: float | None
) -> tuple[npt.NDArray[np.int16], np.float32]:
    """Returns the normalisation in 1/32 by the number of rows in use, and the offset."""
    check_choice("algorithm", algorithm, ALGORITHMS)
    if algorithm == "offset":
        if normalisation is not None:
            raise InvalidInputError("normalisation", "goes with the normalised algorithm alone")
        offset = DEFAULT_OFFSET if offset is None else offset
        check_range("offset", offset, 0.0, 10.0)
        return np.full(_MAX_ROWS + 1, 32, dtype=np.int16), np.float32(offset)
    if offset is not None:
        raise InvalidInputError("offset", "goes with the offset algorithm alone")
    if normalisation is None:
        return _best_normalisations(graph.number), np.float32(0)
    check_range("normalisation", normalisation, 1 / 32, 1.0)
    return np.full(_MAX_ROWS + 1, round(normalisation * 32), dtype=np.int16), np.float32(0)


@lru_cache(maxsize=2)
def _best_normalisations(base_graph: int) -> npt.NDArray[np.int16]:
    measured = _MEASURED[base_graph]
    rows = np.arange(_MAX_ROWS + 1)
    best = np.interp(rows, list(measured), list(measured.values()))
    return np.rint(best).astype(np.int16)


def _share(work: Callable[[slice], None], n_items: int, n_threads: int) -> None:
    """Runs `work` on contiguous parts of `n_items`, each in a thread of its own."""
    n_parts = min(n_threads, n_items)
    if n_parts == 1:
        work(slice(0, n_items))
        return
    edges = [n_items * part // n_parts for part in range(n_parts + 1)]
    parts = [slice(first, last) for first, last in pairwise(edges)]
    with ThreadPoolExecutor(n_parts) as pool:
        for _ in pool.map(work, parts):  # raises what a part raised
            pass


@lru_cache(maxsize=102)
def _kernel_graph(base_graph: int, lifting_size: int) -> tuple[Any, ...]:
    graph = lifted_graph(base_graph, lifting_size)
    edges = (graph.row_start, graph.column, graph.shift)
    return (graph.n_info_columns, N_CORE_ROWS, *(array.astype(np.int64) for array in edges))
