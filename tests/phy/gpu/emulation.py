"""Builds kernels of phy/kernels for the CPU (see cuda_on_cpu/cuda_fp16.h) and launches them."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

import phy
from phy.gpu.program import Argument, Part, Program

from . import host_kernel

_KERNELS = Path(phy.__file__).parent / "kernels"
# Sources that are emulated with cuda_on_host.h.
_CODING = {"rate_recover", "ldpc_decode", "crc", "encode"}
_SHIM = Path(__file__).parent / "cuda_on_cpu"


class EmulatedModule:
    """The kernels of one source, run block by block on the CPU."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

    def launch(
        self, name: str, grid: tuple[int, ...], threads: int, *arguments: np.ndarray | int
    ) -> None:
        """Runs a kernel; arrays are passed as pointers and changed in place."""
        keep = []
        for argument in arguments:
            if isinstance(argument, np.ndarray):
                assert argument.flags.c_contiguous
                keep.append(ctypes.c_void_p(argument.ctypes.data))
            else:
                keep.append(ctypes.c_int(argument))
        pointers = [ctypes.cast(ctypes.pointer(each), ctypes.c_void_p) for each in keep]
        packed = (ctypes.c_void_p * len(keep))(*pointers)
        padded = (*grid, 1, 1)[:3]
        getattr(self._library, f"launch_{name}")(*padded, threads, packed)


def emulate_program(
    program: Program, arrays: dict[str, np.ndarray], stages: set[str] | None = None
) -> None:
    """Runs a program's launches, or those of some stages, on arrays by the buffers' names."""
    for launch in program.launches:
        if stages is not None and launch.stage not in stages:
            continue
        arguments = [_argument(each, arrays) for each in launch.arguments]
        if launch.source in _CODING:
            (n_blocks,) = launch.grid
            host_kernel.launch(
                *(launch.source, launch.kernel, launch.prelude, n_blocks, launch.n_threads),
                *arguments,
            )
        else:
            module = emulated(launch.source, launch.prelude)
            module.launch(launch.kernel, launch.grid, launch.n_threads, *arguments)


def zeros(program: Program) -> dict[str, np.ndarray]:
    """A program's buffers with its constants in them."""
    arrays = {name: np.zeros(b.shape, b.dtype) for name, b in program.buffers.items()}
    for name, values in program.constants.items():
        arrays[name].reshape(-1)[: values.size] = values.reshape(-1)
    return arrays


def _argument(argument: Argument, arrays: dict[str, np.ndarray]) -> np.ndarray | int:
    if isinstance(argument, str):
        return arrays[argument]
    if isinstance(argument, Part):
        return arrays[argument.buffer].reshape(-1)[argument.first :]
    return argument


@lru_cache
def emulated(source: str, prelude: str = "") -> EmulatedModule:
    """Builds `source` (a file of phy/kernels); skips the test where there is no g++."""
    source += ".cu"
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++ to emulate kernels")
    text = prelude + (_KERNELS / source).read_text()
    include = [f"-I{_SHIM}", f"-I{_KERNELS}"]
    expanded = subprocess.run(
        [compiler, "-std=c++17", "-E", "-P", *include, "-x", "c++", "-"],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
        input=text,
    ).stdout
    names = re.findall(r'extern "C" +void\s+(\w+)\(', expanded)
    launchers = "".join(
        f'extern "C" void launch_{name}(unsigned x, unsigned y, unsigned z, unsigned n, void** a)'
        f" {{ cuda_on_cpu::launch({name}, {{x, y, z}}, {{n, 1, 1}}, a); }}\n"
        for name in names
    )
    # Optimising costs more time than it saves; what is loaded stays when its file is gone.
    options = ["-std=c++17", "-O0", "-march=native", "-shared", "-fPIC", "-U_FORTIFY_SOURCE"]
    warnings = ["-Wall", "-Wno-unknown-pragmas"]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernels.cpp"
        file.write_text(text + launchers)
        library = file.with_suffix(".so")
        command = [compiler, *options, *warnings, *include, "-o", library, file]
        subprocess.run(command, check=True, timeout=100)
        return EmulatedModule(ctypes.CDLL(str(library)))
