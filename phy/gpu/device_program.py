"""A program on the present GPU: its memory, its kernels, its copies and its CUDA graphs."""

from __future__ import annotations

import mmap
import weakref
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from phy.gpu.module import function, require_cupy
from phy.gpu.program import Argument, Buffer, Launch, Part, Program

_ALIGNMENT = 256


class Side:
    """One of a program's sets of inputs and outputs, in pinned host memory and on the device.

    Attributes:
        inputs: host arrays by name, to be written before `DeviceProgram.copy_in`.
        outputs: host arrays by name, to be read after `DeviceProgram.copy_out` has ended.
    """

    def __init__(self, program: Program) -> None:
        self._in = _Arena({name: program.buffers[name] for name in program.inputs})
        self._out = _Arena({name: program.buffers[name] for name in program.outputs})
        self.inputs: Mapping[str, npt.NDArray[Any]] = self._in.host
        self.outputs: Mapping[str, npt.NDArray[Any]] = self._out.host
        self.arrays: dict[str, Any] = {**self._in.device, **self._out.device}

    @property
    def n_bytes_in(self) -> int:
        """Bytes that `copy_in` moves."""
        return self._in.n_bytes

    @property
    def n_bytes_out(self) -> int:
        """Bytes that `copy_out` moves."""
        return self._out.n_bytes

    def copy_in(self, stream: Any) -> None:
        """Queues the inputs' way to the device."""
        self._in.copy_in(stream)

    def copy_out(self, stream: Any) -> None:
        """Queues the outputs' way to the host."""
        self._out.copy_out(stream)


class DeviceProgram:
    """Kernels, and the device memory they work on.

    Attributes:
        program: what is run.
        sides: sets of inputs and outputs; while one is worked on, the host may fill another. All
            else is there once, so that sides run one after the other.
        arrays: the device's other buffers by name; structured ones are bytes, uint8[record, bytes].
    """

    def __init__(self, program: Program, n_sides: int = 1) -> None:
        """Compiles (CuPy keeps a cache on disk) and allocates.

        Raises:
            GpuUnavailableError: no CuPy or no GPU.
        """
        cupy = require_cupy()
        self.program = program
        self.sides = tuple(Side(program) for _ in range(n_sides))
        on_sides = {*program.inputs, *program.outputs}
        self.arrays: dict[str, Any] = {
            name: _zeros(buffer) for name, buffer in program.buffers.items() if name not in on_sides
        }
        for name, values in program.constants.items():
            self.write(name, values)
        self._calls = [self._prepare(side) for side in self.sides]
        cupy.cuda.get_current_stream().synchronize()

    def launch(self, stream: Any, side: int = 0, stages: Collection[str] | None = None) -> None:
        """Queues the kernels on a CUDA stream, or only those of some stages.

        Allocates nothing and waits for nothing, so that it can be captured in a CUDA graph.
        """
        with stream:
            for launch, call in self._calls[side]:
                if stages is None or launch.stage in stages:
                    call()

    def capture(self, stream: Any, side: int = 0, stages: Collection[str] | None = None) -> Any:
        """Returns the CUDA graph of `launch`; its `launch(stream)` queues all kernels at once."""
        stream.begin_capture()
        try:
            self.launch(stream, side, stages)
        finally:
            graph = stream.end_capture()
        graph.upload(stream)
        return graph

    def write(self, name: str, values: npt.NDArray[np.generic], side: int = 0) -> None:
        """Copies a host array into the front of a buffer; waits."""
        array = self._array(name, side).reshape(-1).view(np.uint8)
        host = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        array[: host.size].set(host)

    def read(self, name: str, side: int = 0) -> npt.NDArray[Any]:
        """Returns a buffer on the host, with its own dtype; waits."""
        buffer = self.program.buffers[name]
        host: npt.NDArray[Any] = self._array(name, side).get().reshape(-1).view(buffer.dtype)
        return host.reshape(buffer.shape)

    def _array(self, name: str, side: int) -> Any:
        arrays = self.sides[side].arrays
        return arrays[name] if name in arrays else self.arrays[name]

    def _prepare(self, side: Side) -> list[tuple[Launch, Callable[[], None]]]:
        arrays = {**self.arrays, **side.arrays}
        calls = []
        for launch in self.program.launches:
            arguments = tuple(_argument(each, arrays) for each in launch.arguments)
            kernel = function(launch.source, launch.kernel, launch.prelude, launch.shared_bytes)
            calls.append((launch, _call(kernel, launch, arguments)))
        return calls


class _Arena:
    """Buffers that one copy moves between pinned host memory and the device."""

    def __init__(self, buffers: Mapping[str, Buffer]) -> None:
        cupy = require_cupy()
        starts = {}
        self.n_bytes = 0
        for name, buffer in buffers.items():
            starts[name] = self.n_bytes
            self.n_bytes += -(-buffer.n_bytes // _ALIGNMENT) * _ALIGNMENT
        room = -(-max(self.n_bytes, 1) // mmap.PAGESIZE) * mmap.PAGESIZE
        # Our own memory, pinned: what the driver allocates is gone when the device is reset, under
        # the feet of whoever still reads the last slot's results.
        self._memory = mmap.mmap(-1, room)
        self._pinned = np.frombuffer(self._memory, np.uint8, room)
        cupy.cuda.runtime.hostRegister(self._pinned.ctypes.data, room, 0)
        address = self._pinned.ctypes.data
        # What belongs to a GPU that was reset is never finalised.
        weakref.finalize(self, cupy.cuda.runtime.hostUnregister, address).atexit = False
        self._on_device = cupy.zeros(room, cupy.uint8)
        self.host = {}
        self.device = {}
        for name, buffer in buffers.items():
            mine = slice(starts[name], starts[name] + buffer.n_bytes)
            self.host[name] = self._pinned[mine].view(buffer.dtype).reshape(buffer.shape)
            self.device[name] = _viewed(self._on_device[mine], buffer)

    def copy_in(self, stream: Any) -> None:
        if self.n_bytes:
            self._on_device.data.copy_from_host_async(
                self._pinned.ctypes.data, self.n_bytes, stream
            )

    def copy_out(self, stream: Any) -> None:
        if self.n_bytes:
            self._on_device.data.copy_to_host_async(self._pinned.ctypes.data, self.n_bytes, stream)


def _zeros(buffer: Buffer) -> Any:
    return _viewed(require_cupy().zeros(buffer.n_bytes, np.uint8), buffer)


def _viewed(data: Any, buffer: Buffer) -> Any:
    """CuPy has no structured arrays; records become rows of bytes."""
    dtype = np.dtype(buffer.dtype)
    if dtype.names is not None:
        return data.reshape(*buffer.shape, dtype.itemsize)
    return data.view(dtype).reshape(buffer.shape)


def _argument(argument: Argument, arrays: Mapping[str, Any]) -> Any:
    if isinstance(argument, str):
        return arrays[argument]
    if isinstance(argument, Part):
        return arrays[argument.buffer].reshape(-1)[argument.first :]
    return np.int32(argument)


def _call(kernel: Any, launch: Launch, arguments: tuple[Any, ...]) -> Callable[[], None]:
    grid, block, shared = launch.grid, (launch.n_threads,), launch.shared_bytes
    return lambda: kernel(grid, block, arguments, shared_mem=shared)
