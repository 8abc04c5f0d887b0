"""A stand-in for pynvml that answers with what a real H100 answered, and keeps NVML's rules.

Readings: data/nvml_h100_sxm_80gb.json, read through nvidia-ml-py from one H100 80GB HBM3 with MIG
mode off. That GPU's MIG mode was never switched on: what happens then follows NVIDIA's
documentation (profile ids, placements, error codes), not a recording. The figures under
`NOT_RECORDED` are plausible ones. Arguments and answers are pynvml's own structures.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import threading
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pynvml

READINGS = Path(__file__).parent / "data" / "nvml_h100_sxm_80gb.json"
GPU_UUID = "GPU-00000000-0000-0000-0000-000000000001"
NOT_RECORDED = {
    "memory_b": 81_559 * 1024 * 1024,
    "power_mw": 118_000,
    "energy_mj": 5_000_000,
    "ecc_uncorrected": 3,
}
_GPU = 0x1000
_SLICES = {
    pynvml.NVML_COMPUTE_INSTANCE_PROFILE_1_SLICE: 1,
    pynvml.NVML_COMPUTE_INSTANCE_PROFILE_2_SLICE: 2,
    pynvml.NVML_COMPUTE_INSTANCE_PROFILE_3_SLICE: 3,
    pynvml.NVML_COMPUTE_INSTANCE_PROFILE_4_SLICE: 4,
    pynvml.NVML_COMPUTE_INSTANCE_PROFILE_7_SLICE: 7,
}


@dataclass
class _Instance:
    handle: int
    number: int
    """NVML's GPU instance id, free for another once it is destroyed."""
    profile_id: int
    start: int
    size: int
    compute: int = 0
    """Its compute instance's handle; 0: none."""
    mig_uuid: str = ""
    pids: list[int] = field(default_factory=list)


