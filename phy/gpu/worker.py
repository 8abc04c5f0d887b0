"""The process that runs a pipeline on the GPU for another one: `python -m phy.gpu.worker FD`.

An error that leaves a CUDA context useless, or a crash, ends this process and nothing else. Inputs
and outputs lie in memory that both processes see. The connection is for what is rare.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from airan.core.errors import AiranError
from phy.gpu.doorbell import Doorbell
from phy.gpu.faults import FaultKind, GpuFaultError, gpu_faults
from phy.gpu.module import require_cupy
from phy.gpu.pipeline import DevicePipeline, Tables
from phy.gpu.program import Program

_AWAKE_S = 0.02
_NAP_S = 0.0005


@dataclass(frozen=True)
class Order:
    """What a worker is to run.

    Attributes:
        program: the program.
        n_sms: multiprocessors, None: all.
        write_idle: writes the inputs of a slot without any work.
        memory_fd: file descriptor of the memory: a doorbell, inputs and outputs.
        n_bytes: of that memory.
    """

    program: Program
    n_sms: int | None
    write_idle: Callable[[Tables], object]
    memory_fd: int
    n_bytes: int


def main() -> None:
    """Serves until the other side closes the connection."""
    connection = Connection(int(sys.argv[1]))
    try:
        order: Order = connection.recv()
        memory = np.frombuffer(mmap.mmap(order.memory_fd, order.n_bytes), np.uint8)
        pipeline = _pipeline(order, memory[Doorbell.N_BYTES :])
        connection.send(("ready", pipeline.n_sms, pipeline.n_bytes))
        _serve(connection, Doorbell(memory[: Doorbell.N_BYTES]), pipeline)
    except GpuFaultError as fault:
        _report(connection, fault)
    except AiranError as error:
        _report(connection, GpuFaultError(FaultKind.LOST, str(error), "it was being set up"))
    except (EOFError, OSError):
        pass
    sys.stdout.flush()
    # A broken context must not be taken down in order: that can hang.
    os._exit(0)


def _pipeline(order: Order, memory: Any) -> DevicePipeline:
    require_cupy()
    from phy.gpu.partition import take_part

    with gpu_faults("multiprocessors were being set aside"):
        part = take_part(order.n_sms)
    return DevicePipeline(order.program, part, order.write_idle, memory)


def _serve(connection: Connection, doorbell: Doorbell, pipeline: DevicePipeline) -> None:
    """Watches the doorbell without a break while slots come; sleeps when none has for a while."""
    under_way: deque[int] = deque()
    n_started = n_received = 0
    last_s = time.monotonic()
    while True:
        if n_started < doorbell.starts:
            side, n_messages = doorbell.started(n_started)
            while n_received < n_messages:
                pipeline.write(*connection.recv())
                n_received += 1
            pipeline.start(side)
            under_way.append(side)
            n_started += 1
        elif under_way:
            if pipeline.is_done(under_way[0]):
                elapsed = pipeline.wait(under_way.popleft())
                doorbell.finish(elapsed.kernels_us, elapsed.with_copies_us)
                last_s = time.monotonic()
        elif time.monotonic() - last_s > _AWAKE_S and connection.poll(_NAP_S):
            pipeline.write(*connection.recv())
            n_received += 1


def _report(connection: Connection, fault: GpuFaultError) -> None:
    with contextlib.suppress(OSError):
        connection.send(("fault", str(fault.kind), fault.answer, fault.doing))


if __name__ == "__main__":
    main()
