"""Simulated hosts that can be made to hang, to refuse and to answer again, for tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from airan.core.clock import Clock
from airan.core.errors import NotFoundError, UnavailableError
from orchestrator.drivers.base import GpuInfo, GpuInstance
from orchestrator.drivers.pool import PoolSettings
from orchestrator.drivers.simulated import SimulatedNode
from orchestrator.geometry import Geometry

GPU = "GH200-96GB"
LOST_AFTER_S = 3.0
SETTINGS = PoolSettings(read_limit_s=0.25, lost_after_s=LOST_AFTER_S, probe_s=0.001)


class Host:
    """A simulated node behind a network: `hangs` leaves every call unanswered, `refuses` fails
    every call at once. One that `knows_nothing_yet` has no geometry before its GPUs are read, as
    a node behind an agent."""

    def __init__(
        self,
        name: str,
        path: Path | None = None,
        *,
        clock: Clock | None = None,
        knows_nothing_yet: bool = False,
    ) -> None:
        self.node = SimulatedNode(path, GPU, delays_s=(0.0, 0.0), clock=clock, name=name)
        self._knows = not knows_nothing_yet
        self.asked = 0
        self.is_far = False
        """Has none of this machine's processes."""
        self._refuses = False
        self._up = asyncio.Event()
        self._up.set()

    def hangs(self) -> None:
        self._up.clear()

    def refuses(self) -> None:
        self._refuses = True

    def stops_refusing(self) -> None:
        self._refuses = False

    def answers(self) -> None:
        self._refuses = False
        self._up.set()

    async def _pass(self) -> SimulatedNode:
        self.asked += 1
        if self._refuses:
            raise UnavailableError("connection refused")
        await self._up.wait()
        return self.node

    async def gpus(self) -> tuple[GpuInfo, ...]:
        found = await (await self._pass()).gpus()
        self._knows = True
        return found

    def geometry(self, gpu_uuid: str) -> Geometry:
        if not self._knows:
            raise NotFoundError(f"nothing is known of {gpu_uuid} yet")
        return self.node.geometry(gpu_uuid)

    async def instances(self) -> tuple[GpuInstance, ...]:
        return await (await self._pass()).instances()

    async def create(self, gpu_uuid: str, profile: str, start: int) -> GpuInstance:
        return await (await self._pass()).create(gpu_uuid, profile, start)

    async def destroy(self, uuid: str) -> None:
        await (await self._pass()).destroy(uuid)

    async def resize(self, uuid: str, profile: str, start: int) -> GpuInstance:
        return await (await self._pass()).resize(uuid, profile, start)

    async def attach(self, uuid: str, pid: int) -> None:
        node = await self._pass()
        if self.is_far:
            raise NotFoundError(f"there is no process {pid} to attach to {uuid}")
        await node.attach(uuid, pid)

    async def detach(self, uuid: str, pid: int) -> None:
        await (await self._pass()).detach(uuid, pid)

    async def evict(self, uuid: str) -> tuple[int, ...]:
        return await (await self._pass()).evict(uuid)


async def until(true: Callable[[], bool], what: str) -> None:
    """Lets other tasks run until it is so."""
    async with asyncio.timeout(30.0):
        while not true():
            await asyncio.sleep(0)
    assert true(), what
