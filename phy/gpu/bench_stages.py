"""How long each stage of a slot takes alone: `python -m phy.gpu.bench_stages [cells]`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from phy.gpu import bench_cost
from phy.gpu.bench_slots import PEAK_PDSCH, PEAK_PUSCH
from phy.gpu.cost_features import SlotLoad
from phy.gpu.module import require_cupy
from phy.gpu.partition import take_part

_REPEATS = 20


def time_stages(n_cells: int) -> Iterator[dict[str, Any]]:
    """Yields channel, stage and median us of every stage of a peak slot, and of all together.

    Raises:
        GpuUnavailableError: no CuPy or no GPU.
    """
    part = take_part(None)
    up, down = PEAK_PUSCH, PEAK_PDSCH
    sizes = (n_cells, up.n_prb, up.n_layers, up.mcs_index)
    loads = (
        SlotLoad("pusch", *sizes, up.mcs_table, up.n_rx, 2, part.n_sms),
        SlotLoad("pdsch", *sizes, down.mcs_table, 0, 0, part.n_sms),
    )
    for load in loads:
        pipeline = bench_cost.loaded(load, part)
        pipeline.start(0)
        pipeline.wait(0)
        for stage in (
            None,
            *dict.fromkeys(each.stage for each in pipeline.device.program.launches),
        ):
            yield {
                "channel": load.channel,
                "cells": n_cells,
                "stage": stage or "all",
                "us": _median_us(pipeline.device, stage),
            }
        pipeline.close()


def _median_us(device: Any, stage: str | None) -> float:
    cupy = require_cupy()
    stream = cupy.cuda.Stream(non_blocking=True)
    graph = device.capture(stream, 0, None if stage is None else (stage,))
    times = []
    for _ in range(_REPEATS):
        first, last = cupy.cuda.Event(), cupy.cuda.Event()
        first.record(stream)
        graph.launch(stream)
        last.record(stream)
        last.synchronize()
        times.append(1e3 * cupy.cuda.get_elapsed_time(first, last))
    return float(np.median(times[3:]))


def main() -> None:
    """Prints the stages."""
    for row in time_stages(int(sys.argv[1]) if len(sys.argv) > 1 else 20):
        print(f"{row['channel']}  {row['cells']:3d} cells  {row['stage']:10s} {row['us']:8.1f} us")


if __name__ == "__main__":
    main()
