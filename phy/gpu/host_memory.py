"""A program's inputs and outputs in host memory: where each lies, once for every side."""

from __future__ import annotations

import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from phy.gpu.program import Program

_ALIGNMENT = 256


@dataclass(frozen=True)
class Region:
    """Buffers that one copy moves.

    Attributes:
        memory: uint8[n], all of them, from a page's beginning on.
        starts: byte at which each begins.
        arrays: they themselves.
    """

    memory: npt.NDArray[np.uint8]
    starts: Mapping[str, int]
    arrays: Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class HostSide:
    """One side.

    Attributes:
        inputs: what the host writes.
        outputs: what it reads.
    """

    inputs: Region
    outputs: Region


def n_host_bytes(program: Program, n_sides: int) -> int:
    """Bytes that all sides take."""
    return n_sides * sum(_size(program, names) for names in (program.inputs, program.outputs))


def host_sides(
    program: Program, n_sides: int, memory: npt.NDArray[np.uint8]
) -> tuple[HostSide, ...]:
    """Lays the sides out in uint8[n_host_bytes(...)], which begins at a page."""
    sides = []
    at = 0
    for _ in range(n_sides):
        regions = []
        for names in (program.inputs, program.outputs):
            size = _size(program, names)
            regions.append(_region(program, names, memory[at : at + size]))
            at += size
        sides.append(HostSide(*regions))
    return tuple(sides)


def _region(program: Program, names: Sequence[str], memory: npt.NDArray[np.uint8]) -> Region:
    starts = _starts(program, names)
    arrays = {}
    for name, start in starts.items():
        buffer = program.buffers[name]
        mine = memory[start : start + buffer.n_bytes]
        arrays[name] = mine.view(buffer.dtype).reshape(buffer.shape)
    return Region(memory, starts, arrays)


def _starts(program: Program, names: Sequence[str]) -> dict[str, int]:
    starts, at = {}, 0
    for name in names:
        starts[name] = at
        at += -(-program.buffers[name].n_bytes // _ALIGNMENT) * _ALIGNMENT
    return starts


def _size(program: Program, names: Sequence[str]) -> int:
    n = sum(-(-program.buffers[name].n_bytes // _ALIGNMENT) * _ALIGNMENT for name in names)
    return -(-max(n, 1) // mmap.PAGESIZE) * mmap.PAGESIZE
