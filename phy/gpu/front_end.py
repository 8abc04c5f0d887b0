"""The front end of the PUSCH receiver on the GPU: resource grids to int8 soft bits.

What is launched over which buffers is in phy/gpu/front_end_plan.py, what the records of UEs say in
phy/gpu/front_end_layout.py, and what every kernel computes in phy/gpu/front_end_twin.py.
"""

from __future__ import annotations

from importlib import resources
from typing import Any

import cupy as cp
import numpy as np
import numpy.typing as npt

from phy.gpu.front_end_plan import FrontEndLimits, Stage, buffers, constants, launches


class FrontEnd:
    """Kernels, and the device memory they work on, for slots within `limits`.

    Attributes:
        arrays: the device's buffers by name, as `phy.gpu.front_end_plan.buffers` lists them;
            structured ones are bytes, uint8[record, bytes].
    """

    def __init__(self, limits: FrontEndLimits) -> None:
        """Compiles (CuPy keeps a cache on disk) and allocates; everything is zero at first, so
        that no record holds a UE."""
        self.limits = limits
        self.arrays: dict[str, Any] = {
            name: _allocate(shape, np.dtype(dtype))
            for name, (shape, dtype) in buffers(limits).items()
        }
        self.upload(**constants())
        modules: dict[str, Any] = {}
        self._calls = []
        for launch in launches(limits):
            if launch.source not in modules:
                modules[launch.source] = _module(launch.source, sum(limits.kernel_antennas))
            kernel = modules[launch.source].get_function(launch.kernel)
            arguments = tuple(
                self.arrays[each] if isinstance(each, str) else np.int32(each)
                for each in launch.arguments
            )
            self._calls.append((launch, kernel, arguments))

    def launch(self, stream: Any, stages: tuple[Stage, ...] | None = None) -> None:
        """Queues the slot's kernels on a CUDA stream, or only those of some stages.

        Allocates nothing and waits for nothing, so that it can be captured in a CUDA graph.
        "measure" feeds no other stage; it may run on another stream beside the decoder.
        """
        with stream:
            for launch, kernel, arguments in self._calls:
                if stages is None or launch.stage in stages:
                    kernel(launch.grid, (launch.n_threads,), arguments)

    def upload(self, **inputs: npt.NDArray[Any]) -> None:
        """Copies host arrays into the fronts of the buffers they are named after; waits.

        Records that `ues` leaves over are emptied. For benches and tests: a slot runtime copies
        from pinned memory on its own stream.
        """
        for name, array in inputs.items():
            target = self.arrays[name].reshape(-1).view(cp.uint8)
            if name == "ues":
                target.fill(0)
            host = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            target[: host.size].set(host)
        cp.cuda.get_current_stream().synchronize()

    def download(self, name: str) -> np.ndarray[Any, Any]:
        """Returns a buffer on the host, with its own dtype; waits."""
        shape, dtype = buffers(self.limits)[name]
        host: np.ndarray[Any, Any] = self.arrays[name].get().reshape(-1).view(dtype)
        return host.reshape(shape)


def _allocate(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    """CuPy has no structured arrays; records become rows of bytes."""
    if dtype.names is not None:
        return cp.zeros((*shape, dtype.itemsize), cp.uint8)
    return cp.zeros(shape, dtype)


def _module(source: str, antennas: int) -> Any:
    folder = resources.files("phy").joinpath("kernels")
    code = folder.joinpath(source).read_text("utf-8")
    # One text for NVRTC, whatever folder it runs in.
    header = folder.joinpath("front_end.cuh").read_text("utf-8").replace("#pragma once", "")
    code = code.replace('#include "front_end.cuh"', header)
    return cp.RawModule(code=code, options=("-std=c++17", f"-DANTENNAS={antennas}"))
