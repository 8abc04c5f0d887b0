"""MIG GPU instances through NVML, each with one compute instance over all of it. Blocks."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from airan.core.errors import AiranError
from orchestrator.drivers.base import GpuInstance
from orchestrator.drivers.nvml_errors import Translator
from orchestrator.mig import MigGeometry, MigProfile, Placement


class Instances:
    """The GPU instances of one GPU in MIG mode."""

    def __init__(
        self, nvml: Any, errors: Translator, gpu_uuid: str, handle: Any, geometry: MigGeometry
    ) -> None:
        self._nvml, self._errors = nvml, errors
        self._gpu_uuid, self._handle, self._geometry = gpu_uuid, handle, geometry

    def all(self) -> list[tuple[GpuInstance, Any]]:
        """What there is and NVML's handle of it, by start; `pids` are those NVML sees."""
        devices = self._mig_devices()
        found = [(self._instance(one, devices), one) for one in self._gpu_instances()]
        return sorted(found, key=lambda pair: pair[0].placement)

    def create(self, profile_name: str, start: int) -> GpuInstance:
        """Makes one at an explicit place; half a one is removed again.

        Raises:
            As `MigControl.create`.
        """
        nvml = self._nvml
        profile = self._geometry.profile(profile_name)
        placement = self._geometry.placement(profile_name, start)
        where = nvml.c_nvmlGpuInstancePlacement_t(placement.start, placement.size)
        what = f"creating {profile.name} at slice {start} of {self._gpu_uuid}"
        with self._errors.translated(what):
            made = nvml.nvmlDeviceCreateGpuInstanceWithPlacement(
                self._handle, profile.profile_id, ctypes.byref(where)
            )
        try:
            with self._errors.translated(f"{what}, its compute instance"):
                self._create_compute(made, profile)
        except AiranError:
            # Half an instance is none: what was made goes again, if the driver lets it.
            with suppress(nvml.NVMLError):
                nvml.nvmlGpuInstanceDestroy(made)
            raise
        return self._instance(made, self._mig_devices())

    def _create_compute(self, made: Any, profile: MigProfile) -> None:
        nvml = self._nvml
        whole = nvml.nvmlGpuInstanceGetComputeInstanceProfileInfo(
            made,
            getattr(nvml, f"NVML_COMPUTE_INSTANCE_PROFILE_{profile.compute_slices}_SLICE"),
            nvml.NVML_COMPUTE_INSTANCE_ENGINE_PROFILE_SHARED,
        )
        nvml.nvmlGpuInstanceCreateComputeInstance(made, whole.id)

    def destroy(self, instance: GpuInstance, gpu_instance: Any) -> None:
        """Removes one: its compute instances first.

        Raises:
            As `MigControl.destroy`.
        """
        what = f"destroying {instance.placement.profile} {instance.uuid} of {self._gpu_uuid}"
        with self._errors.translated(what):
            for compute in self._compute_instances(gpu_instance):
                self._nvml.nvmlComputeInstanceDestroy(compute)
            self._nvml.nvmlGpuInstanceDestroy(gpu_instance)

    def _gpu_instances(self) -> Iterator[Any]:
        for profile in self._geometry.profiles:
            count = ctypes.c_uint(0)
            found = (self._nvml.c_nvmlGpuInstance_t * profile.max_count)()
            self._nvml.nvmlDeviceGetGpuInstances(
                self._handle, profile.profile_id, found, ctypes.byref(count)
            )
            yield from list(found[: count.value])

    def _mig_devices(self) -> dict[int, tuple[str, Any]]:
        """MIG UUID and handle by GPU instance."""
        nvml = self._nvml
        devices: dict[int, tuple[str, Any]] = {}
        for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(self._handle)):
            try:
                device = nvml.nvmlDeviceGetMigDeviceHandleByIndex(self._handle, index)
            except nvml.NVMLError as error:
                if self._errors.name(error) != "NVML_ERROR_NOT_FOUND":
                    raise
                continue
            number = nvml.nvmlDeviceGetGpuInstanceId(device)
            devices[number] = (nvml.nvmlDeviceGetUUID(device), device)
        return devices

    def _instance(self, gpu_instance: Any, devices: dict[int, tuple[str, Any]]) -> GpuInstance:
        nvml = self._nvml
        info = nvml.nvmlGpuInstanceGetInfo(gpu_instance)
        profile = next(one for one in self._geometry.profiles if one.profile_id == info.profileId)
        # One whose compute instance was never made has no MIG UUID; it can still be removed.
        uuid, device = devices.get(info.id, (f"GI-{self._gpu_uuid}-{info.id}", None))
        seen = () if device is None else nvml.nvmlDeviceGetComputeRunningProcesses(device)
        return GpuInstance(
            uuid=uuid,
            gpu_uuid=self._gpu_uuid,
            placement=Placement(info.placement.start, info.placement.size, profile.name),
            sm_count=profile.sm_count,
            memory_mib=profile.memory_mib,
            state="ready",
            pids=tuple(sorted({one.pid for one in seen})),
        )

    def _compute_instances(self, gpu_instance: Any) -> Iterator[Any]:
        nvml = self._nvml
        for number in range(nvml.NVML_COMPUTE_INSTANCE_PROFILE_COUNT):
            info = self._errors.optional(
                nvml.nvmlGpuInstanceGetComputeInstanceProfileInfo,
                gpu_instance,
                number,
                nvml.NVML_COMPUTE_INSTANCE_ENGINE_PROFILE_SHARED,
            )
            if info is None:
                continue
            count = ctypes.c_uint(0)
            found = (nvml.c_nvmlComputeInstance_t * max(1, info.instanceCount))()
            nvml.nvmlGpuInstanceGetComputeInstances(
                gpu_instance, info.id, found, ctypes.byref(count)
            )
            yield from list(found[: count.value])
