"""Checks OFDM on the present GPU against its twin and times it.

python -m phy.gpu.bench_ofdm [--cells 1,8,20,40]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from phy.gpu import ofdm_twin as twin
from phy.gpu.module import require_cupy
from phy.gpu.ofdm import STAGES, SlotDemodulator, SlotModulator
from phy.gpu.ofdm_batch import OfdmBatch
from phy.ofdm import OfdmConfig

_CHECKED = (
    (OfdmBatch((OfdmConfig(30, 273, None, 3.5e9), OfdmConfig(30, 273, None, 3.6e9)), 4, 144), 2),
    (OfdmBatch((OfdmConfig(30, 273),) * 3, 2, is_half=False), 2),
    (OfdmBatch((OfdmConfig(15, 106, None, 2.1e9),), 1, 9), 1),
    (OfdmBatch((OfdmConfig(60, 51, 1536, 4e9),) * 2, 3, 108), 1),
    (OfdmBatch((OfdmConfig(120, 11, 256, 28e9),) * 5, 2, is_half=False), 2),
)
_SLOTS = (0, 1, 6, 7)
# Two units of the last place of binary16, and as much of an average sample.
_RELATIVE, _ABSOLUTE = 2e-3, 1e-3


def check(seed: int = 1) -> list[str]:
    """Compares both directions with their twins, captured once and replayed for several slots.

    Returns:
        A line for each batch and slot that differs by more than rounding; empty if none does.

    Raises:
        GpuUnavailableError: no CuPy, no cuFFT or no GPU.
    """
    rng = np.random.default_rng(seed)
    wrong = []
    for batch, cells_per_pass in _CHECKED:
        run = _Captured(batch, cells_per_pass)
        for slot in (each for each in _SLOTS if each < 10 * batch.n_slots):
            samples = _random(rng, batch.samples_shape, batch.samples_dtype)
            grid = _random(rng, batch.grid_shape, np.float16)
            sent = np.zeros(batch.samples_shape, batch.samples_dtype)
            twin.modulate(batch, grid, slot, sent)
            found_grid, found_samples = run(samples, grid, slot)
            expected_grid = twin.demodulate(batch, samples, slot)
            for direction, found, expected in (
                ("received", found_grid, expected_grid),
                ("sent", found_samples, sent),
            ):
                if not np.allclose(found, expected, _RELATIVE, _ABSOLUTE):
                    worst = np.abs(found - expected).max()
                    wrong.append(f"{batch.configs[0]}, slot {slot}: {direction}, off by {worst}")
    return wrong


def time_ofdm(n_cells: int, n_antennas: int = 4, n_repeats: int = 50) -> list[dict[str, Any]]:
    """Times slots of 273 PRB at 30 kHz with float16 samples, replayed as CUDA graphs.

    Returns:
        For each direction and number of cells in a pass: "direction", "cells", "cells_per_pass",
        and in microseconds the medians "total" (one graph of all) and of each of `STAGES` alone.

    Raises:
        GpuUnavailableError: no CuPy, no cuFFT or no GPU.
    """
    batch = OfdmBatch((OfdmConfig(30, 273, carrier_frequency_hz=3.5e9),) * n_cells, n_antennas)
    rows: list[dict[str, Any]] = []
    chosen = len(SlotDemodulator(batch).passes)
    most = {-(-n_cells // n_passes) for n_passes in (1, 2, chosen, 2 * chosen)}
    for cells_per_pass in sorted(most):
        run = _Captured(batch, cells_per_pass)
        for direction, launch in (("receive", run.receive), ("send", run.send)):
            row = {"direction": direction, "cells": n_cells, "cells_per_pass": cells_per_pass}
            row["total"] = run.median_us(launch, None, n_repeats)
            for stage in STAGES:
                row[stage] = run.median_us(launch, (stage,), n_repeats)
            rows.append(row)
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The times as text, in microseconds."""
    lines = ["".join(f"{column:>16}" for column in rows[0])]
    for row in rows:
        values = (f"{each:.1f}" if isinstance(each, float) else str(each) for each in row.values())
        lines.append("".join(f"{value:>16}" for value in values))
    return "\n".join(lines)


class _Captured:
    """Both directions of a batch, with arrays of their own."""

    def __init__(self, batch: OfdmBatch, cells_per_pass: int) -> None:
        cupy = require_cupy()
        self._cupy = cupy
        self._demodulator = SlotDemodulator(batch, cells_per_pass)
        self._modulator = SlotModulator(batch, cells_per_pass)
        self._heard = cupy.zeros(batch.samples_shape, batch.samples_dtype)
        self._grid = cupy.zeros(batch.grid_shape, cupy.float16)
        self._given = cupy.zeros(batch.grid_shape, cupy.float16)
        self._sent = cupy.zeros(batch.samples_shape, batch.samples_dtype)
        self._slot = cupy.zeros(1, cupy.int32)
        cupy.cuda.Device().synchronize()
        self._stream = cupy.cuda.Stream(non_blocking=True)
        self._graphs = [self._captured(launch, None) for launch in (self.receive, self.send)]

    def receive(self, stages: Sequence[str] | None) -> None:
        """Queues samples to grids."""
        self._demodulator.launch(self._heard, self._slot, self._grid, self._stream, stages)

    def send(self, stages: Sequence[str] | None) -> None:
        """Queues grids to samples."""
        self._modulator.launch(self._given, self._slot, self._sent, self._stream, stages)

    def __call__(
        self, samples: npt.NDArray[Any], grid: npt.NDArray[Any], slot: int
    ) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Returns the grids of `samples` and the samples of `grid`."""
        self._heard.set(samples)
        self._given.set(grid)
        self._sent.fill(0)
        self._slot.fill(slot)
        self._cupy.cuda.Device().synchronize()
        for graph in self._graphs:
            graph.launch(self._stream)
        self._stream.synchronize()
        return self._grid.get(), self._sent.get()

    def median_us(
        self,
        launch: Callable[[Sequence[str] | None], None],
        stages: Sequence[str] | None,
        n_repeats: int,
    ) -> float:
        """Returns the median time of a graph of `launch`."""
        graph = self._captured(launch, stages)
        times = []
        for repeat in range(n_repeats + 5):
            start, end = self._cupy.cuda.Event(), self._cupy.cuda.Event()
            start.record(self._stream)
            graph.launch(self._stream)
            end.record(self._stream)
            end.synchronize()
            if repeat >= 5:
                times.append(1e3 * self._cupy.cuda.get_elapsed_time(start, end))
        return float(np.median(times))

    def _captured(
        self, launch: Callable[[Sequence[str] | None], None], stages: Sequence[str] | None
    ) -> Any:
        self._stream.begin_capture()
        try:
            launch(stages)
        finally:
            graph = self._stream.end_capture()
        graph.upload(self._stream)
        return graph


def _random(
    rng: np.random.Generator, shape: tuple[int, ...], dtype: npt.DTypeLike
) -> npt.NDArray[Any]:
    values = rng.standard_normal(shape, np.float32).astype(dtype)
    if values.dtype == np.complex64:
        values.imag = rng.standard_normal(shape, np.float32)
    return values


def main() -> None:
    """Prints what differs, then the times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", default="1,8,20,40")
    arguments = parser.parse_args()
    wrong = check()
    print("OFDM:", "agrees with its twin" if not wrong else "")
    print("".join(f"  {line}\n" for line in wrong), end="")
    counts = [int(each) for each in arguments.cells.split(",")]
    print(table([row for n_cells in counts for row in time_ofdm(n_cells)]))


if __name__ == "__main__":
    main()
