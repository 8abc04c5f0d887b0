"""LDPC rate matching: bit selection from the circular buffer, bit interleaving, and back.

Spec: TS 38.212 5.4.2
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from airan.core.errors import InvalidInputError
from phy.array import Array, array_module
from phy.checks import check_bits, check_choice, check_integer, check_llr
from phy.jit import kernel_input, kernels
from phy.nr.base_graph import lifted_graph

FILLER_LLR = 1.0e4
"""LLR given to filler bits, which are known to be 0; far above any LLR of a channel."""

MODULATION_ORDERS = (1, 2, 4, 6, 8)
# Table 5.4.2.1-2: numerators of the starting positions of redundancy versions 0 to 3.
_STARTS = {1: (0, 17, 33, 56), 2: (0, 13, 25, 43)}


def rate_match(
    coded: Array,
    e_bits: int,
    rv: int,
    modulation_order: int,
    base_graph: int,
    lifting_size: int,
    n_filler: int,
    n_ref: int | None = None,
) -> Array:
    """Selects and interleaves the bits of code blocks that are transmitted.

    Args:
        coded: uint8[cb, N], N = 66 Z or 50 Z, as `encode` gives it.
        e_bits: E, bits to transmit for each code block, a multiple of `modulation_order`.
        rv: redundancy version 0 to 3.
        modulation_order: bits a symbol, 1, 2, 4, 6 or 8.
        base_graph: 1 or 2.
        lifting_size: Z.
        n_filler: filler bits at the end of the K information bits; they are not transmitted.
        n_ref: size of a limited circular buffer in bits; None: the whole N.

    Returns:
        uint8[cb, E].

    Raises:
        InvalidInputError: wrong shape, dtype or range; the field is named.

    Spec: TS 38.212 5.4.2.1 (selection), 5.4.2.2 (interleaving)
    """
    check_bits("coded", coded)
    _check(e_bits, rv, modulation_order, base_graph, lifting_size, n_filler, n_ref)
    graph = lifted_graph(base_graph, lifting_size)
    if coded.ndim != 2 or coded.shape[1] != graph.n_coded_bits:
        raise InvalidInputError(
            "coded", f"must have shape [cb, {graph.n_coded_bits}], got {tuple(coded.shape)}"
        )
    xp = array_module(coded)
    if xp is np:
        sent = np.empty((coded.shape[0], e_bits), dtype=np.uint8)
        runs = _runs(rv, base_graph, lifting_size, n_filler, n_ref)
        kernels("phy.nr.sch_kernel").match_blocks(
            kernel_input(coded), runs, np.uint64(modulation_order), sent
        )
        return sent
    ring = _ring(rv, base_graph, lifting_size, n_filler, n_ref)
    return _array_match(coded, ring, e_bits, modulation_order)


def _array_match(
    coded: Array, ring: npt.NDArray[np.intp], e_bits: int, modulation_order: int
) -> Array:
    """The general way, for any array module."""
    xp = array_module(coded)
    selected = coded[:, xp.asarray(np.resize(ring, e_bits))]
    interleaved = selected.reshape(-1, modulation_order, e_bits // modulation_order)
    return xp.ascontiguousarray(interleaved.swapaxes(1, 2)).reshape(-1, e_bits)


def rate_recover(
    llr: Array,
    e_bits: int,
    rv: int,
    modulation_order: int,
    base_graph: int,
    lifting_size: int,
    n_filler: int,
    n_ref: int | None = None,
    *,
    out: Array | None = None,
) -> Array:
    """Undoes `rate_match` on LLRs: repeated bits are added up, unsent bits get 0.

    Args:
        llr: float[cb, E], log P(0)/P(1).
        e_bits: E.
        rv: redundancy version 0 to 3.
        modulation_order: bits a symbol, 1, 2, 4, 6 or 8.
        base_graph: 1 or 2.
        lifting_size: Z.
        n_filler: filler bits; they get FILLER_LLR.
        n_ref: size of a limited circular buffer in bits; None: the whole N.
        out: contiguous float32[cb, N] to add to, such as the sum of earlier transmissions; None:
            new zeros.

    Returns:
        float32[cb, N], `out` if it was given.

    Raises:
        InvalidInputError: wrong shape, dtype or range; the field is named.

    Spec: TS 38.212 5.4.2
    """
    llr = check_llr("llr", llr)
    _check(e_bits, rv, modulation_order, base_graph, lifting_size, n_filler, n_ref)
    if llr.ndim != 2 or llr.shape[1] != e_bits:
        raise InvalidInputError("llr", f"must have shape [cb, {e_bits}], got {tuple(llr.shape)}")
    xp = array_module(llr)
    graph = lifted_graph(base_graph, lifting_size)
    shape = (llr.shape[0], graph.n_coded_bits)
    recovered = xp.zeros(shape, dtype=xp.float32) if out is None else out
    if recovered.shape != shape or recovered.dtype != xp.float32:
        raise InvalidInputError("out", f"must be float32 of shape {list(shape)}")
    if xp is np:
        runs = _runs(rv, base_graph, lifting_size, n_filler, n_ref)
        kernels("phy.nr.sch_kernel").recover_blocks(
            kernel_input(llr), runs, np.uint64(modulation_order), recovered
        )
    else:
        ring = _ring(rv, base_graph, lifting_size, n_filler, n_ref)
        _array_recover(llr, ring, modulation_order, recovered)
    filler_end = graph.n_info_bits - 2 * lifting_size
    recovered[:, filler_end - n_filler : filler_end] = FILLER_LLR
    return recovered


def _array_recover(
    llr: Array, ring: npt.NDArray[np.intp], modulation_order: int, recovered: Array
) -> None:
    """The general way, for any array module: adds float32 llr[cb, E] up in recovered[cb, N]."""
    xp = array_module(llr)
    positions = xp.asarray(ring)
    n_blocks, e_bits = llr.shape
    in_order = llr.reshape(n_blocks, e_bits // modulation_order, modulation_order).swapaxes(1, 2)
    in_order = xp.ascontiguousarray(in_order).reshape(n_blocks, e_bits)
    for start in range(0, e_bits, ring.size):
        part = in_order[:, start : start + ring.size]
        # Within one turn of the ring every position occurs once, so this adds up correctly.
        recovered[:, positions[: part.shape[1]]] += part


@lru_cache(maxsize=256)
def _runs(
    rv: int, base_graph: int, lifting_size: int, n_filler: int, n_ref: int | None
) -> npt.NDArray[np.uint64]:
    """Start and length of the contiguous runs of `_ring`: uint64[n, 2]."""
    ring = _ring(rv, base_graph, lifting_size, n_filler, n_ref)
    starts = np.flatnonzero(np.diff(ring, prepend=-2) != 1)
    lengths = np.diff(starts, append=ring.size)
    return np.stack([ring[starts], lengths], axis=1).astype(np.uint64)


@lru_cache(maxsize=256)
def _ring(
    rv: int, base_graph: int, lifting_size: int, n_filler: int, n_ref: int | None
) -> npt.NDArray[np.intp]:
    """Positions of one turn of the circular buffer from the rv's start on, fillers left out."""
    graph = lifted_graph(base_graph, lifting_size)
    n_cb = graph.n_coded_bits if n_ref is None else min(graph.n_coded_bits, n_ref)
    numerator = _STARTS[base_graph][rv]
    columns = graph.n_columns - 2
    start = (numerator * n_cb) // (columns * lifting_size) * lifting_size
    order = (start + np.arange(n_cb)) % n_cb
    filler_end = graph.n_info_bits - 2 * lifting_size
    ring = order[(order < filler_end - n_filler) | (order >= filler_end)]
    ring.setflags(write=False)
    return ring


def _check(
    e_bits: int,
    rv: int,
    modulation_order: int,
    base_graph: int,
    lifting_size: int,
    n_filler: int,
    n_ref: int | None,
) -> None:
    graph = lifted_graph(base_graph, lifting_size)
    check_choice("modulation_order", modulation_order, MODULATION_ORDERS)
    check_integer("e_bits", e_bits, 1, 2**31)
    if e_bits % modulation_order:
        raise InvalidInputError(
            "e_bits", f"must be a multiple of modulation_order {modulation_order}, got {e_bits}"
        )
    check_integer("rv", rv, 0, 3)
    check_integer("n_filler", n_filler, 0, graph.n_info_bits - 2 * lifting_size)
    if n_ref is not None:
        check_integer("n_ref", n_ref, graph.n_info_bits - 2 * lifting_size, 2**31)
