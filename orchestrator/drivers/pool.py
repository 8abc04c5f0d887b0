"""Several nodes as one driver. A call goes to the node that has the GPU or the instance.

A node that does not answer holds nobody up: what it last told stands in for it, until it is
lost and its GPUs count as fallen off the bus (`pool_member`). The pool never guesses: what it
finds on a node that answers again is shown as it is, and reconciling it is the planner's work.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping

from airan.core.clock import Clock, SystemClock
from airan.core.errors import NotFoundError, UnavailableError
from orchestrator.drivers.base import Driver, GpuInfo, GpuInstance
from orchestrator.drivers.pool_member import Member, PoolSettings
from orchestrator.geometry import Geometry

__all__ = ["PoolDriver", "PoolSettings"]

_LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_LOG = logging.getLogger("airan.orchestrator")


def _log(kind: str, message: str, severity: str) -> None:
    _LOG.log(_LEVELS[severity], "%s: %s", kind, message)


class PoolDriver:
    """The nodes that `nodes` names, and those that join later. Belongs to one event loop."""

    tell: Callable[[str, str, str], object]
    """Called from within readings with what has happened to nodes: kind (`node.joined`,
    `node.lost`, `node.back`, `node.doubled`), message, severity."""

    def __init__(
        self,
        nodes: Mapping[str, Driver],
        clock: Clock | None = None,
        settings: PoolSettings | None = None,
    ) -> None:
        self._clock, self._settings = clock or SystemClock(), settings or PoolSettings()
        self._news: deque[tuple[str, str, str]] = deque()
        self._owners: dict[str, Member] = {}
        self._doubled: set[tuple[str, str]] = set()
        self.tell = _log
        self._members = {name: self._member(name, driver) for name, driver in nodes.items()}

    def _member(self, name: str, driver: Driver) -> Member:
        return Member(name, driver, self._clock, self._settings, self._note)

    # --- nodes

    @property
    def nodes(self) -> tuple[str, ...]:
        """Their names, lost ones included."""
        return tuple(self._members)

    @property
    def lost_nodes(self) -> tuple[str, ...]:
        """The names of the lost ones."""
        return tuple(member.name for member in self._members.values() if member.lost)

    def put(self, name: str, driver: Driver) -> None:
        """A node joins, or is reached through another driver from now on."""
        if name in self._members:
            self._members[name].replace_driver(driver)
        else:
            self._members[name] = self._member(name, driver)
            self._note("node.joined", f"node {name} joins the pool", "info")

    async def meet(self) -> None:
        """Returns when every node has answered once, or is lost: before that, planning would
        take a slow node for an absent one."""
        await self._read(Member.read_gpus)
        await asyncio.gather(*(member.settled.wait() for member in self._members.values()))

    async def close(self) -> None:
        """Asks silent nodes no more; the nodes themselves are left as they are."""
        await asyncio.gather(*(member.close() for member in self._members.values()))

    # --- GpuInventory

    async def gpus(self) -> tuple[GpuInfo, ...]:
        """See `GpuInventory`; by node. Those of a lost node are lost."""
        await self._read(Member.read_gpus)
        self._assign()
        return tuple(
            info
            for member in self._members.values()
            for info in member.gpus()
            if self._owners[info.uuid] is member
        )

    def geometry(self, gpu_uuid: str) -> Geometry:
        """See `GpuInventory`."""
        return self._of_gpu(gpu_uuid).geometry(gpu_uuid)

    async def instances(self) -> tuple[GpuInstance, ...]:
        """See `GpuInventory`; by node. A lost one has none."""
        await self._read(Member.read_instances)
        return tuple(
            one
            for member in self._members.values()
            for one in member.instances()
            if self._owners.get(one.gpu_uuid, member) is member
        )

    # --- MigControl

    async def create(self, gpu_uuid: str, profile: str, start: int) -> GpuInstance:
        """See `MigControl`."""
        member = self._of_gpu(gpu_uuid)
        made = await member.change(lambda: member.driver.create(gpu_uuid, profile, start))
        member.remember(made)
        return made

    async def destroy(self, uuid: str) -> None:
        """See `MigControl`."""
        member = await self._with_instance(uuid)
        await member.change(lambda: member.driver.destroy(uuid))

    # --- ShareControl

    async def resize(self, uuid: str, profile: str, start: int) -> GpuInstance:
        """See `ShareControl`."""
        member = await self._with_instance(uuid)
        changed = await member.change(lambda: member.driver.resize(uuid, profile, start))
        member.remember(changed)
        return changed

    # --- InstanceProcesses

    async def attach(self, uuid: str, pid: int) -> None:
        """See `InstanceProcesses`; the process must be on the node's host."""
        member = await self._with_instance(uuid)
        await member.change(lambda: member.driver.attach(uuid, pid))

    async def detach(self, uuid: str, pid: int) -> None:
        """See `InstanceProcesses`."""
        try:
            member = await self._with_instance(uuid)
        except NotFoundError:
            return
        await member.change(lambda: member.driver.detach(uuid, pid))

    async def evict(self, uuid: str) -> tuple[int, ...]:
        """See `InstanceProcesses`."""
        member = await self._with_instance(uuid)
        return await member.change(lambda: member.driver.evict(uuid))

    # --- within

    async def _read(self, ask: Callable[[Member], Awaitable[None]]) -> None:
        """Asks all nodes at the same time, then tells what has happened to them."""
        await asyncio.gather(*(ask(member) for member in self._members.values()))
        while self._news:
            self.tell(*self._news.popleft())

    def _note(self, kind: str, message: str, severity: str) -> None:
        self._news.append((kind, message, severity))

    def _assign(self) -> None:
        """Settles which node has which GPU. One that two of them show is the first's that is
        not lost: a host may have come back under another name."""
        owners: dict[str, Member] = {}
        for member in sorted(self._members.values(), key=lambda one: one.lost):
            for info in member.gpus():
                first = owners.setdefault(info.uuid, member)
                if first is not member and not member.lost:
                    self._tell_doubled(info.uuid, first, member)
        self._owners = owners

    def _tell_doubled(self, gpu_uuid: str, first: Member, second: Member) -> None:
        if (gpu_uuid, second.name) in self._doubled:
            return
        self._doubled.add((gpu_uuid, second.name))
        message = f"nodes {first.name} and {second.name} both show {gpu_uuid}; the first has it"
        self._note("node.doubled", message, "error")

    def _of_gpu(self, gpu_uuid: str) -> Member:
        if gpu_uuid not in self._owners:
            raise NotFoundError(f"there is no GPU {gpu_uuid}", remedy="see `airan gpu list`")
        return self._owners[gpu_uuid]

    async def _with_instance(self, uuid: str) -> Member:
        """The node that has the instance; asked for anew where it is not known yet.

        Raises:
            NotFoundError: there is no such instance.
            UnavailableError: a node that does not answer may have it.
        """
        if (found := self._holder(uuid)) is None:
            await self.instances()
            found = self._holder(uuid)
        if found is not None:
            return found
        if silent := [member.name for member in self._members.values() if member.silent]:
            raise UnavailableError(
                f"GPU instance {uuid} is not known; node {', '.join(silent)}, which does not"
                " answer, may have it",
                remedy="bring the host back",
            )
        raise NotFoundError(f"there is no GPU instance {uuid}")

    def _holder(self, uuid: str) -> Member | None:
        return next((one for one in self._members.values() if one.holds(uuid)), None)
