"""The GPUs of this host through NVML (nvidia-ml-py): inventory, health, MIG control.

MIG mode is an administrator's decision and never switched here. Calls block, so they run in a
thread, one at a time.
"""

from __future__ import annotations

import asyncio
import ctypes
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, TypeVar

import pynvml

from airan.core.errors import AiranError, CapacityError, InUseError, NotFoundError, PermanentError
from orchestrator.drivers import processes
from orchestrator.drivers.base import GpuInfo, GpuInstance
from orchestrator.drivers.nvml_errors import from_nvml
from orchestrator.geometry import Geometry
from orchestrator.mig import MigGeometry, Placement
from orchestrator.mig_table import ProfileReading, from_readings, product_of
from orchestrator.shares import ShareGeometry

T = TypeVar("T")
_MIB = 1024 * 1024
_MAX_XIDS = 100
_ENABLE = "an administrator enables MIG: nvidia-smi -i GPU -mig 1"


class NvmlNode:
    """This host's GPUs.

    Args:
        nvml: the module pynvml, or one that answers like it.
        share_kind: how GPUs are divided whose MIG mode is off: `green`, `mps` or `whole`.

    Raises:
        UnavailableError: NVML cannot be loaded, or finds no driver.
    """

    def __init__(self, nvml: Any = pynvml, *, share_kind: str = "green") -> None:
        self._nvml, self._share_kind = nvml, share_kind
        self._node = socket.gethostname()
        self._lock = asyncio.Lock()
        self._names = {
            value: name
            for name, value in vars(pynvml).items()
            if name.startswith("NVML_ERROR_") and isinstance(value, int)
        }
        self._handles: dict[str, Any] = {}
        self._known: dict[str, GpuInfo] = {}
        self._geometries: dict[str, Geometry] = {}
        self._xids: dict[str, list[int]] = {}
        self._attached: dict[str, dict[int, float]] = {}
        with self._ours("starting NVML"):
            nvml.nvmlInit()
            for index in range(nvml.nvmlDeviceGetCount()):
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
                self._handles[nvml.nvmlDeviceGetUUID(handle)] = handle
        self._events = self._watch_xids()

    # --- GpuInventory

    async def gpus(self) -> tuple[GpuInfo, ...]:
        """See `GpuInventory`."""
        return await self._call(lambda: tuple(self._info(uuid) for uuid in self._handles))

    def geometry(self, gpu_uuid: str) -> Geometry:
        """See `GpuInventory`."""
        if gpu_uuid not in self._geometries:
            raise NotFoundError(f"no geometry is known of GPU {gpu_uuid}")
        return self._geometries[gpu_uuid]

    async def instances(self) -> tuple[GpuInstance, ...]:
        """See `GpuInventory`."""
        return await self._call(self._instances)

    # --- MigControl

    async def create(self, gpu_uuid: str, profile: str, start: int) -> GpuInstance:
        """See `MigControl`; where MIG mode is off, PermanentError."""
        return await self._call(lambda: self._create(gpu_uuid, profile, start))

    async def destroy(self, uuid: str) -> None:
        """See `MigControl`."""
        await self._call(lambda: self._destroy(uuid))

    # --- InstanceProcesses

    async def attach(self, uuid: str, pid: int) -> None:
        """See `InstanceProcesses`."""
        await self._existing(uuid)
        start_s = processes.started_s(pid)
        if start_s is None:
            raise NotFoundError(f"there is no process {pid} to attach to {uuid}")
        self._attached.setdefault(uuid, {})[pid] = start_s

    async def detach(self, uuid: str, pid: int) -> None:
        """See `InstanceProcesses`."""
        self._attached.get(uuid, {}).pop(pid, None)

    async def evict(self, uuid: str) -> tuple[int, ...]:
        """See `InstanceProcesses`; processes that NVML sees on the instance go too."""
        found = await self._existing(uuid)
        starts = {pid: processes.started_s(pid) for pid in found.pids}
        starts |= self._attached.pop(uuid, {})
        killed = []
        for pid, start_s in starts.items():
            if start_s is not None and await processes.kill(pid, start_s):
                killed.append(pid)
        return tuple(killed)

    async def _existing(self, uuid: str) -> GpuInstance:
        for one in await self.instances():
            if one.uuid == uuid:
                return one
        raise NotFoundError(f"there is no GPU instance {uuid}")

    # --- reading

    def _info(self, uuid: str) -> GpuInfo:
        try:
            self._collect_xids()
            info = self._read(uuid)
        except self._nvml.NVMLError as error:
            known = self._known.get(uuid)
            if known is None or self._name(error) != "NVML_ERROR_GPU_IS_LOST":
                raise
            info = replace(known, lost=True, xids=tuple(self._xids.get(uuid, ())))
        self._known[uuid] = info
        return info

    def _read(self, uuid: str) -> GpuInfo:
        nvml, handle = self._nvml, self._handles[uuid]
        memory_mib = nvml.nvmlDeviceGetMemoryInfo(handle).total // _MIB
        name = nvml.nvmlDeviceGetName(handle)
        mode = self._mig_mode(handle)
        geometry = self._read_geometry(uuid, name, memory_mib, mode)
        watts = self._optional(lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1e3)
        limit = self._optional(lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1e3)
        joules = self._optional(lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3)
        celsius = self._optional(
            lambda: float(nvml.nvmlDeviceGetTemperatureV(handle, nvml.NVML_TEMPERATURE_GPU))
        )
        ecc = self._optional(
            lambda: nvml.nvmlDeviceGetTotalEccErrors(
                handle, nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
            )
        )
        return GpuInfo(
            uuid=uuid,
            name=geometry.gpu,
            simulated=False,
            sm_count=geometry.sm_count,
            memory_mib=memory_mib,
            xids=tuple(self._xids.get(uuid, ())),
            node=self._node,
            mig_mode=mode,
            ecc_uncorrected=int(ecc or 0),
            power_w=watts,
            power_limit_w=limit,
            energy_j=joules,
            temperature_c=celsius,
        )

    def _read_geometry(self, uuid: str, name: str, memory_mib: int, mode: str) -> Geometry:
        known = self._geometries.get(uuid)
        if known is not None and (known.kind == "mig") == (mode == "enabled"):
            return known
        product = product_of(name, memory_mib)
        readings = list(self._profile_readings(self._handles[uuid]))
        mig = from_readings(product, readings) if readings else MigGeometry.load(product)
        geometry: Geometry = mig
        if mode != "enabled":
            geometry = ShareGeometry(product, self._share_kind, mig.sm_count, mig.memory_mib)
        self._geometries[uuid] = geometry
        return geometry

    def _mig_mode(self, handle: Any) -> str:
        modes = self._optional(lambda: self._nvml.nvmlDeviceGetMigMode(handle))
        if modes is None:
            return "unsupported"
        return "enabled" if modes[0] == self._nvml.NVML_DEVICE_MIG_ENABLE else "disabled"

    def _profile_readings(self, handle: Any) -> Iterator[ProfileReading]:
        nvml = self._nvml
        for number in range(nvml.NVML_GPU_INSTANCE_PROFILE_COUNT):
            info = self._optional(
                lambda number=number: nvml.nvmlDeviceGetGpuInstanceProfileInfo(handle, number)  # type: ignore[misc]
            )
            if info is None:
                continue
            name = info.name.decode() if isinstance(info.name, bytes) else info.name
            yield ProfileReading(
                name=name,
                profile_id=info.id,
                compute_slices=info.sliceCount,
                instance_count=info.instanceCount,
                sm_count=info.multiprocessorCount,
                memory_mib=info.memorySizeMB,
                placements=self._placements(handle, info.id),
            )

    def _placements(self, handle: Any, profile_id: int) -> tuple[tuple[int, int], ...]:
        """Where instances may start; nothing where the driver wants privilege for it."""
        nvml = self._nvml
        count = ctypes.c_uint(0)
        asked = self._optional(
            lambda: nvml.nvmlDeviceGetGpuInstancePossiblePlacements(
                handle, profile_id, None, ctypes.byref(count)
            )
        )
        if asked is None or not count.value:
            return ()
        found = (pynvml.c_nvmlGpuInstancePlacement_t * count.value)()
        nvml.nvmlDeviceGetGpuInstancePossiblePlacements(
            handle, profile_id, found, ctypes.byref(count)
        )
        return tuple((found[i].start, found[i].size) for i in range(count.value))

    def _instances(self) -> tuple[GpuInstance, ...]:
        found = []
        for uuid, handle in self._handles.items():
            info = self._info(uuid)
            if info.lost or info.mig_mode != "enabled":
                continue
            devices = self._mig_devices(handle)
            own = [
                self._instance(uuid, gpu_instance, devices)
                for gpu_instance in self._gpu_instances(uuid)
            ]
            found += sorted(own, key=lambda one: one.placement)
        return tuple(found)

    def _gpu_instances(self, gpu_uuid: str) -> Iterator[Any]:
        nvml, handle = self._nvml, self._handles[gpu_uuid]
        geometry = self._geometries[gpu_uuid]
        assert isinstance(geometry, MigGeometry)
        for profile in geometry.profiles:
            count = ctypes.c_uint(0)
            found = (pynvml.c_nvmlGpuInstance_t * profile.max_count)()
            nvml.nvmlDeviceGetGpuInstances(handle, profile.profile_id, found, ctypes.byref(count))
            yield from list(found[: count.value])

    def _mig_devices(self, handle: Any) -> dict[int, tuple[str, Any]]:
        """MIG UUID and handle by GPU instance."""
        nvml = self._nvml
        devices: dict[int, tuple[str, Any]] = {}
        for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
            try:
                device = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
            except nvml.NVMLError as error:
                if self._name(error) != "NVML_ERROR_NOT_FOUND":
                    raise
                continue
            number = nvml.nvmlDeviceGetGpuInstanceId(device)
            devices[number] = (nvml.nvmlDeviceGetUUID(device), device)
        return devices

    def _instance(
        self, gpu_uuid: str, gpu_instance: Any, devices: dict[int, tuple[str, Any]]
    ) -> GpuInstance:
        nvml, geometry = self._nvml, self._geometries[gpu_uuid]
        assert isinstance(geometry, MigGeometry)
        info = nvml.nvmlGpuInstanceGetInfo(gpu_instance)
        profile = next(one for one in geometry.profiles if one.profile_id == info.profileId)
        # One whose compute instance was never made has no MIG UUID; it can still be removed.
        uuid, device = devices.get(info.id, (f"GI-{gpu_uuid}-{info.id}", None))
        seen = nvml.nvmlDeviceGetComputeRunningProcesses(device) if device is not None else ()
        kept = self._attached.get(uuid, {})
        alive = {pid for pid, start_s in kept.items() if processes.is_alive(pid, start_s)}
        return GpuInstance(
            uuid=uuid,
            gpu_uuid=gpu_uuid,
            placement=Placement(info.placement.start, info.placement.size, profile.name),
            sm_count=profile.sm_count,
            memory_mib=profile.memory_mib,
            state="ready",
            pids=tuple(sorted(alive | {one.pid for one in seen})),
        )

    # --- health

    def _watch_xids(self) -> Any:
        """An event set for XIDs; None where the driver has none."""
        nvml = self._nvml
        try:
            events = nvml.nvmlEventSetCreate()
            for handle in self._handles.values():
                nvml.nvmlDeviceRegisterEvents(handle, nvml.nvmlEventTypeXidCriticalError, events)
        except nvml.NVMLError:
            return None
        return events

    def _collect_xids(self) -> None:
        if self._events is None:
            return
        # Ends with the time-out that says there are no more.
        with suppress(self._nvml.NVMLError):
            for _ in range(_MAX_XIDS):
                event = self._nvml.nvmlEventSetWait_v2(self._events, 0)
                uuid = self._nvml.nvmlDeviceGetUUID(event.device)
                self._xids.setdefault(uuid, []).append(int(event.eventData))
                del self._xids[uuid][:-_MAX_XIDS]

    # --- changing

    def _create(self, gpu_uuid: str, profile_name: str, start: int) -> GpuInstance:
        nvml = self._nvml
        geometry = self._mig_geometry(gpu_uuid)
        handle = self._handles[gpu_uuid]
        profile = geometry.profile(profile_name)
        placement = geometry.placement(profile_name, start)
        where = pynvml.c_nvmlGpuInstancePlacement_t(placement.start, placement.size)
        what = f"creating {profile.name} at slice {start} of {gpu_uuid}"
        with self._ours(what):
            made = nvml.nvmlDeviceCreateGpuInstanceWithPlacement(
                handle, profile.profile_id, ctypes.byref(where)
            )
        try:
            with self._ours(f"{what}, its compute instance"):
                compute = nvml.nvmlGpuInstanceGetComputeInstanceProfileInfo(
                    made,
                    getattr(nvml, f"NVML_COMPUTE_INSTANCE_PROFILE_{profile.compute_slices}_SLICE"),
                    nvml.NVML_COMPUTE_INSTANCE_ENGINE_PROFILE_SHARED,
                )
                nvml.nvmlGpuInstanceCreateComputeInstance(made, compute.id)
        except AiranError:
            # Half an instance is none: what was made goes again, if the driver lets it.
            with suppress(nvml.NVMLError):
                nvml.nvmlGpuInstanceDestroy(made)
            raise
        return self._instance(gpu_uuid, made, self._mig_devices(handle))

    def _destroy(self, uuid: str) -> None:
        gpu_uuid, gpu_instance, found = self._find(uuid)
        if found.pids:
            raise InUseError(
                f"{found.placement.profile} {uuid} is in use by process"
                f" {', '.join(map(str, found.pids))}",
                remedy="let the process detach, or evict it",
            )
        nvml = self._nvml
        with self._ours(f"destroying {found.placement.profile} {uuid} of {gpu_uuid}"):
            for compute in self._compute_instances(gpu_instance):
                nvml.nvmlComputeInstanceDestroy(compute)
            nvml.nvmlGpuInstanceDestroy(gpu_instance)
        self._attached.pop(uuid, None)

    def _compute_instances(self, gpu_instance: Any) -> Iterator[Any]:
        nvml = self._nvml
        for number in range(nvml.NVML_COMPUTE_INSTANCE_PROFILE_COUNT):
            info = self._optional(
                lambda number=number: nvml.nvmlGpuInstanceGetComputeInstanceProfileInfo(  # type: ignore[misc]
                    gpu_instance, number, nvml.NVML_COMPUTE_INSTANCE_ENGINE_PROFILE_SHARED
                )
            )
            if info is None:
                continue
            count = ctypes.c_uint(0)
            found = (pynvml.c_nvmlComputeInstance_t * max(1, info.instanceCount))()
            nvml.nvmlGpuInstanceGetComputeInstances(
                gpu_instance, info.id, found, ctypes.byref(count)
            )
            yield from list(found[: count.value])

    def _find(self, uuid: str) -> tuple[str, Any, GpuInstance]:
        for gpu_uuid, handle in self._handles.items():
            info = self._info(gpu_uuid)
            if info.lost or info.mig_mode != "enabled":
                continue
            devices = self._mig_devices(handle)
            for gpu_instance in self._gpu_instances(gpu_uuid):
                found = self._instance(gpu_uuid, gpu_instance, devices)
                if found.uuid == uuid:
                    return gpu_uuid, gpu_instance, found
        raise NotFoundError(f"there is no GPU instance {uuid}")

    def _mig_geometry(self, gpu_uuid: str) -> MigGeometry:
        if gpu_uuid not in self._handles:
            raise NotFoundError(f"there is no GPU {gpu_uuid}")
        info = self._info(gpu_uuid)
        if info.lost:
            raise from_nvml("NVML_ERROR_GPU_IS_LOST", f"GPU {gpu_uuid}")
        geometry = self._geometries[gpu_uuid]
        if not isinstance(geometry, MigGeometry):
            raise PermanentError(f"MIG mode is {info.mig_mode} on {gpu_uuid}", remedy=_ENABLE)
        return geometry

    # --- errors

    async def _call(self, work: Callable[[], T]) -> T:
        async with self._lock:
            return await asyncio.to_thread(self._translated, work)

    def _translated(self, work: Callable[[], T]) -> T:
        with self._ours("asking NVML"):
            return work()

    @contextmanager
    def _ours(self, what: str) -> Iterator[None]:
        try:
            yield
        except self._nvml.NVMLError as error:
            name = self._name(error)
            ours = from_nvml(name, what)
            if isinstance(ours, CapacityError) and name == "NVML_ERROR_INSUFFICIENT_RESOURCES":
                ours = CapacityError(f"{what}: insufficient resources", remedy=ours.remedy)
            raise ours from error

    def _name(self, error: Any) -> str:
        return str(self._names.get(error.value, f"NVML_ERROR_{error.value}"))

    def _optional(self, read: Callable[[], T]) -> T | None:
        """A reading that not every GPU, driver or user has."""
        try:
            return read()
        except self._nvml.NVMLError as error:
            absent = (
                "NVML_ERROR_NOT_SUPPORTED",
                "NVML_ERROR_NO_PERMISSION",
                "NVML_ERROR_INVALID_ARGUMENT",
                "NVML_ERROR_FUNCTION_NOT_FOUND",
                "NVML_ERROR_NOT_FOUND",
            )
            if self._name(error) in absent:
                return None
            raise
