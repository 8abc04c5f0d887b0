"""Measures what the cost model of a GPU is fitted to: slots of many loads, on many partitions.

The kernels' time is that of CUDA graphs of random samples with the decoder's iterations fixed; what
the radio would have sent does not matter to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np

from phy.gpu import device_group
from phy.gpu.cost_features import SlotLoad
from phy.gpu.decode_limits import DecoderEffort
from phy.gpu.downlink import DownlinkTables, downlink_limits, downlink_program
from phy.gpu.downlink_layout import DownlinkUe, SendGrid
from phy.gpu.partition import SmPart, take_part
from phy.gpu.pipeline import DevicePipeline
from phy.gpu.transport import SoftBuffer
from phy.gpu.uplink import (
    CellGrid,
    UplinkJob,
    UplinkTables,
    UplinkUe,
    uplink_limits,
    uplink_program,
)
from phy.gpu.uplink_tuning import UplinkTuning
from phy.pdsch.config import PdschConfig
from phy.pusch.config import PuschConfig

_REPEATS = 15
_ALL_SMS = 132
_CARRIER_PRB = 273

_PEAK = SlotLoad("pusch", 20, 273, 4, 27, 1, 4, 3, _ALL_SMS)


def pusch_loads(n_sms: int = _ALL_SMS) -> list[SlotLoad]:
    """The loads that are measured on a GPU of `n_sms` multiprocessors."""
    peak = replace(_PEAK, n_sms=n_sms)
    loads = [replace(peak, n_cells=n, n_iterations=i) for n in (1, 4, 20, 40) for i in (2, 10)]
    loads += [replace(peak, n_cells=n) for n in (8, 12, 30)]
    loads += [replace(peak, n_iterations=i) for i in (1, 5, 7)]
    for n_cells in (4, 20, 40):
        loads += [
            replace(peak, n_cells=n_cells, n_prb=prb, n_layers=layers, mcs_index=mcs)
            for prb, layers, mcs in (
                (24, 1, 5), (24, 4, 16), (90, 2, 16), (90, 4, 27), (90, 1, 27),
                (180, 2, 5), (273, 1, 16), (273, 2, 27), (273, 4, 5), (273, 4, 16),
            )
        ]  # fmt: skip
    loads += [replace(peak, n_layers=2, n_rx=2), replace(peak, n_rx=8), replace(peak, n_rx=16)]
    loads += [replace(peak, n_cells=4, n_rx=8), replace(peak, n_cells=4, n_rx=16)]
    return loads


def partition_loads(n_sms_of: tuple[int, ...] = (16, 32, 48, 64, 92)) -> list[SlotLoad]:
    """The loads that are measured on parts of the GPU."""
    loads = []
    for n_sms in n_sms_of:
        peak = replace(_PEAK, n_sms=n_sms)
        loads += [replace(peak, n_cells=n) for n in (1, 4, 20)]
        loads += [replace(peak, n_iterations=10), replace(peak, n_cells=40, n_iterations=2)]
        loads += [replace(peak, n_prb=90, n_layers=2, mcs_index=16)]
        loads += [replace(peak, n_cells=4, n_prb=24, n_layers=1, mcs_index=5)]
    return loads


def pdsch_loads(n_sms: int = _ALL_SMS) -> list[SlotLoad]:
    """The downlink loads that are measured."""
    peak = SlotLoad("pdsch", 20, 273, 4, 27, 2, 0, 0, n_sms)
    loads = [replace(peak, n_cells=n) for n in (1, 4, 8, 20, 40)]
    for n_cells in (4, 20, 40):
        loads += [
            replace(peak, n_cells=n_cells, n_prb=prb, n_layers=layers, mcs_index=mcs)
            for prb, layers, mcs in (
                (24, 1, 5), (24, 4, 16), (90, 2, 16), (90, 4, 27), (180, 2, 5),
                (273, 1, 16), (273, 2, 27), (273, 4, 5), (273, 4, 16),
            )
        ]  # fmt: skip
    for part in (16, 32, 48, 64, 92):
        loads += [replace(peak, n_cells=n, n_sms=part) for n in (1, 4, 20)]
        loads.append(replace(peak, n_prb=90, n_layers=2, mcs_index=16, n_sms=part))
    return loads


def measure(loads: list[SlotLoad]) -> Iterator[tuple[SlotLoad, float]]:
    """Yields every load, with the multiprocessors it really had, and the median microseconds of its
    kernels.

    Raises:
        GpuUnavailableError: no CuPy or no GPU.
        GpuFaultError: the GPU fails.
    """
    for load in loads:
        part = take_part(None if load.n_sms == _ALL_SMS else load.n_sms)
        pipeline = loaded(load, part)
        times = []
        for _ in range(_REPEATS):
            pipeline.start(0)
            times.append(pipeline.wait(0).kernels_us)
        pipeline.close()
        yield replace(load, n_sms=part.n_sms), float(np.median(times[3:]))


def loaded(load: SlotLoad, part: SmPart) -> DevicePipeline:
    """Returns a pipeline whose first side holds a slot of this load."""
    return _received(load, part) if load.channel == "pusch" else _sent(load, part)


def _received(load: SlotLoad, part: SmPart) -> DevicePipeline:
    config = PuschConfig(
        n_prb=load.n_prb,
        carrier_n_prb=_CARRIER_PRB,
        n_layers=load.n_layers,
        n_rx=load.n_rx,
        mcs_index=load.mcs_index,
        mcs_table=load.mcs_table,
    )
    ues = [UplinkUe(cell, config) for cell in range(load.n_cells)]
    cells = [CellGrid(load.n_rx, _CARRIER_PRB)] * load.n_cells
    limits = uplink_limits(cells, [ues], n_soft_buffers=load.n_cells)
    idle = partial(device_group.write_idle_uplink, limits)
    pipeline = DevicePipeline(uplink_program(limits), [part], idle)
    samples = pipeline.inputs(0)["samples"]
    one = np.random.default_rng(1).standard_normal((2**20, 2)).astype(np.float16)
    for start in range(0, len(samples), len(one)):
        samples[start : start + len(one)] = one[: len(samples) - start]
    tuning = UplinkTuning(limits.front_end.n_filter_sets)
    units = limits.decode.soft_buffer_units
    jobs = [UplinkJob(ue, tuning.record(ue), SoftBuffer(n * units)) for n, ue in enumerate(ues)]
    for update in tuning.take_updates():
        pipeline.write("taps", update.first_row, update.taps)
    effort = DecoderEffort(load.n_iterations, early_stop=False)
    UplinkTables(limits).fill(pipeline.inputs(0), jobs, 0, effort)
    return pipeline


def _sent(load: SlotLoad, part: SmPart) -> DevicePipeline:
    config = PdschConfig(
        n_prb=load.n_prb,
        carrier_n_prb=_CARRIER_PRB,
        n_layers=load.n_layers,
        mcs_index=load.mcs_index,
        mcs_table=load.mcs_table,
    )
    ues = [DownlinkUe(cell, config) for cell in range(load.n_cells)]
    cells = [SendGrid(4, _CARRIER_PRB)] * load.n_cells
    limits = downlink_limits(cells, [ues], is_copied_out=False)
    idle = partial(device_group.write_idle_downlink, limits)
    pipeline = DevicePipeline(downlink_program(limits), [part], idle)
    rng = np.random.default_rng(1)
    tbs = [rng.integers(0, 256, ue.tb.n_bytes, dtype=np.uint8) for ue in ues]
    DownlinkTables(limits).fill(pipeline.inputs(0), ues, tbs, 0)
    return pipeline
