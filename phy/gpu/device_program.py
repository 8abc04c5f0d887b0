"""A program on the present GPU: its memory, its kernels, its copies and its CUDA graphs."""

from __future__ import annotations

import mmap
import weakref
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from phy.gpu.host_memory import HostSide, Region, host_sides, n_host_bytes
from phy.gpu.module import function, require_cupy
from phy.gpu.program import Argument, Buffer, Launch, Part, Program


class Side:
    """One of a program's sets of inputs and outputs, in pinned host memory and on the device.

    Attributes:
        inputs: host arrays by name, to be written before `copy_in`.
        outputs: host arrays by name, to be read after `copy_out` has ended.
    """

    def __init__(self, program: Program, host: HostSide) -> None:
        self._in = _OnDevice(program, host.inputs)
        self._out = _OnDevice(program, host.outputs)
        self.inputs = host.inputs.arrays
        self.outputs = host.outputs.arrays
        self.arrays: dict[str, Any] = {**self._in.arrays, **self._out.arrays}

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
        self._in.memory.data.copy_from_host_async(self._in.address, self._in.n_bytes, stream)

    def copy_out(self, stream: Any) -> None:
        """Queues the outputs' way to the host."""
        self._out.memory.data.copy_to_host_async(self._out.address, self._out.n_bytes, stream)


class DeviceProgram:
    """Kernels, and the device memory they work on.

    Attributes:
        program: what is run.
        sides: sets of inputs and outputs; while one is worked on, the host may fill another. All
            else is there once, so that sides run one after the other.
        arrays: the device's other buffers by name; structured ones are bytes, uint8[record, bytes].
    """

    def __init__(
        self,
        program: Program,
        n_sides: int = 1,
        memory: npt.NDArray[np.uint8] | None = None,
    ) -> None:
        """Compiles (CuPy keeps a cache on disk) and allocates.

        Args:
            program: what to run.
            n_sides: sets of inputs and outputs.
            memory: uint8[n_host_bytes(program, n_sides)] from a page's beginning on, for them; it
                gets pinned. None: new memory.

        Raises:
            GpuUnavailableError: no CuPy or no GPU.
        """
        cupy = require_cupy()
        self.program = program
        memory = _pages(n_host_bytes(program, n_sides)) if memory is None else memory
        cupy.cuda.runtime.hostRegister(memory.ctypes.data, memory.size, 0)
        weakref.finalize(self, cupy.cuda.runtime.hostUnregister, memory.ctypes.data)
        self.sides = tuple(Side(program, side) for side in host_sides(program, n_sides, memory))
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


class _OnDevice:
    """A region's image on the device; the region is pinned."""

    def __init__(self, program: Program, region: Region) -> None:
        cupy = require_cupy()
        self.address = region.memory.ctypes.data
        self.n_bytes = region.memory.size
        self.memory = cupy.zeros(self.n_bytes, cupy.uint8)
        self.arrays = {}
        for name, start in region.starts.items():
            buffer = program.buffers[name]
            self.arrays[name] = _viewed(self.memory[start : start + buffer.n_bytes], buffer)


def _pages(n_bytes: int) -> npt.NDArray[np.uint8]:
    return np.frombuffer(mmap.mmap(-1, n_bytes), np.uint8, n_bytes)


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
