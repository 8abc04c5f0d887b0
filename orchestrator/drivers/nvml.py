"""The GPUs of this host through NVML (nvidia-ml-py): inventory, health, MIG control.

MIG mode is an administrator's decision and never switched here. Calls block, so one thread of
the node's own makes them, one at a time.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

import pynvml

from airan.core.errors import InUseError, NotFoundError, PermanentError, UnavailableError
from orchestrator.drivers import processes
from orchestrator.drivers.base import GpuInfo, GpuInstance
from orchestrator.drivers.nvml_errors import Translator, lost
from orchestrator.drivers.nvml_instances import Instances
from orchestrator.drivers.nvml_reading import MIB, Reader, XidWatch
from orchestrator.geometry import Geometry
from orchestrator.mig import MigGeometry
from orchestrator.shares import ShareGeometry

T = TypeVar("T")
_ENABLE = "an administrator enables MIG mode: nvidia-smi -i GPU -mig 1"


class NvmlNode:
    """This host's GPUs.

    Args:
        nvml: the module pynvml, or one that answers like it.
        share_kind: how the GPUs are shown whose MIG mode is off. `whole`: each is one partition,
            always there. `green` and `mps` only tell the geometry: NVML cannot divide by them.
        timeout_s: after it a call that the driver has not answered fails. It may still be carried
            out, and those after it wait for it.

    Raises:
        UnavailableError: NVML cannot be loaded, or finds no driver.
    """

    def __init__(
        self, nvml: Any = pynvml, *, share_kind: str = "whole", timeout_s: float = 30.0
    ) -> None:
        self._nvml, self._share_kind, self._timeout_s = nvml, share_kind, timeout_s
        self._node = socket.gethostname()
        self._errors = Translator(nvml)
        self._read = Reader(nvml, self._errors)
        self._order: list[str] = []
        self._handles: dict[str, Any] = {}
        self._known: dict[str, GpuInfo] = {}
        self._geometries: dict[str, Geometry] = {}
        self._attached: dict[str, dict[int, float]] = {}
        self._seen: dict[str, list[GpuInstance]] = {}
        with self._errors.translated("starting NVML"):
            nvml.nvmlInit()
            self._xids = XidWatch(nvml, self._errors)
            for index in range(nvml.nvmlDeviceGetCount()):
                self._add(index)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="nvml")

    def _add(self, index: int) -> None:
        try:
            handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
            uuid = self._nvml.nvmlDeviceGetUUID(handle)
        except self._nvml.NVMLError as error:
            if not self._errors.is_lost(error):
                raise
            # Off the bus before we came: it has no UUID to be known by until the host restarts.
            uuid = f"GPU-lost-{self._node}-{index}"
            self._order.append(uuid)
            self._known[uuid] = GpuInfo(
                uuid, "", simulated=False, sm_count=0, memory_mib=0, lost=True, node=self._node
            )
            return
        self._order.append(uuid)
        self._handles[uuid] = handle
        self._xids.watch(uuid, handle)

    # --- GpuInventory

    async def gpus(self) -> tuple[GpuInfo, ...]:
        """See `GpuInventory`."""

        def read() -> tuple[GpuInfo, ...]:
            for uuid in self._handles:
                self._info(uuid)
            return tuple(self._known[uuid] for uuid in self._order)

        return await self._call(read)

    def geometry(self, gpu_uuid: str) -> Geometry:
        """See `GpuInventory`."""
        if gpu_uuid not in self._geometries:
            raise NotFoundError(f"no geometry is known of GPU {gpu_uuid}")
        return self._geometries[gpu_uuid]

    async def instances(self) -> tuple[GpuInstance, ...]:
        """See `GpuInventory`."""
        return await self._call(lambda: tuple(one for one, _, _ in self._instances()))

    async def free_mib(self, gpu_uuid: str) -> int:
        """Memory of the GPU that no process has.

        Raises:
            NotFoundError: there is no such GPU, or it cannot be reached.
            UnavailableError: the driver does not answer.
        """
        if gpu_uuid not in self._handles:
            raise NotFoundError(f"there is no GPU {gpu_uuid}")
        handle = self._handles[gpu_uuid]
        memory = await self._call(lambda: self._nvml.nvmlDeviceGetMemoryInfo(handle))
        return int(memory.free) // MIB

    # --- MigControl

    async def create(self, gpu_uuid: str, profile: str, start: int) -> GpuInstance:
        """See `MigControl`; where MIG mode is off, PermanentError."""
        return await self._call(lambda: self._divided(gpu_uuid).create(profile, start))

    async def destroy(self, uuid: str) -> None:
        """See `MigControl`."""
        await self._call(lambda: self._destroy(uuid))

    # --- ShareControl

    async def resize(self, uuid: str, profile: str, start: int) -> GpuInstance:
        """See `ShareControl`: always PermanentError, or NotFoundError."""
        await self._existing(uuid)
        raise PermanentError(
            f"{uuid} cannot become {profile} at {start}: NVML has no way to resize it",
            remedy="destroy it, and create another",
        )

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
        there = [*await self.instances(), *self._stranded()]
        for one in there:
            if one.uuid == uuid:
                return one
        raise NotFoundError(f"there is no GPU instance {uuid}")

    def _stranded(self) -> list[GpuInstance]:
        """What was last seen on GPUs that are lost now, with the processes that still live."""
        gone = [uuid for uuid, info in self._known.items() if info.lost]
        return [self._used(one) for uuid in gone for one in self._seen.get(uuid, ())]

    def close(self) -> None:
        """Lets NVML go. A call under way ends first, unless the driver hangs in it."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        with suppress(self._nvml.NVMLError):
            self._nvml.nvmlShutdown()

    # --- in the thread

    def _info(self, uuid: str) -> GpuInfo:
        try:
            info = self._info_now(uuid)
        except self._nvml.NVMLError as error:
            known = self._known.get(uuid)
            if known is None or not self._errors.is_lost(error):
                raise
            # What was read before says nothing of it now.
            info = replace(
                known,
                lost=True,
                xids=self._xids.of(uuid),
                power_w=None,
                power_limit_w=None,
                energy_j=None,
                temperature_c=None,
            )
        self._known[uuid] = info
        return info

    def _info_now(self, uuid: str) -> GpuInfo:
        nvml, handle = self._nvml, self._handles[uuid]
        mode = self._read.mig_mode(handle)
        geometry = self._geometry_now(uuid, mode)
        sensors = self._read.sensors(handle)
        return GpuInfo(
            uuid=uuid,
            name=nvml.nvmlDeviceGetName(handle) if geometry is None else geometry.gpu,
            simulated=False,
            sm_count=0 if geometry is None else geometry.sm_count,
            memory_mib=nvml.nvmlDeviceGetMemoryInfo(handle).total // MIB,
            xids=self._xids.of(uuid),
            node=self._node,
            mig_mode=mode,
            **vars(sensors),
        )

    def _geometry_now(self, uuid: str, mode: str) -> Geometry | None:
        known = self._geometries.get(uuid)
        if known is not None and (known.kind == "mig") == (mode == "enabled"):
            return known
        read = self._read.geometry(self._handles[uuid], mode, self._share_kind)
        if read is None:
            self._geometries.pop(uuid, None)
        else:
            self._geometries[uuid] = read
        return read

    def _instances(self) -> list[tuple[GpuInstance, Instances | None, Any]]:
        """What there is, its GPU's instances and NVML's handle; of GPUs that are not lost."""
        found: list[tuple[GpuInstance, Instances | None, Any]] = []
        for uuid in self._handles:
            if self._info(uuid).lost:
                continue
            divided = self._instances_of(uuid)
            if divided is None:
                self._seen[uuid] = self._undivided(uuid)
                found += [(self._used(one), None, None) for one in self._seen[uuid]]
                continue
            pairs = divided.all()
            self._seen[uuid] = [one for one, _ in pairs]
            found += [(self._used(one), divided, handle) for one, handle in pairs]
        return found

    def _undivided(self, uuid: str) -> list[GpuInstance]:
        """A GPU whose MIG mode is off is one partition, which is always there, and has the GPU's
        UUID. Only processes attached to it count: others on the GPU may be anybody's."""
        geometry = self._geometries.get(uuid)
        if not isinstance(geometry, ShareGeometry) or geometry.kind != "whole":
            return []
        (placement,) = geometry.maximal_layouts()[-1]
        sms, memory_mib = geometry.sm_count, geometry.memory_mib
        return [GpuInstance(uuid, uuid, placement, sms, memory_mib, "ready")]

    def _instances_of(self, uuid: str) -> Instances | None:
        geometry = self._geometries.get(uuid)
        if not isinstance(geometry, MigGeometry):
            return None
        return Instances(self._nvml, self._errors, uuid, self._handles[uuid], geometry)

    def _used(self, one: GpuInstance) -> GpuInstance:
        """With the processes attached to it that still live."""
        kept = list(self._attached.get(one.uuid, {}).items())
        alive = {pid for pid, start_s in kept if processes.is_alive(pid, start_s)}
        return replace(one, pids=tuple(sorted(alive | set(one.pids))))

    def _divided(self, gpu_uuid: str) -> Instances:
        if gpu_uuid not in self._handles and gpu_uuid not in self._known:
            raise NotFoundError(f"there is no GPU {gpu_uuid}")
        if gpu_uuid not in self._handles or self._info(gpu_uuid).lost:
            raise lost(f"GPU {gpu_uuid}")
        divided = self._instances_of(gpu_uuid)
        if divided is None:
            mode = self._known[gpu_uuid].mig_mode
            raise PermanentError(f"MIG mode is {mode} on {gpu_uuid}", remedy=_ENABLE)
        return divided

    def _destroy(self, uuid: str) -> None:
        for one, divided, handle in self._instances():
            if one.uuid != uuid:
                continue
            if one.pids:
                raise InUseError(
                    f"{one.placement.profile} {uuid} is in use by process"
                    f" {', '.join(map(str, one.pids))}",
                    remedy="let the process detach, or evict it",
                )
            if divided is None:
                raise PermanentError(f"{uuid} is a whole GPU, which cannot be destroyed")
            divided.destroy(one, handle)
            self._attached.pop(uuid, None)
            return
        for one in self._stranded():
            if one.uuid == uuid:
                raise lost(f"destroying {uuid} of {one.gpu_uuid}")
        raise NotFoundError(f"there is no GPU instance {uuid}")

    # --- the thread

    async def _call(self, work: Callable[[], T]) -> T:
        running = asyncio.get_running_loop().run_in_executor(self._thread, self._ours, work)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await running
        except TimeoutError as error:
            raise UnavailableError(
                f"NVML has not answered within {self._timeout_s:g} s",
                remedy="see the kernel's log; a GPU that hangs needs a reset",
            ) from error

    def _ours(self, work: Callable[[], T]) -> T:
        with self._errors.translated("asking NVML"):
            return work()
