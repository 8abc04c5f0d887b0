"""The array module: one code path for NumPy and CuPy. CuPy is imported nowhere else in Layer 1."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = Any
"""A NumPy or a CuPy array. Functions return the kind they were given."""


def array_module(*arrays: Array) -> ModuleType:
    """Returns `cupy` if any of `arrays` lives on a GPU, else `numpy`."""
    cupy = sys.modules.get("cupy")
    if cupy is not None and any(isinstance(array, cupy.ndarray) for array in arrays):
        return cupy
    return np


def to_host(array: Array) -> Array:
    """Returns `array` as a NumPy array; copies (and waits for the GPU) only if it is none."""
    get = getattr(array, "get", None)
    return array if get is None else get()


def on_device(xp: ModuleType, index: slice | Array) -> slice | Array:
    """Returns an index as `xp` takes it: slices as they are, NumPy arrays moved to the device."""
    return index if isinstance(index, slice) else xp.asarray(index)
