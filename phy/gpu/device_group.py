"""Cell groups on a real GPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from phy.gpu.cell_group import Alarm, CellGroup, GroupOptions
from phy.gpu.faults import gpu_faults
from phy.gpu.pipeline import DevicePipeline, Pipeline, Tables
from phy.gpu.uplink import UplinkLimits, UplinkTables, uplink_program
from phy.gpu.worker_pipeline import WorkerPipeline


def open_cell_group(
    limits: UplinkLimits,
    *,
    n_sms: int | None = None,
    options: GroupOptions | None = None,
    on_alarm: Callable[[Alarm], None] | None = None,
    is_isolated: bool = True,
) -> CellGroup:
    """Returns a cell group on the present GPU, ready to receive.

    Args:
        limits: the most that a slot may hold.
        n_sms: multiprocessors that it may use, rounded up to what the GPU can split off; None: all.
        options: how it runs.
        on_alarm: called with every alarm, between slots.
        is_isolated: the GPU is used by a process of its own, which is started anew after a fault;
            otherwise by this one, for which a sticky error is the end.

    Raises:
        GpuUnavailableError: no CuPy, no driver or no GPU.
        InvalidInputError: the GPU has fewer multiprocessors.
        GpuFaultError: not enough memory, or the GPU fails.
    """
    program = uplink_program(limits)
    write_idle = partial(write_idle_slot, limits)

    def in_worker() -> Pipeline:
        return WorkerPipeline(program, n_sms, write_idle)

    def in_process() -> Pipeline:
        from phy.gpu.partition import take_part

        with gpu_faults("multiprocessors were being set aside"):
            part = take_part(n_sms)
        return DevicePipeline(program, part, write_idle)

    make = in_worker if is_isolated else in_process
    return CellGroup(limits, make, options, on_alarm=on_alarm)


def write_idle_slot(limits: UplinkLimits, inputs: Tables) -> None:
    """Writes the tables of a slot without any UE."""
    UplinkTables(limits).fill(inputs, [], slot_number=0)
