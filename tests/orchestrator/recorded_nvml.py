"""A stand-in for pynvml that answers with what a real H100 answered, and keeps NVML's rules.

Readings: data/nvml_h100_sxm_80gb.json, read through nvidia-ml-py from one H100 80GB HBM3 with MIG
mode off. That GPU's MIG mode was never switched on: what happens then follows NVIDIA's
documentation (profile ids, placements, error codes), not a recording.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml

READINGS = Path(__file__).parent / "data" / "nvml_h100_sxm_80gb.json"
GPU_UUID = "GPU-00000000-0000-0000-0000-000000000001"


@dataclass
class _Instance:
    number: int
    profile_id: int
    start: int
    size: int
    compute: int = 0
    """Its compute instance's handle; 0: none."""
    mig_uuid: str = ""
    pids: list[int] = field(default_factory=list)


class RecordedNvml:
    """One H100; every attribute that is not overridden here is pynvml's own."""

    def __init__(self, *, mig: bool = True, privileged: bool = True) -> None:
        body = json.loads(READINGS.read_text("utf-8"))
        self.readings = {one["profile_enum"]: one for one in body["gpu_instance_profiles"]}
        self.by_id = {one["id"]: one for one in self.readings.values()}
        self.name = body["name"]
        self.mig, self.privileged = mig, privileged
        self.lost = False
        self.xids: list[int] = []
        self.fail: dict[str, int] = {}
        """Error by function name, for its next call."""
        self.instances: dict[int, _Instance] = {}
        self.handles = itertools.count(1000)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("nvml") and name not in ("nvmlEventTypeXidCriticalError",):
            raise AssertionError(f"{name} is not recorded")
        return getattr(pynvml, name)

    def _check(self, function: str) -> None:
        if self.lost:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        if code := self.fail.pop(function, 0):
            raise pynvml.NVMLError(code)

    # --- the GPU

    def nvmlInit(self) -> None: ...  # noqa: N802

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any:  # noqa: N802
        return "gpu"

    def nvmlDeviceGetUUID(self, handle: Any) -> str:  # noqa: N802
        if handle == "gpu":
            return GPU_UUID
        return self.instances[handle[1]].mig_uuid

    def nvmlDeviceGetName(self, handle: Any) -> str:  # noqa: N802
        self._check("nvmlDeviceGetName")
        return str(self.name)

    def nvmlDeviceGetMemoryInfo(self, handle: Any) -> Any:  # noqa: N802
        self._check("nvmlDeviceGetMemoryInfo")
        return SimpleNamespace(total=81559 * 1024 * 1024)

    def nvmlDeviceGetPowerUsage(self, handle: Any) -> int:  # noqa: N802
        return 118_000

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: Any) -> int:  # noqa: N802
        return 700_000

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: Any) -> int:  # noqa: N802
        return 5_000_000

    def nvmlDeviceGetTemperatureV(self, handle: Any, sensor: int) -> int:  # noqa: N802
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    def nvmlDeviceGetTotalEccErrors(self, handle: Any, kind: int, counter: int) -> int:  # noqa: N802
        return 0

    def nvmlDeviceGetMigMode(self, handle: Any) -> list[int]:  # noqa: N802
        return [int(self.mig), int(self.mig)]

    # --- XIDs

    def nvmlEventSetCreate(self) -> Any:  # noqa: N802
        return "events"

    def nvmlDeviceRegisterEvents(self, handle: Any, types: int, events: Any) -> None: ...  # noqa: N802

    def nvmlEventSetWait_v2(self, events: Any, timeout_ms: int) -> Any:  # noqa: N802
        if not self.xids:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_TIMEOUT)
        return SimpleNamespace(device="gpu", eventData=self.xids.pop(0))

    # --- MIG

    def nvmlDeviceGetGpuInstanceProfileInfo(self, handle: Any, profile: int) -> Any:  # noqa: N802
        one = self.readings.get(profile)
        if one is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return SimpleNamespace(
            id=one["id"],
            name=one["name"].encode(),
            sliceCount=one["slice_count"],
            instanceCount=one["instance_count"],
            multiprocessorCount=one["multiprocessor_count"],
            memorySizeMB=one["memory_size_mb"],
        )

    def nvmlDeviceGetGpuInstancePossiblePlacements(  # noqa: N802
        self, handle: Any, profile_id: int, found: Any, count: Any
    ) -> None:
        if not self.privileged:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NO_PERMISSION)
        places = self.by_id[profile_id]["placements"]
        count._obj.value = len(places)
        for index, place in enumerate(places if found is not None else ()):
            found[index].start, found[index].size = place["start"], place["size"]

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: Any) -> int:  # noqa: N802
        return 7 if self.mig else 0

    def nvmlDeviceCreateGpuInstanceWithPlacement(  # noqa: N802
        self, handle: Any, profile_id: int, placement: Any
    ) -> Any:
        self._check("nvmlDeviceCreateGpuInstanceWithPlacement")
        if not self.mig:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        if profile_id not in self.by_id:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        start, size = placement._obj.start, placement._obj.size
        if {"start": start, "size": size} not in self.by_id[profile_id]["placements"]:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        for other in self.instances.values():
            if start < other.start + other.size and other.start < start + size:
                raise pynvml.NVMLError(pynvml.NVML_ERROR_INSUFFICIENT_RESOURCES)
        number = next(self.handles)
        self.instances[number] = _Instance(number, profile_id, start, size)
        return _pointer(number, pynvml.c_nvmlGpuInstance_t)

    def nvmlGpuInstanceDestroy(self, gpu_instance: Any) -> None:  # noqa: N802
        self._check("nvmlGpuInstanceDestroy")
        if self._of(gpu_instance).compute:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_IN_USE)
        del self.instances[_number(gpu_instance)]

    def nvmlDeviceGetGpuInstances(  # noqa: N802
        self, handle: Any, profile_id: int, found: Any, count: Any
    ) -> None:
        own = [one for one in self.instances.values() if one.profile_id == profile_id]
        for index, one in enumerate(own):
            found[index] = _pointer(one.number, pynvml.c_nvmlGpuInstance_t)
        count._obj.value = len(own)

    def nvmlGpuInstanceGetInfo(self, gpu_instance: Any) -> Any:  # noqa: N802
        one = self._of(gpu_instance)
        place = SimpleNamespace(start=one.start, size=one.size)
        return SimpleNamespace(id=one.number, profileId=one.profile_id, placement=place)

    def nvmlGpuInstanceGetComputeInstanceProfileInfo(  # noqa: N802
        self, gpu_instance: Any, profile: int, engine: int
    ) -> Any:
        sizes = {"1_SLICE": 1, "2_SLICE": 2, "3_SLICE": 3, "4_SLICE": 4, "7_SLICE": 7}
        for name, slices in sizes.items():
            if getattr(pynvml, f"NVML_COMPUTE_INSTANCE_PROFILE_{name}") == profile:
                whole = self.by_id[self._of(gpu_instance).profile_id]["slice_count"]
                if slices <= whole:
                    return SimpleNamespace(id=slices, instanceCount=whole // slices)
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    def nvmlGpuInstanceCreateComputeInstance(self, gpu_instance: Any, profile_id: int) -> None:  # noqa: N802
        self._check("nvmlGpuInstanceCreateComputeInstance")
        one = self._of(gpu_instance)
        assert profile_id == self.by_id[one.profile_id]["slice_count"], "not over all of it"
        one.compute, one.mig_uuid = next(self.handles), f"MIG-{uuid.uuid4()}"

    def nvmlGpuInstanceGetComputeInstances(  # noqa: N802
        self, gpu_instance: Any, profile_id: int, found: Any, count: Any
    ) -> None:
        one = self._of(gpu_instance)
        count._obj.value = 0
        if one.compute and profile_id == self.by_id[one.profile_id]["slice_count"]:
            found[0] = _pointer(one.compute, pynvml.c_nvmlComputeInstance_t)
            count._obj.value = 1

    def nvmlComputeInstanceDestroy(self, compute: Any) -> None:  # noqa: N802
        self._check("nvmlComputeInstanceDestroy")
        one = next(one for one in self.instances.values() if one.compute == _number(compute))
        if one.pids:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_IN_USE)
        one.compute, one.mig_uuid = 0, ""

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: Any, index: int) -> Any:  # noqa: N802
        ready = [one.number for one in self.instances.values() if one.compute]
        if index >= len(ready):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return ("mig", ready[index])

    def nvmlDeviceGetGpuInstanceId(self, device: Any) -> int:  # noqa: N802
        return int(device[1])

    def nvmlDeviceGetComputeRunningProcesses(self, device: Any) -> list[Any]:  # noqa: N802
        return [SimpleNamespace(pid=pid) for pid in self.instances[device[1]].pids]

    def _of(self, gpu_instance: Any) -> _Instance:
        number = _number(gpu_instance)
        if number not in self.instances:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return self.instances[number]


def _pointer(number: int, kind: Any) -> Any:
    return ctypes.cast(ctypes.c_void_p(number), kind)


def _number(pointer: Any) -> int:
    return int(ctypes.cast(pointer, ctypes.c_void_p).value or 0)
