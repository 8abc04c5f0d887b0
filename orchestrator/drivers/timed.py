"""A driver none of whose calls is waited for longer than a limit."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from airan.core.errors import UnavailableError
from orchestrator.drivers.base import Driver, GpuInfo, GpuInstance
from orchestrator.geometry import Geometry

T = TypeVar("T")


class TimedDriver:
    """Passes everything on; a call that takes longer than `limit_s` (wall seconds) fails with
    UnavailableError, which names it. It may take effect all the same: read the inventory again.
    """

    def __init__(self, driver: Driver, limit_s: float) -> None:
        self._driver, self._limit_s = driver, limit_s

    async def gpus(self) -> tuple[GpuInfo, ...]:
        """See `GpuInventory`."""
        return await self._in_time(self._driver.gpus(), "list the GPUs")

    def geometry(self, gpu_uuid: str) -> Geometry:
        """See `GpuInventory`."""
        return self._driver.geometry(gpu_uuid)

    async def instances(self) -> tuple[GpuInstance, ...]:
        """See `GpuInventory`."""
        return await self._in_time(self._driver.instances(), "list the GPU instances")

    async def create(self, gpu_uuid: str, profile: str, start: int) -> GpuInstance:
        """See `MigControl`."""
        what = f"create {profile} at slice {start} of {gpu_uuid}"
        return await self._in_time(self._driver.create(gpu_uuid, profile, start), what)

    async def destroy(self, uuid: str) -> None:
        """See `MigControl`."""
        await self._in_time(self._driver.destroy(uuid), f"destroy {uuid}")

    async def resize(self, uuid: str, profile: str, start: int) -> GpuInstance:
        """See `ShareControl`."""
        what = f"resize {uuid} to {profile}"
        return await self._in_time(self._driver.resize(uuid, profile, start), what)

    async def attach(self, uuid: str, pid: int) -> None:
        """See `InstanceProcesses`."""
        await self._in_time(self._driver.attach(uuid, pid), f"attach process {pid} to {uuid}")

    async def detach(self, uuid: str, pid: int) -> None:
        """See `InstanceProcesses`."""
        await self._in_time(self._driver.detach(uuid, pid), f"detach process {pid} from {uuid}")

    async def evict(self, uuid: str) -> tuple[int, ...]:
        """See `InstanceProcesses`."""
        return await self._in_time(self._driver.evict(uuid), f"evict the processes on {uuid}")

    async def _in_time(self, call: Awaitable[T], what: str) -> T:
        try:
            # asyncio.wait_for before Python 3.12 loses a cancellation that comes with the answer:
            # the control plane then never stops.
            async with asyncio.timeout(self._limit_s) as limit:
                return await call
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise UnavailableError(
                f"the driver took more than {self._limit_s:g} s to {what}",
                remedy="it is looked at again; see `airan gpu` if this goes on",
            ) from error
