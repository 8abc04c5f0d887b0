"""The shared channels' transport block coding: CRC, segmentation, LDPC, rate matching, and back.

Spec: TS 38.212 6.2 (UL-SCH) and 7.2 (DL-SCH)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

from airan.core.errors import InvalidInputError
from phy.array import Array, array_module
from phy.checks import check_bits, check_choice, check_integer, check_llr, check_range
from phy.nr import crc, ldpc
from phy.nr.base_graph import lifted_graph
from phy.nr.ldpc_rate import MODULATION_ORDERS
from phy.nr.segmentation import Segmentation, block_lengths, segment

# Soft values are kept below this, so that a soft buffer can take any number of retransmissions.
_SOFT_LIMIT = 1.0e5


@dataclass(frozen=True)
class SchConfig:
    """How one transport block is coded.

    Attributes:
        tb_size_bits: A, without CRC.
        code_rate: target code rate R of the MCS; chooses the base graph.
        modulation_order: Q_m, bits a symbol, 1, 2, 4, 6 or 8.
        n_layers: N_L, layers the block is mapped to, 1 to 4.
        n_coded_bits: G, coded bits available for the block, a multiple of N_L Q_m.
        rv: redundancy version 0 to 3.
        limited_buffer_bits: N_ref, size of each code block's limited circular buffer in bits; None
            for no limit (I_LBRM = 0).
    """

    tb_size_bits: int
    code_rate: float
    modulation_order: int
    n_layers: int
    n_coded_bits: int
    rv: int = 0
    limited_buffer_bits: int | None = None

    def __post_init__(self) -> None:
        check_integer("tb_size_bits", self.tb_size_bits, 1, 10_000_000)
        check_range("code_rate", self.code_rate, 1e-6, 1.0)
        check_choice("modulation_order", self.modulation_order, MODULATION_ORDERS)
        check_integer("n_layers", self.n_layers, 1, 4)
        unit = self.n_layers * self.modulation_order
        check_integer("n_coded_bits", self.n_coded_bits, 1, 2**31)
        if self.n_coded_bits % unit:
            raise InvalidInputError(
                "n_coded_bits",
                f"must be a multiple of n_layers * modulation_order = {unit}, "
                f"got {self.n_coded_bits}",
            )
        check_integer("rv", self.rv, 0, 3)
        self._check_blocks(unit)

    def _check_blocks(self, unit: int) -> None:
        cut = self.segmentation
        if self.n_coded_bits < unit * cut.n_code_blocks:
            raise InvalidInputError(
                "n_coded_bits",
                f"leaves nothing for some of the {cut.n_code_blocks} code blocks, "
                f"got {self.n_coded_bits}",
            )
        if (self.tb_size_bits + crc.length(cut.tb_crc)) % cut.n_code_blocks:
            raise InvalidInputError(
                "tb_size_bits",
                f"with its CRC must divide into {cut.n_code_blocks} equal code blocks, "
                f"got {self.tb_size_bits}",
                remedy="use a size that phy.nr.tbs.size gives",
            )
        if self.limited_buffer_bits is not None:
            least = cut.n_info_bits - 2 * cut.lifting_size
            check_integer("limited_buffer_bits", self.limited_buffer_bits, least, 2**31)

    @cached_property
    def segmentation(self) -> Segmentation:
        """The cut into code blocks."""
        graph = ldpc.select_base_graph(self.tb_size_bits, self.code_rate)
        return segment(self.tb_size_bits, graph)

    @cached_property
    def block_lengths(self) -> list[int]:
        """E of every code block, in bits; at most two different values, the shorter first."""
        return block_lengths(
            self.n_coded_bits,
            self.segmentation.n_code_blocks,
            self.n_layers,
            self.modulation_order,
        )


@dataclass(frozen=True)
class SchResult:
    """One decoded transport block.

    Attributes:
        tb: uint8[A], the block's bits as decoded, right or wrong.
        crc_ok: every CRC holds, and the block is not mere silence.
        soft_buffer: float32[cb, N], summed LLRs; hand it to the next retransmission's decode.
        iterations: int32[cb], decoder iterations run.
    """

    tb: Array
    crc_ok: bool
    soft_buffer: Array
    iterations: Array


def encode(tb: Array, config: SchConfig) -> Array:
    """Codes a transport block.

    Args:
        tb: uint8[A].
        config: how.

    Returns:
        uint8[G], the coded bits before scrambling.

    Raises:
        InvalidInputError: `tb` has the wrong shape, dtype or values.

    Spec: TS 38.212 6.2.1 to 6.2.6
    """
    check_bits("tb", tb)
    if tb.shape != (config.tb_size_bits,):
        raise InvalidInputError("tb", f"must have shape [{config.tb_size_bits}], got {tb.shape}")
    xp = array_module(tb)
    cut = config.segmentation
    blocks = crc.append(tb, cut.tb_crc).reshape(cut.n_code_blocks, -1)
    if cut.n_code_blocks > 1:
        blocks = crc.append(blocks, "24B")
    info = xp.zeros((cut.n_code_blocks, cut.n_info_bits), dtype=xp.uint8)
    info[:, : cut.block_bits] = blocks
    coded = ldpc.encode(info, cut.base_graph, cut.lifting_size)
    parts = [
        ldpc.rate_match(coded[group], e_bits, *_rate_arguments(config)).reshape(-1)
        for e_bits, group, _ in _groups(config)
    ]
    return xp.concatenate(parts)


def decode(
    llr: Array,
    config: SchConfig,
    soft_buffer: Array | None = None,
    n_iterations: int = 10,
    *,
    n_threads: int = 1,
) -> SchResult:
    """Decodes a transport block from the LLRs of its coded bits.

    Args:
        llr: float[G], descrambled, log P(0)/P(1). One NaN, or nothing but zeros, and crc_ok is
            False; infinite values count as very sure.
        config: how the block was coded; `rv` is this transmission's.
        soft_buffer: float32[cb, N], the SchResult.soft_buffer of the transmissions before (HARQ
            with incremental redundancy); None for the first. It is not changed.
        n_iterations: most LDPC iterations.
        n_threads: threads that share the code blocks in the LDPC decoder.

    Raises:
        InvalidInputError: wrong shape or dtype of `llr` or `soft_buffer`, or a number out of range.

    Spec: TS 38.212 6.2
    """
    llr = check_llr("llr", llr)
    if llr.shape != (config.n_coded_bits,):
        raise InvalidInputError("llr", f"must have shape [{config.n_coded_bits}], got {llr.shape}")
    cut = config.segmentation
    llr, clean = _bounded(llr)
    soft, soft_clean = _soft_sum(llr, config, soft_buffer)
    found = ldpc.decode(soft, cut.base_graph, cut.lifting_size, n_iterations, n_threads=n_threads)
    tb, crc_ok = _join(found.bits[:, : cut.block_bits], config)
    # The CRC decides, even where parity bits were not settled in time; but silence decodes to an
    # all-zero code block, which passes the CRC, so such a block must be consistent as well.
    spoken = found.parity_ok | found.bits.any(axis=1)
    crc_ok = clean and soft_clean and crc_ok and bool(spoken.all())
    return SchResult(tb, crc_ok, soft, found.iterations)


def _join(blocks: Array, config: SchConfig) -> tuple[Array, bool]:
    """Strips the CRCs: uint8[cb, K'] -> uint8[A] and whether all of them hold."""
    cut = config.segmentation
    blocks_ok = True
    if cut.n_code_blocks > 1:
        blocks_ok = bool(crc.check(blocks, "24B").all())
        blocks = blocks[:, :-24]
    with_crc = blocks.reshape(-1)
    return with_crc[: config.tb_size_bits], blocks_ok and bool(crc.check(with_crc, cut.tb_crc))


def _bounded(llr: Array) -> tuple[Array, bool]:
    """Returns `llr` within the soft limit, NaN replaced by 0, and whether there was no NaN."""
    xp = array_module(llr)
    peak = float(xp.maximum(llr.max(), -llr.min()))
    if peak <= _SOFT_LIMIT:
        return llr, True
    if math.isnan(peak):
        llr = xp.nan_to_num(llr, nan=0.0)
    return xp.clip(llr, -_SOFT_LIMIT, _SOFT_LIMIT), not math.isnan(peak)


def _soft_sum(llr: Array, config: SchConfig, soft_buffer: Array | None) -> tuple[Array, bool]:
    """Adds the recovered `llr` to a copy of `soft_buffer`: float32[cb, N], and whether the buffer
    had no NaN."""
    xp = array_module(llr)
    cut = config.segmentation
    shape = (cut.n_code_blocks, lifted_graph(cut.base_graph, cut.lifting_size).n_coded_bits)
    if soft_buffer is None:
        soft, clean = xp.zeros(shape, dtype=xp.float32), True
    else:
        if getattr(soft_buffer, "shape", None) != shape:
            raise InvalidInputError("soft_buffer", f"must have shape {list(shape)}")
        before = check_llr("soft_buffer", soft_buffer)
        bounded, clean = _bounded(before)
        soft = bounded.copy() if bounded is before else bounded
    for e_bits, blocks, bits in _groups(config):
        ldpc.rate_recover(
            llr[bits].reshape(-1, e_bits), e_bits, *_rate_arguments(config), out=soft[blocks]
        )
    return soft if soft_buffer is None else _bounded(soft)[0], clean


def _rate_arguments(config: SchConfig) -> tuple[int, int, int, int, int, int | None]:
    cut = config.segmentation
    return (
        config.rv,
        config.modulation_order,
        cut.base_graph,
        cut.lifting_size,
        cut.n_filler,
        config.limited_buffer_bits,
    )


def _groups(config: SchConfig) -> list[tuple[int, slice, slice]]:
    """(E, code blocks, coded bits) of each run of code blocks of one length."""
    groups = []
    block = bit = 0
    for e_bits, run in groupby(config.block_lengths):
        n = len(list(run))
        groups.append((e_bits, slice(block, block + n), slice(bit, bit + n * e_bits)))
        block, bit = block + n, bit + n * e_bits
    return groups
