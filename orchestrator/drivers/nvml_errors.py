"""The one seam between NVML's errors and ours."""

from __future__ import annotations

from airan.core import errors

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
}
_PERMANENT: dict[str, tuple[type[errors.AiranError], str]] = {
    "NVML_ERROR_NOT_FOUND": (errors.NotFoundError, "read the inventory again"),
    "NVML_ERROR_NO_PERMISSION": (
        errors.PermanentError,
        "run as root, or give the user the MIG capabilities of the driver",
    ),
    "NVML_ERROR_NOT_SUPPORTED": (errors.PermanentError, "this GPU or its mode cannot do it"),
    "NVML_ERROR_INVALID_ARGUMENT": (errors.PermanentError, "read the inventory again"),
    "NVML_ERROR_FUNCTION_NOT_FOUND": (errors.PermanentError, "update NVIDIA's driver"),
}


def from_nvml(name: str, what: str) -> errors.AiranError:
    """Our error for NVML's error constant, e.g. `NVML_ERROR_IN_USE`, met while doing `what`.

    Any that is not listed is permanent: asking again would not help.
    """
    kind, remedy = (_RETRY | _PERMANENT).get(
        name, (errors.PermanentError, "see NVML's documentation of this error")
    )
    words = name.removeprefix("NVML_ERROR_").replace("_", " ").lower()
    return kind(f"{what}: {words} ({name})", remedy=remedy)
