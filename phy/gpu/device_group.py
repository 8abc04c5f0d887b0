"""Cell groups on a real GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from phy.gpu.cell_group import CellGroup
from phy.gpu.downlink import DownlinkLimits, DownlinkTables, downlink_program
from phy.gpu.downlink_group import DownlinkGroup, DownlinkOptions
from phy.gpu.faults import gpu_faults
from phy.gpu.outcome import Alarm
from phy.gpu.pipeline import DevicePipeline, Pipeline, Tables
from phy.gpu.uplink import UplinkLimits, UplinkTables, uplink_program
from phy.gpu.uplink_group import UplinkGroup
from phy.gpu.uplink_options import UplinkOptions
from phy.gpu.worker import LaneOrder
from phy.gpu.worker_pool import GpuWorker, Place
from phy.runtime.timing import SlotTiming


@dataclass(frozen=True)
class GroupOptions:
    """How a cell group runs.

    Attributes:
        gears_sms: multiprocessors that it may use in each gear, rounded up to what the GPU can
            split off; None: all. It begins in the first.
        is_isolated: the GPU is used by a process of its own, which is started anew after a fault;
            otherwise by this one, for which a sticky error is the end.
        has_standby: another process, with the GPU set up, takes over at once when that one ends. It
            takes as much memory. A fault of the GPU that ends every process ends it too.
        places: where these processes are started; one stands by in each.
        uplink, downlink: of the halves.
        timing: slots and the TDD pattern.
    """

    gears_sms: tuple[int | None, ...] = (None,)
    is_isolated: bool = True
    has_standby: bool = False
    places: tuple[Place, ...] = (Place(),)
    uplink: UplinkOptions | None = None
    downlink: DownlinkOptions | None = None
    timing: SlotTiming | None = None


def open_cell_group(
    uplink: UplinkLimits,
    downlink: DownlinkLimits | None = None,
    options: GroupOptions | None = None,
    on_alarm: Callable[[Alarm], None] | None = None,
) -> CellGroup:
    """Returns a cell group on the present GPU, ready for slots.

    Args:
        uplink: the most that a received slot may hold.
        downlink: the most that a sent slot may hold; None: the group only receives.
        options: how it runs.
        on_alarm: called with every alarm, between slots.

    Raises:
        GpuFaultError: no CuPy, no driver or no GPU, fewer multiprocessors than asked for, not
            enough memory, or the GPU fails.
        GpuUnavailableError, InvalidInputError: the first two, if it is not isolated.
    """
    options = options or GroupOptions()
    lanes = [LaneOrder(uplink_program(uplink), partial(write_idle_uplink, uplink), lower=1)]
    if downlink is not None:
        write_idle = partial(write_idle_downlink, downlink)
        lanes.append(LaneOrder(downlink_program(downlink), write_idle))
    worker: GpuWorker | None = None
    if options.is_isolated:
        worker = GpuWorker(
            lanes,
            options.gears_sms,
            has_standby=options.has_standby,
            places=options.places,
        )
        make: Callable[[int], Pipeline] = worker.pipeline
    else:
        make = _here(lanes, options.gears_sms)
    close = worker.close if worker is not None else lambda: None
    with ExitStack() as stack:
        stack.callback(close)
        receiving = UplinkGroup(uplink, partial(make, 0), options.uplink, on_alarm=on_alarm)
        stack.callback(receiving.close)
        sending: DownlinkGroup | None = None
        if downlink is not None:
            sending = DownlinkGroup(downlink, partial(make, 1), options.downlink, on_alarm=on_alarm)
        stack.pop_all()
    return CellGroup(receiving, sending, options.timing, close, worker)


def write_idle_uplink(limits: UplinkLimits, inputs: Tables) -> None:
    """Writes the tables of a slot in which nothing is received."""
    UplinkTables(limits).fill(inputs, [], slot_number=0)


def write_idle_downlink(limits: DownlinkLimits, inputs: Tables) -> None:
    """Writes the tables of a slot in which nothing is sent."""
    DownlinkTables(limits).fill(inputs, [], [], slot_number=0)


def _here(lanes: Sequence[LaneOrder], gears_sms: Sequence[int | None]) -> Callable[[int], Pipeline]:
    from phy.gpu.module import require_cupy

    require_cupy()
    from phy.gpu.partition import take_part

    with gpu_faults("multiprocessors were being set aside"):
        parts = [take_part(n_sms) for n_sms in gears_sms]

    def make(lane: int) -> Pipeline:
        order = lanes[lane]
        return DevicePipeline(order.program, parts, order.write_idle, lower=order.lower)

    return make
