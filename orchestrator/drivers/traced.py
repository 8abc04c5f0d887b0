"""A driver whose every change is a span."""

from __future__ import annotations

from orchestrator.drivers.base import Driver, GpuInfo, GpuInstance
from orchestrator.geometry import Geometry
from orchestrator.tracing import span


class TracedDriver:
    """Passes everything on; see `orchestrator.tracing`."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    async def gpus(self) -> tuple[GpuInfo, ...]:
        """See `GpuInventory`."""
        return await self._driver.gpus()

    def geometry(self, gpu_uuid: str) -> Geometry:
        """See `GpuInventory`."""
        return self._driver.geometry(gpu_uuid)

    async def instances(self) -> tuple[GpuInstance, ...]:
        """See `GpuInventory`."""
        return await self._driver.instances()

    async def create(self, gpu_uuid: str, profile: str, start: int) -> GpuInstance:
        """See `MigControl`."""
        with span("driver.create", gpu=gpu_uuid, profile=profile, start=start):
            return await self._driver.create(gpu_uuid, profile, start)

    async def destroy(self, uuid: str) -> None:
        """See `MigControl`."""
        with span("driver.destroy", partition=uuid):
            await self._driver.destroy(uuid)

    async def resize(self, uuid: str, profile: str, start: int) -> GpuInstance:
        """See `ShareControl`."""
        with span("driver.resize", partition=uuid, profile=profile, start=start):
            return await self._driver.resize(uuid, profile, start)

    async def attach(self, uuid: str, pid: int) -> None:
        """See `InstanceProcesses`."""
        with span("driver.attach", partition=uuid, pid=pid):
            await self._driver.attach(uuid, pid)

    async def detach(self, uuid: str, pid: int) -> None:
        """See `InstanceProcesses`."""
        with span("driver.detach", partition=uuid, pid=pid):
            await self._driver.detach(uuid, pid)

    async def evict(self, uuid: str) -> tuple[int, ...]:
        """See `InstanceProcesses`."""
        with span("driver.evict", partition=uuid):
            return await self._driver.evict(uuid)
