"""The process that runs a pipeline on the GPU for another one: `python -m phy.gpu.worker FD`.

An error that leaves a CUDA context useless, or a crash, ends this process and nothing else. Inputs
and outputs lie in memory that both processes see; over the connection go a few words a slot.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from airan.core.errors import AiranError
from phy.gpu.faults import FaultKind, GpuFaultError, gpu_faults
from phy.gpu.module import require_cupy
from phy.gpu.pipeline import DevicePipeline, Tables
from phy.gpu.program import Program


@dataclass(frozen=True)
class Order:
    """What a worker is to run.

    Attributes:
        program: the program.
        n_sms: multiprocessors, None: all.
        write_idle: writes the inputs of a slot without any work.
        memory_fd: file descriptor of the memory of inputs and outputs.
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
        pipeline = _pipeline(order, memory)
        connection.send(("ready", pipeline.n_sms, pipeline.n_bytes))
        _serve(connection, pipeline)
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


def _serve(connection: Connection, pipeline: DevicePipeline) -> None:
    under_way: deque[int] = deque()
    while True:
        # Between slots it sleeps; while one is under way it watches both.
        if not under_way or connection.poll():
            name, *arguments = connection.recv()
            if name == "start":
                pipeline.start(arguments[0])
                under_way.append(arguments[0])
            elif name == "write":
                pipeline.write(*arguments)
        elif pipeline.is_done(under_way[0]):
            side = under_way.popleft()
            elapsed = pipeline.wait(side)
            connection.send(("done", side, elapsed.kernels_us, elapsed.with_copies_us))


def _report(connection: Connection, fault: GpuFaultError) -> None:
    with contextlib.suppress(OSError):
        connection.send(("fault", str(fault.kind), fault.answer, fault.doing))


if __name__ == "__main__":
    main()
