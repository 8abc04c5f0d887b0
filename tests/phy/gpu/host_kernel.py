"""Runs kernels of phy/kernels on the host, through the C++ compiler and cuda_on_host.h."""

from __future__ import annotations

import ctypes
import hashlib
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phy.gpu import module

_HEADER = Path(__file__).with_name("cuda_on_host.h")
_SHARED = "extern __shared__ unsigned char shared[];"


def launch(name: str, entry: str, prelude: str, grid: int, block: int, *arguments: Any) -> None:
    """Runs `entry` of phy/kernels/`name`.cu on NumPy arrays and int32 values."""
    library = _library(name, entry, prelude)
    places = []
    for argument in arguments:
        if isinstance(argument, np.ndarray):
            assert argument.flags.c_contiguous
            places.append(ctypes.c_void_p(argument.ctypes.data))
        else:
            places.append(ctypes.c_int(argument))
    pointers = (ctypes.c_void_p * len(places))(
        *[ctypes.cast(ctypes.pointer(place), ctypes.c_void_p) for place in places]
    )
    library.launch(ctypes.c_uint(grid), ctypes.c_uint(block), pointers)


@lru_cache(maxsize=64)
def _library(name: str, entry: str, prelude: str) -> ctypes.CDLL:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no C++ compiler to run kernels on the host with")
    text = f'#include "{_HEADER}"\n#define shared host_shared\n' + module.source(name, prelude)
    text = text.replace(_SHARED, "")
    text += f"""
extern "C" void launch(unsigned grid, unsigned block, void** arguments) {{
    host_launch({entry}, grid, block, arguments);
}}
"""
    folder = (
        Path(tempfile.gettempdir()) / f"airan-host-kernels-{hashlib.md5(text.encode()).hexdigest()}"
    )
    folder.mkdir(exist_ok=True)
    library = folder / "kernel.so"
    if not library.exists():
        cpp = folder / "kernel.cpp"
        cpp.write_text(text)
        command = [compiler, "-std=c++20", "-O0", "-w", "-shared", "-fPIC", str(cpp), "-o"]
        built = folder / "building.so"
        subprocess.run([*command, str(built)], check=True)
        built.rename(library)
    return ctypes.CDLL(str(library))
