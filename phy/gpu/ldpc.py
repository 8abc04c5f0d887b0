"""LDPC decoding on the GPU: launches phy/kernels/ldpc_decode.cu.

LLRs are whole numbers in a byte. Min-sum cares for nothing but their ratios, so any scale does that
leaves a mean magnitude of 20 to 32 (24 loses 0.03 dB against floating point); all transmissions of
one HARQ process must use the same.

Cost on an H100 for graph 1, Z = 384, rate 0.8 (8 rows, 99 edges without the rows' own bits, two
code blocks a thread), read off the machine code: an iteration is 1,303 instructions, 13 an edge.
653 of them go to the unit for integers and comparisons, which takes two clocks a warp, 202 to
shared memory, 448 to the multipliers. 384 threads are 12 warps, three for each of a
multiprocessor's four schedulers: 3,920 clocks an iteration, of which shared memory needs 2,420.
With 1,500 for loading LLRs and writing bits, ten iterations take 41,000 clocks; at 1.755 GHz and
132 multiprocessors that is 11 million code blocks a second, 96 Gb/s of information: the floor.
Device memory (11 kB of LLRs and 1 kB of bits a code block) sees 140 GB/s of 3,000. Above the floor
keep it: waiting at the end of every row, and three warps that cannot always hide the latency of
shared memory (30 clocks) and of the chain of minima (6 clocks an edge); expected,
60 to 75 Gb/s; measured, 58 to 61.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from airan.core.errors import InvalidInputError
from phy.array import Array
from phy.checks import check_integer, check_range
from phy.gpu.ldpc_layout import LdpcLayout, ldpc_layout
from phy.gpu.module import function, launch


def decoder_control(
    n_blocks: int, n_iterations: int, normalisation: float, *, early_stop: bool
) -> npt.NDArray[np.int32]:
    """Returns what a decoding launch reads on the device: int32[4].

    Args:
        n_blocks: code blocks to decode, the first ones of the arrays.
        n_iterations: most iterations.
        normalisation: factor on the check-node minimum, (0, 1].
        early_stop: stop a block as soon as its checks hold.

    Raises:
        InvalidInputError: a number out of range.
    """
    check_integer("n_blocks", n_blocks, 0, 2**24)
    check_integer("n_iterations", n_iterations, 1, 1000)
    check_range("normalisation", normalisation, 1 / 32, 1.0)
    norm = int(np.float16(normalisation).view(np.uint16))
    return np.array([n_blocks, n_iterations, int(early_stop), norm], dtype=np.int32)


class LdpcDecoder:
    """The decoder of code blocks of one base graph, lifting size and number of rows in use."""

    def __init__(
        self,
        base_graph: int,
        lifting_size: int,
        n_rows: int,
        *,
        layout: LdpcLayout | None = None,
    ) -> None:
        """Compiles the kernel.

        Args:
            base_graph: 1 or 2.
            lifting_size: Z.
            n_rows: base-graph rows to use, from 4 on: those up to the last received parity bit.
            layout: of the kernel; None: the one thought best.

        Raises:
            InvalidInputError: no such graph, lifting size or number of rows.
            GpuUnavailableError: no CuPy or no GPU.
        """
        self.layout = layout or ldpc_layout(base_graph, lifting_size, n_rows)
        shared_bytes = self.layout.shared_bytes
        self._kernel = function("ldpc_decode", "ldpc_decode", self.layout.prelude(), shared_bytes)

    def launch(
        self,
        llr: Array,
        llr_at: Array,
        control: Array,
        bits: Array,
        parity_ok: Array,
        iterations: Array,
        stream: Any = None,
    ) -> None:
        """Queues the decoding of up to `llr_at.shape[0]` code blocks.

        Args:
            llr: int8[...], positive means bit 0, 0 for what was not received.
            llr_at: int32[cb], where the N LLRs of every code block begin, in units of 16.
            control: int32[4] on the device, see `decoder_control`.
            bits: uint32[cb, ceil(K / 32)] to fill, the first bit in the highest place.
            parity_ok: uint8[cb] to fill, 1 where every check of the rows in use holds.
            iterations: int32[cb] to fill, iterations run.
            stream: CUDA stream; None: CuPy's current one.

        Raises:
            InvalidInputError: an array has the wrong shape.
        """
        layout = self.layout
        n_words = -(-layout.graph.n_info_bits // 32)
        n_blocks = llr_at.shape[0]
        shapes = {
            "control": (control, (4,)),
            "bits": (bits, (n_blocks, n_words)),
            "parity_ok": (parity_ok, (n_blocks,)),
            "iterations": (iterations, (n_blocks,)),
        }
        for field, (array, shape) in shapes.items():
            if array.shape != shape:
                raise InvalidInputError(field, f"must have shape {list(shape)}, got {array.shape}")
        launch(
            self._kernel,
            layout.n_thread_blocks(n_blocks),
            layout.n_threads,
            (llr, llr_at, control, bits, parity_ok, iterations),
            layout.shared_bytes,
            stream,
        )
