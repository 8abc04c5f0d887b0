"""What a slot runs on the GPU, as data: buffers, and kernel launches over them.

A program is fixed by limits, so that its launches can be captured in a CUDA graph once, while the
inputs change from slot to slot. It needs no GPU and no CuPy: `phy.gpu.device_program` runs it on a
device, and the tests run it on the CPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Part:
    """A buffer from one of its elements on, counted through all axes."""

    buffer: str
    first: int


Argument: TypeAlias = str | Part | int
"""Of a kernel: a buffer's name, a part of a buffer, or an int32."""


@dataclass(frozen=True)
class Launch:
    """One kernel launch.

    Attributes:
        stage: the part of the program it belongs to.
        source: file of phy/kernels without its ending.
        kernel: its name there.
        grid: blocks.
        n_threads: threads of a block.
        arguments: of the kernel.
        prelude: C++ put before the source: the constants that this variant is compiled for.
        shared_bytes: dynamic shared memory of a block.
    """

    stage: str
    source: str
    kernel: str
    grid: tuple[int, ...]
    n_threads: int
    arguments: tuple[Argument, ...]
    prelude: str = ""
    shared_bytes: int = 0


@dataclass(frozen=True)
class Buffer:
    """An array on the device.

    Attributes:
        shape: of the array.
        dtype: of its elements; a structured one lies there as rows of bytes.
    """

    shape: tuple[int, ...]
    dtype: npt.DTypeLike

    @property
    def n_bytes(self) -> int:
        """Its size."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Program:
    """Kernel launches in order, and the buffers they work on.

    Attributes:
        buffers: by name; all zero at the start.
        launches: in order.
        inputs: buffers that the host writes for every slot.
        outputs: buffers that the host reads after every slot.
        constants: contents of buffers that are written once.
    """

    buffers: Mapping[str, Buffer]
    launches: tuple[Launch, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    constants: Mapping[str, npt.NDArray[np.generic]] = field(default_factory=dict)

    @property
    def n_bytes(self) -> int:
        """Device memory of all buffers."""
        return sum(buffer.n_bytes for buffer in self.buffers.values())


def word_of(record: np.dtype[np.void]) -> dict[str, int]:
    """Returns where each field of a record of four-byte fields begins, in words."""
    fields = record.fields
    return {} if fields is None else {name: field[1] // 4 for name, field in fields.items()}


def joined(first: Program, second: Program) -> Program:
    """Returns a program that runs one after the other; buffers of one name are one buffer, as large
    as the larger, and what `first` puts out and `second` takes in stays on the device."""
    buffers = dict(first.buffers)
    for name, buffer in second.buffers.items():
        other = buffers.get(name)
        buffers[name] = buffer if other is None or other.n_bytes < buffer.n_bytes else other
    handed_over = set(first.outputs) & set(second.inputs)
    return Program(
        buffers=buffers,
        launches=first.launches + second.launches,
        inputs=first.inputs + tuple(n for n in second.inputs if n not in handed_over),
        outputs=tuple(n for n in first.outputs if n not in handed_over) + second.outputs,
        constants={**first.constants, **second.constants},
    )
