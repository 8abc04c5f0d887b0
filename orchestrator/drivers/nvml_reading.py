"""What NVML tells of a GPU: health, power, MIG mode and profiles. Changes nothing; blocks."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from airan.core.errors import NotFoundError
from orchestrator.drivers.nvml_errors import Translator
from orchestrator.geometry import Geometry
from orchestrator.mig import MigGeometry
from orchestrator.mig_table import ProfileReading, product_of
from orchestrator.shares import ShareGeometry

MIB = 1024 * 1024
_MAX_XIDS = 100


@dataclass(frozen=True)
class Sensors:
    """Health and power now; None where it cannot be read."""

    ecc_uncorrected: int
    power_w: float | None
    power_limit_w: float | None
    energy_j: float | None
    temperature_c: float | None


class Reader:
    """Reads GPUs by NVML's handles."""

    def __init__(self, nvml: Any, errors: Translator) -> None:
        self._nvml, self._errors = nvml, errors

    def sensors(self, handle: Any) -> Sensors:
        """The GPU's readings now."""
        nvml, optional = self._nvml, self._errors.optional
        ecc = optional(
            nvml.nvmlDeviceGetTotalEccErrors,
            handle,
            nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
            nvml.NVML_VOLATILE_ECC,
        )
        celsius = optional(nvml.nvmlDeviceGetTemperatureV, handle, nvml.NVML_TEMPERATURE_GPU)
        return Sensors(
            ecc_uncorrected=int(ecc or 0),
            power_w=self._thousandths(nvml.nvmlDeviceGetPowerUsage, handle),
            power_limit_w=self._thousandths(nvml.nvmlDeviceGetEnforcedPowerLimit, handle),
            energy_j=self._thousandths(nvml.nvmlDeviceGetTotalEnergyConsumption, handle),
            temperature_c=None if celsius is None else float(celsius),
        )

    def _thousandths(self, read: Any, handle: Any) -> float | None:
        value = self._errors.optional(read, handle)
        return None if value is None else value / 1e3

    def mig_mode(self, handle: Any) -> str:
        """`enabled`, `disabled` or `unsupported`; a change that is pending does not count."""
        modes = self._errors.optional(self._nvml.nvmlDeviceGetMigMode, handle)
        if modes is None:
            return "unsupported"
        return "enabled" if modes[0] == self._nvml.NVML_DEVICE_MIG_ENABLE else "disabled"

    def geometry(self, handle: Any, mig_mode: str, share_kind: str) -> Geometry | None:
        """How the GPU may be divided: as the driver reads it, else by the table.

        None for a product that neither knows.
        """
        name = self._nvml.nvmlDeviceGetName(handle)
        memory_mib = self._nvml.nvmlDeviceGetMemoryInfo(handle).total // MIB
        readings = list(self._profiles(handle))
        try:
            product = product_of(name, memory_mib)
        except NotFoundError:
            # A product without a table is divided by what its driver says alone.
            product = name
        try:
            mig = (
                MigGeometry.from_readings(product, readings)
                if readings
                else MigGeometry.load(product)
            )
        except NotFoundError:
            return None
        if mig_mode == "enabled":
            return mig
        return ShareGeometry(product, share_kind, mig.sm_count, mig.memory_mib)

    def _profiles(self, handle: Any) -> Iterator[ProfileReading]:
        nvml = self._nvml
        for number in range(nvml.NVML_GPU_INSTANCE_PROFILE_COUNT):
            info = self._errors.optional(nvml.nvmlDeviceGetGpuInstanceProfileInfo, handle, number)
            if info is not None:
                yield ProfileReading(
                    name=str(info.name),
                    profile_id=info.id,
                    compute_slices=info.sliceCount,
                    instance_count=info.instanceCount,
                    sm_count=info.multiprocessorCount,
                    memory_mib=info.memorySizeMB,
                    placements=self._placements(handle, info.id),
                )

    def _placements(self, handle: Any, profile_id: int) -> tuple[tuple[int, int], ...]:
        """Where instances may start; nothing where the driver wants privilege for it."""
        nvml, count = self._nvml, ctypes.c_uint(0)
        read = nvml.nvmlDeviceGetGpuInstancePossiblePlacements
        asked = self._errors.optional(read, handle, profile_id, None, ctypes.byref(count))
        if asked is None or not count.value:
            return ()
        found = (nvml.c_nvmlGpuInstancePlacement_t * count.value)()
        read(handle, profile_id, found, ctypes.byref(count))
        return tuple((found[i].start, found[i].size) for i in range(count.value))


class XidWatch:
    """Collects the XIDs that GPUs report, in an event set polled at every reading."""

    def __init__(self, nvml: Any, errors: Translator) -> None:
        self._nvml, self._errors = nvml, errors
        self._events = errors.optional(nvml.nvmlEventSetCreate)
        self._uuids: dict[int, str] = {}
        self._seen: dict[str, list[int]] = {}

    def watch(self, uuid: str, handle: Any) -> None:
        """Also collects this GPU's from now on, where the driver can."""
        nvml = self._nvml
        # Known by its handle: one that is off the bus answers no question about its UUID.
        self._uuids[_address(handle)] = uuid
        if self._events is not None:
            self._errors.optional(
                nvml.nvmlDeviceRegisterEvents,
                handle,
                nvml.nvmlEventTypeXidCriticalError,
                self._events,
            )

    def of(self, uuid: str) -> tuple[int, ...]:
        """The latest XIDs of the GPU, oldest first."""
        self._collect()
        return tuple(self._seen.get(uuid, ()))

    def _collect(self) -> None:
        while self._events is not None:
            try:
                event = self._nvml.nvmlEventSetWait_v2(self._events, 0)
            except self._nvml.NVMLError:
                # The time-out says that there are no more; a lost GPU is told by its own reading.
                return
            uuid = self._uuids.get(_address(event.device))
            if uuid is not None and event.eventType == self._nvml.nvmlEventTypeXidCriticalError:
                seen = self._seen.setdefault(uuid, [])
                seen.append(int(event.eventData))
                del seen[:-_MAX_XIDS]


def _address(handle: Any) -> int:
    return int(ctypes.cast(handle, ctypes.c_void_p).value or 0)
