"""A node as its agent shows it: a driver whose calls are calls of a Ray actor.

Here Ray's errors become ours, all of them.
"""

from __future__ import annotations

from typing import Any

from ray.actor import ActorHandle
from ray.exceptions import ActorDiedError, ActorUnschedulableError, RayError

from airan.core.errors import NotFoundError, UnavailableError
from airan.site.node_agent import Answer
from orchestrator.drivers.base import GpuInfo, GpuInstance
from orchestrator.geometry import Geometry


class AgentDriver:
    """The node `name` for the orchestrator of an epoch. Belongs to one event loop, which no call
    blocks; how long one may take is for the caller to say."""

    def __init__(self, name: str, agent: ActorHandle, epoch: int) -> None:
        self.name, self.dead = name, False
        """`dead`: the agent is gone for good; its node needs another."""
        self._agent, self._epoch = agent, epoch
        self._geometries: dict[str, tuple[tuple[str, str], Geometry]] = {}

    async def gpus(self) -> tuple[GpuInfo, ...]:
        """See `GpuInventory`."""
        found: tuple[GpuInfo, ...] = await self._call("gpus")
        for info in found:
            # `geometry` must not wait; and an operator may switch the MIG mode.
            kind = (info.name, info.mig_mode)
            known = self._geometries.get(info.uuid)
            if known is None or known[0] != kind:
                await self._learn(info.uuid, kind)
        return found

    def geometry(self, gpu_uuid: str) -> Geometry:
        """See `GpuInventory`."""
        if gpu_uuid not in self._geometries:
            raise NotFoundError(f"there is no GPU {gpu_uuid} with a known geometry on {self.name}")
        return self._geometries[gpu_uuid][1]

    async def instances(self) -> tuple[GpuInstance, ...]:
        """See `GpuInventory`."""
        found: tuple[GpuInstance, ...] = await self._call("instances")
        return found

    async def create(self, gpu_uuid: str, profile: str, start: int) -> GpuInstance:
        """See `MigControl`."""
        made: GpuInstance = await self._call("create", gpu_uuid, profile, start)
        return made

    async def destroy(self, uuid: str) -> None:
        """See `MigControl`."""
        await self._call("destroy", uuid)

    async def resize(self, uuid: str, profile: str, start: int) -> GpuInstance:
        """See `ShareControl`."""
        made: GpuInstance = await self._call("resize", uuid, profile, start)
        return made

    async def attach(self, uuid: str, pid: int) -> None:
        """See `InstanceProcesses`."""
        await self._call("attach", uuid, pid)

    async def detach(self, uuid: str, pid: int) -> None:
        """See `InstanceProcesses`."""
        await self._call("detach", uuid, pid)

    async def evict(self, uuid: str) -> tuple[int, ...]:
        """See `InstanceProcesses`."""
        gone: tuple[int, ...] = await self._call("evict", uuid)
        return gone

    async def _learn(self, gpu_uuid: str, kind: tuple[str, str]) -> None:
        self._geometries.pop(gpu_uuid, None)
        try:
            self._geometries[gpu_uuid] = kind, await self._call("geometry", gpu_uuid)
        except NotFoundError:
            # Nobody knows how to divide it; then it is no part of the pool.
            return

    async def _call(self, method: str, *arguments: Any) -> Any:
        try:
            answer: Answer = await self._agent.call.remote(self._epoch, method, *arguments)
        except RayError as error:
            self.dead = self.dead or isinstance(error, ActorDiedError | ActorUnschedulableError)
            raise UnavailableError(
                f"the agent of node {self.name} does not answer: {type(error).__name__}",
                remedy="it is started again by itself; see `ray status`",
            ) from error
        if answer.error is not None:
            raise answer.error
        return answer.value
