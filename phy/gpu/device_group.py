"""Cell groups on a real GPU, and how the process gets a working GPU back after a fault."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cuda.bindings import runtime

from phy.gpu import module, uplink
from phy.gpu.cell_group import Alarm, CellGroup, GroupOptions
from phy.gpu.faults import gpu_faults
from phy.gpu.module import require_cupy
from phy.gpu.partition import take_part
from phy.gpu.pipeline import DevicePipeline
from phy.gpu.uplink import UplinkLimits, uplink_program

# What belonged to a GPU that was reset. Its destructors would free handles and memory that mean
# something else by now, so it is kept for good.
_GRAVEYARD: list[Any] = []


def open_cell_group(
    limits: UplinkLimits,
    *,
    n_sms: int | None = None,
    options: GroupOptions | None = None,
    on_alarm: Callable[[Alarm], None] | None = None,
) -> CellGroup:
    """Returns a cell group on the present GPU.

    After a fault that leaves nothing working, the whole process's CUDA state is reset; nothing else
    in the process should use the GPU.

    Args:
        limits: the most that a slot may hold.
        n_sms: multiprocessors that it may use, rounded up to what the GPU can split off; None: all.
        options: how it runs.
        on_alarm: called with every alarm, between slots.

    Raises:
        GpuUnavailableError: no CuPy, no driver or no GPU.
        InvalidInputError: the GPU has fewer multiprocessors.
        GpuFaultError: not enough memory, or the GPU fails.
    """
    require_cupy()
    program = uplink_program(limits)
    made: list[Any] = []

    def make() -> DevicePipeline:
        with gpu_faults("multiprocessors were being set aside"):
            part = take_part(n_sms)
        made.append(part)
        pipeline = DevicePipeline(
            program, part, lambda inputs: uplink.fill(inputs, limits, [], slot_number=0)
        )
        made.append(pipeline)
        return pipeline

    def reset() -> None:
        reset_device(made)
        made.clear()

    return CellGroup(limits, make, options, on_alarm=on_alarm, reset_device=reset)


def reset_device(lost: list[Any]) -> None:
    """Resets the process's GPU after an error that leaves nothing working; `lost` is what belonged
    to it.

    Raises:
        GpuFaultError: the GPU does not come back.
    """
    cupy = require_cupy()
    _GRAVEYARD.append((list(lost), module.forget(), cupy.get_default_memory_pool()))
    with gpu_faults("it was being reset"):
        (status,) = runtime.cudaDeviceReset()
        if status != runtime.cudaError_t.cudaSuccess:
            raise cupy.cuda.runtime.CUDARuntimeError(int(status))
        cupy.clear_memo()
        pool = cupy.cuda.MemoryPool()
        _GRAVEYARD.append(pool)
        cupy.cuda.set_allocator(pool.malloc)
        cupy.cuda.Device().synchronize()