class RecordedNvml:
    """One H100. pynvml's constants and types are its own; functions not recorded here fail.

    Args:
        mig: whether an administrator has switched MIG mode on.
        privileged: whether this user may ask for placements and change instances.
    """

    FREE_MIB = 80_000
    """Not recorded."""

    def __init__(self, *, mig: bool = True, privileged: bool = True) -> None:
        body = json.loads(READINGS.read_text("utf-8"))
        self.by_enum = {one["profile_enum"]: one for one in body["gpu_instance_profiles"]}
        self.by_id = {one["id"]: one for one in self.by_enum.values()}
        self.name, self.power_limit_mw = body["name"], body["power_limit_mw"]
        self.mig, self.privileged = mig, privileged
        self.lost = False
        self.xids: list[int] = []
        self.fail: dict[str, int] = {}
        """Error by function name, for its next call."""
        self.answering = threading.Event()
        """Cleared: making an instance blocks, as it does in a driver that hangs."""
        self.answering.set()
        self.instances: dict[int, _Instance] = {}
        self._handles = itertools.count(0x2000, 0x10)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("nvml") and callable(getattr(pynvml, name)):
            raise AssertionError(f"{name} is not recorded")
        return getattr(pynvml, name)

    def _check(self, function: str) -> None:
        if self.lost:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        if code := self.fail.pop(function, 0):
            raise pynvml.NVMLError(code)

    def _check_mig(self, function: str, *, change: bool = False) -> None:
        self._check(function)
        if not self.mig:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        if change and not self.privileged:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NO_PERMISSION)

    # --- the GPU

    def nvmlInit(self) -> None:  # noqa: N802
        self._check("nvmlInit")

    def nvmlShutdown(self) -> None: ...  # noqa: N802

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any:  # noqa: N802
        self._check("nvmlDeviceGetHandleByIndex")
        return _pointer(_GPU, pynvml.c_nvmlDevice_t)

    def nvmlDeviceGetUUID(self, handle: Any) -> str:  # noqa: N802
        self._check("nvmlDeviceGetUUID")
        return GPU_UUID if _address(handle) == _GPU else self._of(handle).mig_uuid

    def nvmlDeviceGetName(self, handle: Any) -> str:  # noqa: N802
        self._check("nvmlDeviceGetName")
        return str(self.name)

    def nvmlDeviceGetMemoryInfo(self, handle: Any) -> Any:  # noqa: N802
        self._check("nvmlDeviceGetMemoryInfo")
        free_b = self.FREE_MIB * 1024 * 1024
        return pynvml.c_nvmlMemory_t(total=NOT_RECORDED["memory_b"], free=free_b)

    def nvmlDeviceGetPowerUsage(self, handle: Any) -> int:  # noqa: N802
        self._check("nvmlDeviceGetPowerUsage")
        return NOT_RECORDED["power_mw"]

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: Any) -> int:  # noqa: N802
        self._check("nvmlDeviceGetEnforcedPowerLimit")
        return int(self.power_limit_mw)

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: Any) -> int:  # noqa: N802
        self._check("nvmlDeviceGetTotalEnergyConsumption")
        return NOT_RECORDED["energy_mj"]

    def nvmlDeviceGetTemperatureV(self, handle: Any, sensor: int) -> int:  # noqa: N802
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    def nvmlDeviceGetTotalEccErrors(self, handle: Any, kind: int, counter: int) -> int:  # noqa: N802
        self._check("nvmlDeviceGetTotalEccErrors")
        assert (kind, counter) == (
            pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
            pynvml.NVML_VOLATILE_ECC,
        )
        return NOT_RECORDED["ecc_uncorrected"]

    def nvmlDeviceGetMigMode(self, handle: Any) -> list[int]:  # noqa: N802
        self._check("nvmlDeviceGetMigMode")
        return [int(self.mig), int(self.mig)]

    # --- XIDs

    def nvmlEventSetCreate(self) -> Any:  # noqa: N802
        self._check("nvmlEventSetCreate")
        return pynvml.c_nvmlEventSet_t()

    def nvmlDeviceRegisterEvents(self, handle: Any, types: int, events: Any) -> None:  # noqa: N802
        self._check("nvmlDeviceRegisterEvents")
        assert types == pynvml.nvmlEventTypeXidCriticalError

    def nvmlEventSetWait_v2(self, events: Any, timeout_ms: int) -> Any:  # noqa: N802
        if not self.xids:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_TIMEOUT)
        return pynvml.c_nvmlEventData_t(
            device=_pointer(_GPU, pynvml.c_nvmlDevice_t),
            eventType=pynvml.nvmlEventTypeXidCriticalError,
            eventData=self.xids.pop(0),
        )

    # --- MIG

    def nvmlDeviceGetGpuInstanceProfileInfo(self, handle: Any, profile: int) -> Any:  # noqa: N802
        self._check("nvmlDeviceGetGpuInstanceProfileInfo")
        one = self.by_enum.get(profile)
        if one is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        info = pynvml.c_nvmlGpuInstanceProfileInfo_v2_t()
        info.id, info.name = one["id"], one["name"].encode()
        info.sliceCount, info.instanceCount = one["slice_count"], one["instance_count"]
        info.multiprocessorCount = one["multiprocessor_count"]
        info.memorySizeMB = one["memory_size_mb"]
        return info

    def nvmlDeviceGetGpuInstancePossiblePlacements(  # noqa: N802
        self, handle: Any, profile_id: int, found: Any, count: Any
    ) -> int:
        self._check("nvmlDeviceGetGpuInstancePossiblePlacements")
        if not self.privileged:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NO_PERMISSION)
        places = self.by_id[profile_id]["placements"]
        count._obj.value = len(places)
        for index, place in enumerate(places if found is not None else ()):
            found[index].start, found[index].size = place["start"], place["size"]
        return int(pynvml.NVML_SUCCESS)

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: Any) -> int:  # noqa: N802
        return 7 if self.mig else 0

    def nvmlDeviceCreateGpuInstanceWithPlacement(  # noqa: N802
        self, handle: Any, profile_id: int, placement: Any
    ) -> Any:
        self.answering.wait()
        self._check_mig("nvmlDeviceCreateGpuInstanceWithPlacement", change=True)
        start, size = placement._obj.start, placement._obj.size
        profile = self.by_id.get(profile_id)
        if profile is None or {"start": start, "size": size} not in profile["placements"]:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        others = self.instances.values()
        same = sum(one.profile_id == profile_id for one in others)
        taken = any(start < one.start + one.size and one.start < start + size for one in others)
        if taken or same >= profile["instance_count"]:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_INSUFFICIENT_RESOURCES)
        number = next(n for n in itertools.count(1) if n not in {one.number for one in others})
        made = _Instance(next(self._handles), number, profile_id, start, size)
        self.instances[made.handle] = made
        return _pointer(made.handle, pynvml.c_nvmlGpuInstance_t)

    def nvmlGpuInstanceDestroy(self, gpu_instance: Any) -> int:  # noqa: N802
        self._check_mig("nvmlGpuInstanceDestroy", change=True)
        if self._of(gpu_instance).compute:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_IN_USE)
        del self.instances[_address(gpu_instance)]
        return int(pynvml.NVML_SUCCESS)

    def nvmlDeviceGetGpuInstances(  # noqa: N802
        self, handle: Any, profile_id: int, found: Any, count: Any
    ) -> int:
        self._check_mig("nvmlDeviceGetGpuInstances")
        own = [one for one in self.instances.values() if one.profile_id == profile_id]
        for index, one in enumerate(own):
            found[index] = _pointer(one.handle, pynvml.c_nvmlGpuInstance_t)
        count._obj.value = len(own)
        return int(pynvml.NVML_SUCCESS)

    def nvmlGpuInstanceGetInfo(self, gpu_instance: Any) -> Any:  # noqa: N802
        self._check_mig("nvmlGpuInstanceGetInfo")
        one = self._of(gpu_instance)
        place = pynvml.c_nvmlGpuInstancePlacement_t(one.start, one.size)
        return pynvml.c_nvmlGpuInstanceInfo_t(
            id=one.number, profileId=one.profile_id, placement=place
        )

    def nvmlGpuInstanceGetComputeInstanceProfileInfo(  # noqa: N802
        self, gpu_instance: Any, profile: int, engine: int
    ) -> Any:
        self._check_mig("nvmlGpuInstanceGetComputeInstanceProfileInfo")
        slices, whole = _SLICES.get(profile), self._slices(gpu_instance)
        if slices is None or slices > whole:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        info = pynvml.c_nvmlComputeInstanceProfileInfo_v2_t()
        info.id, info.sliceCount, info.instanceCount = profile, slices, whole // slices
        return info

    def nvmlGpuInstanceCreateComputeInstance(self, gpu_instance: Any, profile_id: int) -> Any:  # noqa: N802
        self._check_mig("nvmlGpuInstanceCreateComputeInstance", change=True)
        assert _SLICES[profile_id] == self._slices(gpu_instance), "not over all of it"
        one = self._of(gpu_instance)
        one.compute, one.mig_uuid = next(self._handles), f"MIG-{uuid.uuid4()}"
        return _pointer(one.compute, pynvml.c_nvmlComputeInstance_t)

    def nvmlGpuInstanceGetComputeInstances(  # noqa: N802
        self, gpu_instance: Any, profile_id: int, found: Any, count: Any
    ) -> int:
        self._check_mig("nvmlGpuInstanceGetComputeInstances")
        one = self._of(gpu_instance)
        count._obj.value = 0
        if one.compute and _SLICES[profile_id] == self._slices(gpu_instance):
            found[0] = _pointer(one.compute, pynvml.c_nvmlComputeInstance_t)
            count._obj.value = 1
        return int(pynvml.NVML_SUCCESS)

    def nvmlComputeInstanceDestroy(self, compute: Any) -> int:  # noqa: N802
        self._check_mig("nvmlComputeInstanceDestroy", change=True)
        one = next(one for one in self.instances.values() if one.compute == _address(compute))
        if one.pids:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_IN_USE)
        one.compute, one.mig_uuid = 0, ""
        return int(pynvml.NVML_SUCCESS)

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: Any, index: int) -> Any:  # noqa: N802
        self._check_mig("nvmlDeviceGetMigDeviceHandleByIndex")
        ready = [one.handle for one in self.instances.values() if one.compute]
        if index >= len(ready):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return _pointer(ready[index], pynvml.c_nvmlDevice_t)

    def nvmlDeviceGetGpuInstanceId(self, device: Any) -> int:  # noqa: N802
        return self._of(device).number

    def nvmlDeviceGetComputeRunningProcesses(self, device: Any) -> list[Any]:  # noqa: N802
        self._check_mig("nvmlDeviceGetComputeRunningProcesses")
        pids = self._of(device).pids
        seen = [pynvml.c_nvmlProcessInfo_v3_t(pid=pid) for pid in pids]
        return [pynvml.nvmlStructToFriendlyObject(one) for one in seen]

    def _of(self, handle: Any) -> _Instance:
        if _address(handle) not in self.instances:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return self.instances[_address(handle)]

    def _slices(self, gpu_instance: Any) -> int:
        return int(self.by_id[self._of(gpu_instance).profile_id]["slice_count"])


def _pointer(address: int, kind: Any) -> Any:
    return ctypes.cast(ctypes.c_void_p(address), kind)


def _address(pointer: Any) -> int:
    return int(ctypes.cast(pointer, ctypes.c_void_p).value or 0)
