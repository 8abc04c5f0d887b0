"""Numba behind one door: imported at the first call of a kernel, compiled once, cached on disk.

Importing `phy` must stay quick, and Numba alone takes longer than all the rest of it.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import sys
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt


@lru_cache(maxsize=8)
def kernels(name: str) -> ModuleType:
    """Imports the Numba module `name` at its first use; the kernels in it release the GIL.

    Where the package's folder cannot be written, the compiled code is cached below the user's
    cache folder instead.
    """
    if "NUMBA_CACHE_DIR" not in os.environ and not os.access(Path(__file__).parent, os.W_OK):
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "airan" / "numba"
        _set_cache_dir(str(cache))
    _forget_stale(name)
    return importlib.import_module(name)


def _forget_stale(name: str) -> None:
    """Deletes what is cached of the module `name` and the kernels beside it if one of them has
    changed since.

    Numba itself looks only at the file in which a function stands, not at what it calls.
    """
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        return
    sources = list(Path(spec.origin).parent.glob("*_kernel.py"))
    changed_s = max((one.stat().st_mtime for one in sources), default=0.0)
    cache = Path(os.environ.get("NUMBA_CACHE_DIR", Path(spec.origin).parent))
    for source in sources:
        for index in cache.rglob(f"{source.stem}.*.nbi"):
            with contextlib.suppress(OSError):  # Another process was faster, or it is not ours.
                if index.stat().st_mtime < changed_s:
                    index.unlink()


def kernel_input(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Returns `array` contiguous and writeable, copied only if it is not: kernels do not write to
    their inputs, but for other layouts they would be compiled once more."""
    array = np.ascontiguousarray(array)
    return array if array.flags.writeable else array.copy()


def _set_cache_dir(path: str) -> None:
    os.environ["NUMBA_CACHE_DIR"] = path
    config: Any = sys.modules.get("numba.core.config")
    if config is not None:  # Numba was already imported and has read its environment.
        config.CACHE_DIR = path
