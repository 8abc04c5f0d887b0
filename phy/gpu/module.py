"""Kernels compiled at run time: phy/kernels/*.cu through NVRTC, each once for the process.

CuPy is imported at the first use, so that importing `phy` needs neither it nor a GPU.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import nullcontext
from functools import lru_cache
from importlib import resources
from types import ModuleType
from typing import Any

from airan.core.errors import UnavailableError

_REMEDY = "see whether `nvidia-smi` lists a GPU, or leave the option for a GPU out"
_OPTIONS = ("-std=c++17", "--ftz=true")


class GpuUnavailableError(UnavailableError):
    """There is no CuPy, no NVIDIA driver or no GPU to run kernels on."""


def require_cupy() -> ModuleType:
    """Returns the module `cupy`, with at least one GPU behind it.

    Raises:
        GpuUnavailableError: CuPy, the driver or the GPU is missing.
    """
    try:
        import cupy
    except ImportError as error:
        raise GpuUnavailableError(
            f"CuPy cannot be imported: {error}", remedy="install airan with its extra `gpu`"
        ) from error
    try:
        n_devices = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise GpuUnavailableError(f"no usable NVIDIA GPU: {error}", remedy=_REMEDY) from error
    if n_devices == 0:
        raise GpuUnavailableError("this machine has no NVIDIA GPU", remedy=_REMEDY)
    module: ModuleType = cupy
    return module


def source(name: str, prelude: str = "") -> str:
    """Returns the text of phy/kernels/`name`.cu, our own headers put in and `prelude` before it."""

    def header(include: re.Match[str]) -> str:
        return _read(include[1]).replace("#pragma once\n", "")

    return prelude + re.sub(r'#include "(\w+\.cuh)"\n', header, _read(f"{name}.cu"))


@lru_cache(maxsize=512)
def load(name: str, prelude: str = "") -> Any:
    """Compiles phy/kernels/`name`.cu for the present device and returns the `cupy.RawModule`.

    Args:
        name: of the file, without its ending.
        prelude: C++ put before it: the constants this variant is compiled for.

    Raises:
        GpuUnavailableError: CuPy, the driver or the GPU is missing.
    """
    cupy = require_cupy()
    return cupy.RawModule(code=source(name, prelude), options=_OPTIONS, backend="nvrtc")


@lru_cache(maxsize=512)
def function(name: str, entry: str, prelude: str = "", shared_bytes: int = 0) -> Any:
    """Returns the kernel `entry` of a module, allowed `shared_bytes` of dynamic shared memory.

    Raises:
        GpuUnavailableError: CuPy, the driver or the GPU is missing.
    """
    kernel = load(name, prelude).get_function(entry)
    if shared_bytes > 48 * 1024:
        kernel.max_dynamic_shared_size_bytes = shared_bytes
    return kernel


def launch(
    kernel: Any,
    n_blocks: int,
    n_threads: int,
    arguments: Sequence[Any],
    shared_bytes: int,
    stream: Any,
) -> None:
    """Queues a kernel on `stream` (None: CuPy's current one); allocates and waits for nothing."""
    if n_blocks == 0:
        return
    with nullcontext() if stream is None else stream:
        kernel((n_blocks,), (n_threads,), tuple(arguments), shared_mem=shared_bytes)


def _read(name: str) -> str:
    return resources.files("phy.kernels").joinpath(name).read_text("utf-8")
