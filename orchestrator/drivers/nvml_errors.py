"""The one seam between NVML's errors and ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from airan.core import errors

T = TypeVar("T")

_RETRY: dict[str, tuple[type[errors.AiranError], str]] = {
    "NVML_ERROR_IN_USE": (errors.InUseError, "let the process that uses it end, or evict it"),
    "NVML_ERROR_INSUFFICIENT_RESOURCES": (errors.CapacityError, "another instance is in the way"),
    "NVML_ERROR_MEMORY": (errors.CapacityError, "free memory of the host"),
    "NVML_ERROR_GPU_IS_LOST": (errors.UnavailableError, "reset the GPU or restart the host"),
    "NVML_ERROR_RESET_REQUIRED": (errors.UnavailableError, "reset the GPU: nvidia-smi -r"),
    "NVML_ERROR_TIMEOUT": (errors.UnavailableError, "the driver is busy; it is tried again"),
    "NVML_ERROR_IRQ_ISSUE": (errors.UnavailableError, "see the kernel's log"),
    "NVML_ERROR_INSUFFICIENT_POWER": (errors.UnavailableError, "connect the GPU's power cables"),
    "NVML_ERROR_FREQ_NOT_SUPPORTED": (errors.UnavailableError, "use the default clocks"),
    "NVML_ERROR_GPU_NOT_FOUND": (errors.UnavailableError, "see the kernel's log for its XID"),
    "NVML_ERROR_INVALID_STATE": (errors.UnavailableError, "wait until the change under way ends"),
    "NVML_ERROR_NOT_READY": (errors.UnavailableError, "it is tried again"),
    "NVML_ERROR_DRIVER_NOT_LOADED": (errors.UnavailableError, "load NVIDIA's driver"),
    "NVML_ERROR_LIBRARY_NOT_FOUND": (errors.UnavailableError, "install NVIDIA's driver"),
    "NVML_ERROR_LIB_RM_VERSION_MISMATCH": (
        errors.UnavailableError,
        "restart the host: driver and library differ after an update",
    ),
    "NVML_ERROR_OPERATING_SYSTEM": (errors.UnavailableError, "see the kernel's log"),
    "NVML_ERROR_UNKNOWN": (errors.UnavailableError, "see the kernel's log"),
    "NVML_ERROR_UNINITIALIZED": (errors.UnavailableError, "it is tried again"),
    "NVML_ERROR_CORRUPTED_INFOROM": (errors.UnavailableError, "have the GPU replaced"),
    "NVML_ERROR_NO_DATA": (errors.UnavailableError, "it is tried again"),
}
_UPDATE = "nvidia-ml-py and NVIDIA's driver are of different times: update the older one"
_PERMANENT: dict[str, tuple[type[errors.AiranError], str]] = {
    "NVML_ERROR_NOT_FOUND": (errors.NotFoundError, "read the inventory again"),
    "NVML_ERROR_NO_PERMISSION": (
        errors.PermanentError,
        "run as root, or give the user the MIG capabilities of the driver",
    ),
    "NVML_ERROR_NOT_SUPPORTED": (errors.PermanentError, "this GPU or its mode cannot do it"),
    "NVML_ERROR_INVALID_ARGUMENT": (errors.PermanentError, "read the inventory again"),
    "NVML_ERROR_FUNCTION_NOT_FOUND": (errors.PermanentError, "update NVIDIA's driver"),
    "NVML_ERROR_ARGUMENT_VERSION_MISMATCH": (errors.PermanentError, _UPDATE),
    "NVML_ERROR_DEPRECATED": (errors.PermanentError, _UPDATE),
    "NVML_ERROR_INSUFFICIENT_SIZE": (errors.PermanentError, _UPDATE),
    "NVML_ERROR_ALREADY_INITIALIZED": (errors.PermanentError, "start NVML once a process"),
    "NVML_ERROR_VGPU_ECC_NOT_SUPPORTED": (errors.PermanentError, "turn ECC off for vGPUs"),
    "NVML_ERROR_RESET_TYPE_NOT_SUPPORTED": (errors.PermanentError, "restart the host instead"),
}
KNOWN = _RETRY | _PERMANENT
"""What each of NVML's error constants becomes, and what to do about it."""
_ABSENT = (
    "NVML_ERROR_NOT_SUPPORTED",
    "NVML_ERROR_NO_PERMISSION",
    "NVML_ERROR_INVALID_ARGUMENT",
    "NVML_ERROR_FUNCTION_NOT_FOUND",
    "NVML_ERROR_ARGUMENT_VERSION_MISMATCH",
    "NVML_ERROR_NO_DATA",
)
_LOST = "NVML_ERROR_GPU_IS_LOST"


def from_nvml(name: str, what: str) -> errors.AiranError:
    """Our error for NVML's error constant, e.g. `NVML_ERROR_IN_USE`, met while doing `what`.

    One that a later driver adds is permanent: asking again would not help.
    """
    kind, remedy = KNOWN.get(
        name, (errors.PermanentError, "see NVML's documentation of this error")
    )
    words = name.removeprefix("NVML_ERROR_").replace("_", " ").lower()
    return kind(f"{what}: {words} ({name})", remedy=remedy)


class Translator:
    """Turns the errors of a library that answers as pynvml does into ours."""

    def __init__(self, nvml: Any) -> None:
        self._error = nvml.NVMLError
        self._mismatch = nvml.NVMLLibraryMismatchError
        self._names = {getattr(nvml, name, None): name for name in KNOWN}

    def name(self, error: Any) -> str:
        """NVML's constant for the error."""
        return self._names.get(error.value, f"NVML_ERROR_{error.value}")

    def is_lost(self, error: Any) -> bool:
        """Whether it says that the GPU has fallen off the bus."""
        return self.name(error) == _LOST

    @contextmanager
    def translated(self, what: str) -> Iterator[None]:
        """Work during which NVML's errors become ours, met while doing `what`."""
        try:
            yield
        except self._error as error:
            raise from_nvml(self.name(error), what) from error
        except self._mismatch as error:
            raise from_nvml("NVML_ERROR_ARGUMENT_VERSION_MISMATCH", what) from error

    def optional(self, read: Callable[..., T], *args: Any) -> T | None:
        """`read(*args)`; None where the GPU, the driver or the user does not have it."""
        try:
            return read(*args)
        except self._error as error:
            if self.name(error) in _ABSENT:
                return None
            raise


def lost(what: str) -> errors.AiranError:
    """The error of a GPU that has fallen off the bus."""
    return from_nvml(_LOST, what)
