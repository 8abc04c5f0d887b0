"""The process that runs pipelines on the GPU for another one: `python -m phy.gpu.worker FD`.

An error that leaves a CUDA context useless, or a crash, ends this process and nothing else. Inputs
and outputs lie in memory that both processes see. The connection is for what is rare.
"""

from __future__ import annotations

import contextlib
import gc
import mmap
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection

import numpy as np
import numpy.typing as npt

from airan.core.errors import AiranError
from phy.gpu.doorbell import Doorbell
from phy.gpu.faults import FaultKind, GpuFaultError, gpu_faults
from phy.gpu.host_memory import n_host_bytes
from phy.gpu.module import require_cupy
from phy.gpu.pipeline import N_SIDES, DevicePipeline, Pipeline, Tables
from phy.gpu.program import Program

_AWAKE_S = 0.02
_NAP_S = 0.0005
_NICENESS = -10


@dataclass(frozen=True)
class LaneOrder:
    """One pipeline that a worker is to run.

    Attributes:
        program: its program.
        write_idle: writes the inputs of a slot without any work.
        lower: steps below the highest priority: whose budget is longer can wait for the other.
    """

    program: Program
    write_idle: Callable[[Tables], object]
    lower: int = 0

    @property
    def n_bytes(self) -> int:
        """Shared memory that it takes: a doorbell, inputs and outputs."""
        return Doorbell.N_BYTES + n_host_bytes(self.program, N_SIDES)


@dataclass(frozen=True)
class Order:
    """What a worker is to run.

    Attributes:
        lanes: the pipelines, which share the multiprocessors.
        gears_sms: multiprocessors in each gear, None: all.
        memory_fd: file descriptor of the memory of all lanes, one after the other.
    """

    lanes: tuple[LaneOrder, ...]
    gears_sms: tuple[int | None, ...]
    memory_fd: int

    def memories(self) -> list[npt.NDArray[np.uint8]]:
        """Each lane's memory: uint8[n_bytes]."""
        sizes = [lane.n_bytes for lane in self.lanes]
        everything = np.frombuffer(mmap.mmap(self.memory_fd, sum(sizes)), np.uint8)
        return np.split(everything, np.cumsum(sizes)[:-1])


class _Lane:
    """A pipeline, its doorbell, and what is under way on it."""

    def __init__(self, doorbell: Doorbell, pipeline: Pipeline) -> None:
        self.doorbell = doorbell
        self.pipeline = pipeline
        self.n_started = 0
        self.under_way: deque[int] = deque()

    @property
    def is_called(self) -> bool:
        return self.n_started < self.doorbell.starts

    def start(self, side: int, gear: int) -> None:
        self.pipeline.shift(gear)
        self.pipeline.start(side)
        self.under_way.append(side)
        self.n_started += 1

    def finish_done(self) -> None:
        if self.under_way and self.pipeline.is_done(self.under_way[0]):
            elapsed = self.pipeline.wait(self.under_way.popleft())
            self.doorbell.finish(elapsed.kernels_us, elapsed.with_copies_us)


def main() -> None:
    """Serves until the other side closes the connection."""
    connection = Connection(int(sys.argv[1]))
    with contextlib.suppress(PermissionError):
        # Like the process that it works for: slots go before all else on this host.
        os.setpriority(os.PRIO_PROCESS, 0, _NICENESS)
    try:
        order: Order = connection.recv()
        lanes, gears_sms, n_bytes = _lanes(order)
        connection.send(("ready", gears_sms, n_bytes))
        # Whatever is collected at a wrong moment makes a slot late; slots leave no cycles behind.
        gc.collect()
        gc.freeze()
        gc.disable()
        _serve(connection, lanes)
    except GpuFaultError as fault:
        _report(connection, fault)
    except AiranError as error:
        _report(connection, GpuFaultError(FaultKind.LOST, str(error), "it was being set up"))
    except (EOFError, OSError):
        pass
    sys.stdout.flush()
    # A broken context must not be taken down in order: that can hang.
    os._exit(0)


def _lanes(order: Order) -> tuple[list[_Lane], list[int], list[tuple[int, int]]]:
    require_cupy()
    from phy.gpu.partition import take_part

    with gpu_faults("multiprocessors were being set aside"):
        parts = [take_part(n_sms) for n_sms in order.gears_sms]
    lanes, n_bytes = [], []
    for lane, memory in zip(order.lanes, order.memories(), strict=True):
        doorbell = Doorbell(memory[: Doorbell.N_BYTES])
        own = memory[Doorbell.N_BYTES :]
        pipeline = DevicePipeline(lane.program, parts, lane.write_idle, own, lane.lower)
        lanes.append(_Lane(doorbell, pipeline))
        n_bytes.append(pipeline.n_bytes)
    return lanes, [part.n_sms for part in parts], n_bytes


def _serve(connection: Connection, lanes: Sequence[_Lane]) -> None:
    """Watches the doorbells without a break while slots come; naps when none has for a while."""
    n_received = 0
    last_s = time.monotonic()

    def take_message() -> None:
        nonlocal n_received
        lane, *message = connection.recv()
        lanes[lane].pipeline.write(*message)
        n_received += 1

    while True:
        is_idle = True
        for lane in lanes:
            if lane.is_called:
                side, n_messages, gear = lane.doorbell.started(lane.n_started)
                while n_received < n_messages:
                    take_message()
                lane.start(side, gear)
            lane.finish_done()
            is_idle = is_idle and not lane.under_way
        if not is_idle:
            last_s = time.monotonic()
        elif time.monotonic() - last_s > _AWAKE_S and connection.poll(_NAP_S):
            take_message()


def _report(connection: Connection, fault: GpuFaultError) -> None:
    with contextlib.suppress(OSError):
        connection.send(("fault", str(fault.kind), fault.answer, fault.doing))


if __name__ == "__main__":
    main()
