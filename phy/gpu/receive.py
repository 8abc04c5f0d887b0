"""Rate recovery before the LDPC decoder and CRC checks behind it, on the GPU.

Cost of both for 20 cells of 273 PRB, 4 layers, 64QAM, MCS 27 (19 million LLRs, 2,240 code blocks):

- rate_recover reads 19 MB and writes 24 MB: 14 us at 3 TB/s. About 25 instructions a place, 24
  million places: 19 million warp instructions, 25 us at 60 % of the issue rate.
- check_and_join reads 2.4 MB and writes 2.1 MB, from and to the L2 cache. A warp needs about 10
  instructions a word (16 bytes of tables a bit from the L1 cache): 5.9 million, 8 us.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from phy.array import Array
from phy.gpu.module import function, launch, require_cupy
from phy.gpu.transport import ReceptionPlan, powers

RECOVER_THREADS = 256
JOIN_THREADS = 128
# Longer code blocks are read from where they lie.
_MOST_STAGED_BYTES = 96 * 1024


def stage_bytes(longest_e_bits: int) -> int:
    """Shared memory for the LLRs of a code block of at most so many; 0: they are too many."""
    wanted = -(-(longest_e_bits + 32) // 16) * 16
    return wanted if wanted <= _MOST_STAGED_BYTES else 0


class DeviceTables(NamedTuple):
    """A plan's tables on the device.

    Attributes:
        receptions: int32[tb, 24].
        tb_of_block: int32[cb].
        llr_at: int32[cb].
        tb_weight: uint32[cb].
        n_blocks: int32[1], code blocks in use, the first ones.
    """

    receptions: Array
    tb_of_block: Array
    llr_at: Array
    tb_weight: Array
    n_blocks: Array


def to_device(plan: ReceptionPlan) -> DeviceTables:
    """Copies a plan's tables to the present device.

    Raises:
        GpuUnavailableError: no CuPy or no GPU.
    """
    cupy = require_cupy()
    return DeviceTables(
        cupy.asarray(plan.table),
        cupy.asarray(plan.blocks.tb_of_block),
        cupy.asarray(plan.blocks.llr_at),
        cupy.asarray(plan.blocks.tb_weight),
        cupy.asarray([plan.n_blocks], dtype=cupy.int32),
    )


class RateRecovery:
    """Bit deinterleaving, the circular buffer and HARQ combining of many transport blocks."""

    def __init__(self, longest_e_bits: int) -> None:
        """Compiles the kernel; `longest_e_bits` is the most LLRs one code block can have.

        Raises:
            GpuUnavailableError: no CuPy or no GPU.
        """
        self._stage_bytes = stage_bytes(longest_e_bits)
        self._kernel = function("rate_recover", "rate_recover", shared_bytes=_MOST_STAGED_BYTES)

    def launch(self, llr: Array, tables: DeviceTables, soft: Array, stream: Any = None) -> None:
        """Queues rate recovery.

        Args:
            llr: int8[n], n a multiple of 16, in the order of transmission, descrambled.
            tables: of the transport blocks.
            soft: int8[...], the pool of soft buffers, to add to.
            stream: CUDA stream; None: CuPy's current one.
        """
        n_blocks = tables.tb_of_block.shape[0]
        arguments = (llr, tables.receptions, tables.tb_of_block, tables.n_blocks, soft)
        launch(
            self._kernel,
            n_blocks,
            RECOVER_THREADS,
            (*arguments, _int32(self._stage_bytes)),
            self._stage_bytes,
            stream,
        )


class CrcCheck:
    """The CRC checks of decoded blocks, and their joining to transport blocks."""

    def __init__(self, n_tb: int) -> None:
        """Compiles the kernel for up to `n_tb` transport blocks a launch.

        Raises:
            GpuUnavailableError: no CuPy or no GPU.
        """
        cupy = require_cupy()
        self._kernel = function("crc", "check_and_join")
        self._powers = cupy.asarray(powers())
        self._verdicts = cupy.zeros((n_tb, 4), dtype=cupy.uint32)

    def launch(
        self,
        bits: Array,
        parity_ok: Array,
        tables: DeviceTables,
        tb_bytes: Array,
        block_ok: Array,
        crc_ok: Array,
        stream: Any = None,
    ) -> None:
        """Queues the checks.

        Args:
            bits: uint32[words], the decoded bits of all code blocks.
            parity_ok: uint8[cb], from the decoder.
            tables: of the transport blocks.
            tb_bytes: uint8[...] to fill with the transport blocks, the first bit highest.
            block_ok: uint8[cb] to fill, the code block's own CRC holds.
            crc_ok: uint8[tb] to fill, all CRCs hold and no code block is mere silence.
            stream: CUDA stream; None: CuPy's current one.
        """
        arguments = (
            *(bits, parity_ok, tables.receptions, tables.tb_of_block, tables.tb_weight),
            *(self._powers, tables.n_blocks, self._verdicts, tb_bytes, block_ok, crc_ok),
        )
        n_blocks = tables.tb_of_block.shape[0]
        launch(self._kernel, n_blocks, JOIN_THREADS, arguments, 0, stream)


def _int32(value: int) -> Any:
    return require_cupy().int32(value)
