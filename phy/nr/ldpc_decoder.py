"""LDPC decoding: layered normalised min-sum with early stop.

The CPU kernel works on 16-bit integers (see phy/nr/ldpc_kernel.py); the scale is chosen for every
code block, so only the ratios of the LLRs matter.

Spec: the code is TS 38.212 5.3.2; the algorithm is layered belief propagation (Hocevar, 2004) with
the normalised min-sum check node (Chen and Fossorier, 2002).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from airan.core.errors import InvalidInputError
from phy.array import Array, array_module, to_host
from phy.checks import check_integer, check_llr, check_range
from phy.jit import kernels
from phy.nr.base_graph import N_CORE_ROWS, lifted_graph

DEFAULT_NORMALISATION = 0.75


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
    normalisation: float = DEFAULT_NORMALISATION,
) -> LdpcResult:
    """Decodes code blocks.

    Args:
        llr: float[cb, N], N = 66 Z or 50 Z, log P(0)/P(1), 0 for bits that were not received (the
            punctured first 2 Z are left out altogether). Infinite values are cut; a block with a
            NaN comes back with parity_ok False.
        base_graph: 1 or 2.
        lifting_size: Z.
        n_iterations: most iterations to run.
        normalisation: factor on the check-node minimum, (0, 1]; kept to 1/32.

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
    check_range("normalisation", normalisation, 1 / 32, 1.0)
    host = np.ascontiguousarray(to_host(llr))
    n_blocks = host.shape[0]
    bits = np.empty((n_blocks, graph.n_info_bits), dtype=np.uint8)
    parity_ok = np.empty(n_blocks, dtype=np.bool_)
    iterations = np.empty(n_blocks, dtype=np.int32)
    kernels("phy.nr.ldpc_kernel").decode_blocks(
        host,
        graph.lifting_size,
        _kernel_graph(base_graph, lifting_size),
        n_iterations,
        round(normalisation * 32),
        bits,
        parity_ok,
        iterations,
    )
    xp = array_module(llr)
    return LdpcResult(xp.asarray(bits), xp.asarray(parity_ok), xp.asarray(iterations))


@lru_cache(maxsize=102)
def _kernel_graph(base_graph: int, lifting_size: int) -> tuple[Any, ...]:
    graph = lifted_graph(base_graph, lifting_size)
    edges = (graph.row_start, graph.column, graph.shift)
    return (graph.n_info_columns, N_CORE_ROWS, *(array.astype(np.uint64) for array in edges))
