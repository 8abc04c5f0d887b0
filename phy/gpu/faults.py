"""What may go wrong with a GPU while slots run on it, told apart by what it takes to go on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum

from airan.core.errors import UnavailableError

# Answers after which the process's CUDA context still works.
_PASSING = frozenset(
    {
        "cudaErrorMemoryAllocation",
        "cudaErrorInvalidValue",
        "cudaErrorInvalidConfiguration",
        "cudaErrorLaunchOutOfResources",
        "cudaErrorNotReady",
        "CUDA_ERROR_OUT_OF_MEMORY",
        "CUDA_ERROR_INVALID_VALUE",
        "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES",
    }
)
_LOST = frozenset(
    {
        "cudaErrorNoDevice",
        "cudaErrorDevicesUnavailable",
        "cudaErrorDeviceUninitialized",
        "CUDA_ERROR_NO_DEVICE",
        "CUDA_ERROR_DEVICE_UNAVAILABLE",
    }
)


class FaultKind(StrEnum):
    """What it takes to go on."""

    OUT_OF_MEMORY = "out_of_memory"
    """The call failed; everything else works on."""
    REFUSED = "refused"
    """Likewise."""
    STICKY = "sticky"
    """Nothing works until the device is reset and all its memory written anew."""
    LOST = "lost"
    """The device is gone."""


class GpuFaultError(UnavailableError):
    """The GPU failed while a slot ran.

    Attributes:
        kind: what it takes to go on.
        answer: CUDA's name of the error.
        doing: what it was at.
    """

    def __init__(self, kind: FaultKind, answer: str, doing: str) -> None:
        super().__init__(f"the GPU failed while {doing}: {answer} ({kind.replace('_', ' ')})")
        self.kind = kind
        self.answer = answer
        self.doing = doing


@contextmanager
def gpu_faults(doing: str) -> Iterator[None]:
    """Raises what CUDA answers within as GpuFaultError; `doing` says what it was at."""
    try:
        yield
    except GpuFaultError:
        raise
    except Exception as error:
        answer = answer_of(error)
        if answer is None:
            raise
        raise GpuFaultError(kind_of(answer), answer, doing) from error


def kind_of(answer: str) -> FaultKind:
    """Returns what it takes to go on after an answer of CUDA's: whatever is not known to pass does
    not."""
    if "OutOfMemory" in answer or answer in (
        "cudaErrorMemoryAllocation",
        "CUDA_ERROR_OUT_OF_MEMORY",
    ):
        return FaultKind.OUT_OF_MEMORY
    if answer in _PASSING:
        return FaultKind.REFUSED
    return FaultKind.LOST if answer in _LOST else FaultKind.STICKY


def answer_of(error: BaseException) -> str | None:
    """Returns CUDA's name of an error of CuPy's or the driver's bindings; None for others."""
    name = type(error).__name__
    if name == "OutOfMemoryError":
        return "cudaErrorMemoryAllocation"
    if name in ("CUDARuntimeError", "CUDADriverError"):
        return str(error).partition(":")[0].strip()
    if isinstance(error, UnavailableError) and "CUDA_ERROR_" in str(error):
        return "CUDA_ERROR_" + str(error).partition("CUDA_ERROR_")[2].split()[0]
    return None
