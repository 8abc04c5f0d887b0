"""OFDM on the GPU: received samples to the grids that the front end reads, and grids to samples.

Cost for 20 cells of 273 PRB and 4 antennas with float16 samples: 1,120 FFTs of 4,096.

    gather      reads 18.4 MB, writes 36.7 MB
    FFT         reads 36.7 MB, writes 36.7 MB; 5 N log2 N: 275 MFLOP, 4 us at 67 TFLOP/s
    scatter     reads 29.4 MB, writes 14.7 MB

That is 172.6 MB, 58 us at 3.0 TB/s if all of it went through memory. Only the samples and the grids
have to: 33.1 MB, 11 us, the floor. Cells are therefore taken in passes so small that what lies
between the kernels stays in the L2 cache (50 MB). Measured on an H100: 71 us in passes of 5 cells,
57 of 10, 62 of 20 (`python -m phy.gpu.bench_ofdm`): fewer launches are worth more than the cache.
The floor itself takes an FFT that loads and stores by itself. The modulator
moves the same bytes the other way: 14.7 and 36.7, 36.7 and 36.7, 39.3 and 19.7 MB.

cuFFT runs in complex64 in place. A plan's work area is set aside when it is made, and it runs on
CuPy's current stream: launches allocate nothing, wait for nothing and can be captured. An object
has one work area, so its launches must follow each other.

Spec: TS 38.211 5.3.1, 5.4
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import numpy.typing as npt

from airan.core.errors import InvalidInputError
from phy.array import Array
from phy.checks import check_integer
from phy.gpu.module import GpuUnavailableError, function, require_cupy
from phy.gpu.ofdm_batch import OfdmBatch
from phy.ofdm import N_SYMBOLS

_THREADS = 256
_PER_THREAD = 4
# What passes between the kernels in one pass, next to samples and grids in 50 MB of L2 cache.
_BYTES_OF_PASS = 20_000_000

STAGES = ("before", "fft", "after")
"""The kernel before the FFT, the FFT, and the kernel behind it."""


class _SlotFft:
    """FFTs of a slot's symbols, some cells at a time, between two kernels."""

    def __init__(
        self,
        batch: OfdmBatch,
        cells_per_pass: int | None,
        turns: npt.NDArray[np.complex64],
    ) -> None:
        cupy = require_cupy()
        self.batch = batch
        n_cells = len(batch.configs)
        rows_bytes = batch.n_antennas * N_SYMBOLS * batch.fft_size * 8
        if cells_per_pass is None:
            n_passes = -(-n_cells // max(1, _BYTES_OF_PASS // rows_bytes))
            cells_per_pass = -(-n_cells // n_passes)
        check_integer("cells_per_pass", cells_per_pass, 1, n_cells)
        firsts = range(0, n_cells, cells_per_pass)
        self.passes = [slice(i, min(i + cells_per_pass, n_cells)) for i in firsts]
        n_most = cells_per_pass * batch.n_antennas * N_SYMBOLS
        self._between = cupy.zeros((n_most, batch.fft_size), cupy.complex64)
        self._plans = {n: self._plan(n) for n in {each.stop - each.start for each in self.passes}}
        self._starts = cupy.asarray(batch.starts())
        self._turns = cupy.asarray(turns)
        cupy.cuda.get_current_stream().synchronize()

    def _plan(self, n_cells: int) -> Any:
        try:
            from cupy.cuda import cufft
        except ImportError as error:
            raise GpuUnavailableError(f"cuFFT cannot be loaded: {error}") from error
        n_ffts = n_cells * self.batch.n_antennas * N_SYMBOLS
        plan = cufft.Plan1d(self.batch.fft_size, cufft.CUFFT_C2C, n_ffts)
        for direction in (cufft.CUFFT_FORWARD, cufft.CUFFT_INVERSE):
            # cuFFT loads its kernels when they first run, which a capture may not see.
            plan.fft(self._between, self._between, direction)
        return plan

    def _launch(
        self,
        stages: Collection[str] | None,
        stream: Any,
        direction: int,
        before: Callable[[slice], None],
        after: Callable[[slice], None],
    ) -> None:
        wanted = STAGES if stages is None else stages
        with stream:
            for cells in self.passes:
                if "before" in wanted:
                    before(cells)
                if "fft" in wanted:
                    plan = self._plans[cells.stop - cells.start]
                    plan.fft(self._between, self._between, direction)
                if "after" in wanted:
                    after(cells)

    def _call(self, kernel: Any, cells: slice, n_places: int, *arguments: Any) -> None:
        n_rows = (cells.stop - cells.start) * self.batch.n_antennas
        n_blocks = -(-n_places // (_THREADS * _PER_THREAD))
        packed = [np.int32(each) if isinstance(each, int) else each for each in arguments]
        kernel((n_blocks, N_SYMBOLS, n_rows), (_THREADS,), tuple(packed))

    def _rows(self, samples: Array, cells: slice) -> Array:
        """The rows of some cells."""
        n_antennas = self.batch.n_antennas
        return samples[cells.start * n_antennas : cells.stop * n_antennas]

    def _check(self, samples: Array, slot: Array, grid: Array) -> None:
        batch = self.batch
        for field, array, shape, dtype in (
            ("samples", samples, batch.samples_shape, batch.samples_dtype),
            ("slot", slot, (1,), np.int32),
            ("grid", grid, batch.grid_shape, np.float16),
        ):
            is_right = array.shape == shape and array.dtype == dtype and array.flags.c_contiguous
            if not is_right:
                raise InvalidInputError(
                    field,
                    f"must be a contiguous {np.dtype(dtype)}{list(shape)}, "
                    f"got {array.dtype}{list(array.shape)}",
                )


class SlotDemodulator(_SlotFft):
    """Turns one slot's samples of many cells into grids; see `phy.ofdm.OfdmDemodulator`."""

    def __init__(self, batch: OfdmBatch, cells_per_pass: int | None = None) -> None:
        """Compiles, plans and allocates; with None, a pass is as large as the L2 cache likes it.

        Raises:
            InvalidInputError: cells_per_pass is not in [1, cells].
            GpuUnavailableError: no CuPy, no cuFFT or no GPU.
        """
        super().__init__(batch, cells_per_pass, batch.receive_turns())
        self._gather = function("ofdm", "gather_half" if batch.is_half else "gather_float")
        self._scatter = function("ofdm", "scatter_grid")

    def launch(
        self,
        samples: Array,
        slot: Array,
        grid: Array,
        stream: Any,
        stages: Collection[str] | None = None,
    ) -> None:
        """Queues the demodulation, or only some of `STAGES`; can be captured in a CUDA graph.

        Args:
            samples: float16[row, samples, 2] or complex64[row, samples], as the batch says; each
                row begins with the slot's first cyclic prefix.
            slot: int32[1], number of the slot in its frame; read when the kernels run.
            grid: float16[cell, rx, 14, subcarrier, 2] to fill.
            stream: CuPy stream.

        Raises:
            InvalidInputError: an array of another shape or dtype.
        """
        from cupy.cuda import cufft

        self._check(samples, slot, grid)
        batch, between = self.batch, self._between

        def before(cells: slice) -> None:
            tables = (self._rows(samples, cells), slot, self._starts, between)
            sizes = (batch.fft_size, batch.row_samples, batch.n_slots, batch.window_offset_samples)
            self._call(self._gather, cells, batch.fft_size, *tables, *sizes)

        def after(cells: slice) -> None:
            tables = (between, slot, self._turns[cells], grid[cells])
            sizes = (batch.fft_size, batch.n_subcarriers, batch.n_slots, batch.n_antennas)
            self._call(self._scatter, cells, batch.n_subcarriers, *tables, *sizes)

        self._launch(stages, stream, cufft.CUFFT_FORWARD, before, after)


class SlotModulator(_SlotFft):
    """Turns one slot's grids of many cells into samples; see `phy.ofdm.OfdmModulator`."""

    def __init__(self, batch: OfdmBatch, cells_per_pass: int | None = None) -> None:
        """Compiles, plans and allocates; with None, a pass is as large as the L2 cache likes it.

        Raises:
            InvalidInputError: cells_per_pass is not in [1, cells].
            GpuUnavailableError: no CuPy, no cuFFT or no GPU.
        """
        super().__init__(batch, cells_per_pass, batch.transmit_turns())
        self._spread = function("ofdm", "spread_grid")
        self._join = function("ofdm", "join_half" if batch.is_half else "join_float")

    def launch(
        self,
        grid: Array,
        slot: Array,
        samples: Array,
        stream: Any,
        stages: Collection[str] | None = None,
    ) -> None:
        """Queues the modulation, or only some of `STAGES`; can be captured in a CUDA graph.

        Args:
            grid: float16[cell, port, 14, subcarrier, 2].
            slot: int32[1], number of the slot in its frame; read when the kernels run.
            samples: float16[row, samples, 2] or complex64[row, samples] to fill, as the batch says;
                what a shorter slot leaves of a row stays as it is.
            stream: CuPy stream.

        Raises:
            InvalidInputError: an array of another shape or dtype.
        """
        from cupy.cuda import cufft

        self._check(samples, slot, grid)
        batch, between = self.batch, self._between

        def before(cells: slice) -> None:
            tables = (grid[cells], slot, self._turns[cells], between)
            sizes = (batch.fft_size, batch.n_subcarriers, batch.n_slots, batch.n_antennas)
            self._call(self._spread, cells, batch.fft_size, *tables, *sizes)

        def after(cells: slice) -> None:
            tables = (between, slot, self._starts, self._rows(samples, cells))
            sizes = (batch.fft_size, batch.row_samples, batch.n_slots)
            self._call(self._join, cells, batch.longest_symbol, *tables, *sizes)

        self._launch(stages, stream, cufft.CUFFT_INVERSE, before, after)
