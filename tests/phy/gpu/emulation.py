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

_KERNELS = Path(phy.__file__).parent / "kernels"
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


@lru_cache
def emulated(source: str) -> EmulatedModule:
    """Builds `source` (a file of phy/kernels); skips the test where there is no g++."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++ to emulate kernels")
    text = (_KERNELS / source).read_text()
    include = [f"-I{_SHIM}", f"-I{_KERNELS}"]
    expanded = subprocess.run(
        [compiler, "-std=c++17", "-E", "-P", *include, "-x", "c++", _KERNELS / source],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
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
