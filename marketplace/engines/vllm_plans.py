"""Tells the libraries below vLLM how many multiprocessors a gear has.

By themselves they plan for all of the GPU's. Kernels that put one block on each then need a second
wave for the few that find no place, which costs more than the multiprocessors themselves do: 22% of
a decode step where 124 of an H200's 132 are left, of which this gets two thirds back.

cuBLAS takes a number (`cublasSetSmCountTarget`), FlashAttention 3 a margin (`sm_margin`). Only
vLLM's own process imports it.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import torch

from airan.core.errors import UnavailableError

_LIBRARY = "libcublas.so"
_ATTENTION = "_vllm_fa3_C"
_CALLS = ("fwd", "get_scheduler_metadata")
_MARGIN = "sm_margin"


class SmPlans:
    """For the thread that makes the steps: cuBLAS has a handle in each."""

    def __init__(self, total_sms: int) -> None:
        """`total_sms`: of the GPU. From now on attention keeps to what `use` says."""
        self._total_sms = total_sms
        self._margin_sms = 0
        self._cublas = _cublas()
        space = getattr(torch.ops, _ATTENTION)
        for name in _CALLS:
            call = getattr(space, name, None)
            if call is not None:
                setattr(space, name, self._keeping_margin(call))

    def use(self, n_sms: int, planned_sms: int) -> None:
        """Has what is launched, or captured, from now on planned for a part of the GPU.

        Args:
            n_sms: multiprocessors that there are, for attention.
            planned_sms: for how many matrix products are planned.

        Raises:
            UnavailableError: cuBLAS refuses.
        """
        self._margin_sms = self._total_sms - n_sms
        target = planned_sms if planned_sms < self._total_sms else 0
        handle = ctypes.c_void_p(torch.cuda.current_blas_handle())
        status = self._cublas.cublasSetSmCountTarget(handle, ctypes.c_int(target))
        if status:
            raise UnavailableError(f"cuBLAS does not plan for {target} SMs: status {status}")

    def _keeping_margin(self, call: Any) -> Any:
        names = [one.name for one in call.default._schema.arguments]
        if _MARGIN not in names:
            return call
        at = names.index(_MARGIN)

        def called(*args: Any, **options: Any) -> Any:
            if len(args) > at:
                return call(*args[:at], self._margin_sms, *args[at + 1 :], **options)
            return call(*args, **(options | {_MARGIN: self._margin_sms}))

        return called


def _cublas() -> Any:
    """The cuBLAS that torch has loaded.

    Raises:
        UnavailableError: it has not.
    """
    torch.cuda.current_blas_handle()
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        path = line.rpartition(" ")[2]
        if Path(path).name.startswith(_LIBRARY):
            return ctypes.CDLL(path)
    raise UnavailableError(f"torch has loaded no {_LIBRARY}")
