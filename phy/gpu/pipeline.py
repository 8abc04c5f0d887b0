"""A program's slots on a part of the GPU: copied in, run as one CUDA graph, copied out.

There are several sides, so that the samples of one slot arrive while the slot before is worked on.
The copies have streams of their own; only the graph runs on the part's multiprocessors. Where there
are several parts to run it on, its gears, there is a graph for each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from phy.gpu.device_program import DeviceProgram
from phy.gpu.faults import gpu_faults
from phy.gpu.module import require_cupy
from phy.gpu.program import Program

if TYPE_CHECKING:
    from phy.gpu.partition import SmPart

Tables = Mapping[str, npt.NDArray[Any]]

N_SIDES = 3
"""One whose results are read, one that is worked on, one that is being filled."""

_NOT_READY = 600  # cudaErrorNotReady


@dataclass(frozen=True)
class Elapsed:
    """How long a slot took on the GPU, in us.

    Attributes:
        kernels_us: from the graph's first kernel to its last.
        with_copies_us: from the beginning of the copy in to the end of the copy out.
    """

    kernels_us: float
    with_copies_us: float


class Pipeline(Protocol):
    """What a cell group runs slots on."""

    @property
    def n_sms(self) -> int:
        """Multiprocessors of the next slot."""
        ...

    def shift(self, gear: int) -> None:
        """Has the slots that are started from now on run on that part of the GPU."""
        ...

    @property
    def n_bytes(self) -> tuple[int, int]:
        """Bytes that a slot copies in and out."""
        ...

    def is_ready(self) -> bool:
        """Tells whether slots can be started; becomes true some time after it was made.

        Raises:
            GpuFaultError: it never will.
        """
        ...

    def inputs(self, side: int) -> Tables:
        """Host arrays to write before `start`."""
        ...

    def outputs(self, side: int) -> Tables:
        """Host arrays to read after `wait`."""
        ...

    def start(self, side: int) -> None:
        """Queues a slot; returns at once."""
        ...

    def is_done(self, side: int) -> bool:
        """Tells whether the slot's results are there."""
        ...

    def wait(self, side: int) -> Elapsed:
        """Waits for the slot's results."""
        ...

    def write(self, name: str, first: int, values: npt.NDArray[Any]) -> None:
        """Queues new contents for a buffer that is no input, from row `first` on, between slots."""
        ...

    def close(self) -> None:
        """Ends it; what is under way is lost."""
        ...


class DevicePipeline:
    """The pipeline on a GPU.

    Attributes:
        device: the program's memory and kernels.
    """

    def __init__(
        self,
        program: Program,
        parts: Sequence[SmPart],
        write_idle: Callable[[Tables], object],
        memory: npt.NDArray[np.uint8] | None = None,
        lower: int = 0,
    ) -> None:
        """Compiles, allocates and captures the graphs.

        Args:
            program: to run.
            parts: of the GPU, to run it on: the first, until told otherwise.
            write_idle: writes the inputs of a slot without any work.
            memory: for the inputs and outputs, see DeviceProgram.
            lower: steps below the highest priority.

        Raises:
            GpuFaultError: not enough memory, or the GPU fails.
        """
        cupy = require_cupy()
        self._parts = tuple(parts)
        self._gear = 0
        with gpu_faults("a program was being prepared"):
            self.device = DeviceProgram(program, N_SIDES, memory)
            self._streams = [part.new_stream(lower) for part in self._parts]
            self._stream = self._streams[0]
            self._copy_in = cupy.cuda.Stream(non_blocking=True)
            self._copy_out = cupy.cuda.Stream(non_blocking=True)
            self._events = [[cupy.cuda.Event() for _ in range(4)] for _ in range(N_SIDES)]
            self._graphs: list[list[Any]] = []
            for side in self.device.sides:
                write_idle(side.inputs)
            for gear in reversed(range(len(self._parts))):
                self._graphs.insert(0, self._captured(self._streams[gear]))
            for gear in reversed(range(len(self._parts))):
                self.shift(gear)
                for number in range(N_SIDES):
                    self.start(number)
                    self.wait(number)

    def _captured(self, stream: Any) -> list[Any]:
        """A graph for each side."""
        out = []
        for number, side in enumerate(self.device.sides):
            side.copy_in(stream)
            # Once without a graph: kernels are loaded at their first launch.
            self.device.launch(stream, number)
            stream.synchronize()
            out.append(self.device.capture(stream, number))
        return out

    @property
    def n_sms(self) -> int:
        return self._parts[self._gear].n_sms

    def shift(self, gear: int) -> None:
        if gear == self._gear:
            return
        left, self._stream, self._gear = self._stream, self._streams[gear], gear
        # Slots share memory that is no side's: one gear's begin after the other's.
        with gpu_faults("the part of the GPU was being changed"):
            self._stream.wait_event(left.record())

    @property
    def n_bytes(self) -> tuple[int, int]:
        side = self.device.sides[0]
        return side.n_bytes_in, side.n_bytes_out

    def is_ready(self) -> bool:
        return True

    def inputs(self, side: int) -> Tables:
        return self.device.sides[side].inputs

    def outputs(self, side: int) -> Tables:
        return self.device.sides[side].outputs

    def start(self, side: int) -> None:
        begun, arrived, worked, returned = self._events[side]
        with gpu_faults("a slot was being queued"):
            begun.record(self._copy_in)
            self.device.sides[side].copy_in(self._copy_in)
            arrived.record(self._copy_in)
            self._stream.wait_event(arrived)
            arrived.record(self._stream)
            self._graphs[self._gear][side].launch(self._stream)
            worked.record(self._stream)
            self._copy_out.wait_event(worked)
            self.device.sides[side].copy_out(self._copy_out)
            returned.record(self._copy_out)

    def is_done(self, side: int) -> bool:
        runtime = require_cupy().cuda.runtime
        # Not the event's `done`, which takes every error for "not yet".
        status = int(runtime.eventQuery(self._events[side][3].ptr))
        with gpu_faults("a slot ran"):
            if status not in (0, _NOT_READY):
                raise runtime.CUDARuntimeError(status)
        return status == 0

    def wait(self, side: int) -> Elapsed:
        elapsed_ms = require_cupy().cuda.get_elapsed_time
        begun, arrived, worked, returned = self._events[side]
        with gpu_faults("a slot ran"):
            returned.synchronize()
            return Elapsed(1e3 * elapsed_ms(arrived, worked), 1e3 * elapsed_ms(begun, returned))

    def write(self, name: str, first: int, values: npt.NDArray[Any]) -> None:
        with gpu_faults("filters were being written"):
            rows = self.device.arrays[name][first : first + len(values)]
            rows.set(np.ascontiguousarray(values), stream=self._stream)

    def close(self) -> None:
        for stream in (self._copy_in, *self._streams, self._copy_out):
            stream.synchronize()
