"""A driver that changes nothing unless this orchestrator leads."""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.drivers.base import Driver, GpuInfo, GpuInstance
from orchestrator.geometry import Geometry


class FencedDriver:
    """Passes everything on; before every change it asks `require`, which raises NotLeaderError
    where another orchestrator may lead by now."""

    def __init__(self, driver: Driver, require: Callable[[], None]) -> None:
        self._driver, self._require = driver, require

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
        self._require()
        return await self._driver.create(gpu_uuid, profile, start)

    async def destroy(self, uuid: str) -> None:
        """See `MigControl`."""
        self._require()
        await self._driver.destroy(uuid)

    async def resize(self, uuid: str, profile: str, start: int) -> GpuInstance:
        """See `ShareControl`."""
        self._require()
        return await self._driver.resize(uuid, profile, start)

    async def attach(self, uuid: str, pid: int) -> None:
        """See `InstanceProcesses`."""
        self._require()
        await self._driver.attach(uuid, pid)

    async def detach(self, uuid: str, pid: int) -> None:
        """See `InstanceProcesses`."""
        self._require()
        await self._driver.detach(uuid, pid)

    async def evict(self, uuid: str) -> tuple[int, ...]:
        """See `InstanceProcesses`."""
        self._require()
        return await self._driver.evict(uuid)
