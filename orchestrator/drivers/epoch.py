"""A node that refuses the changes of an orchestrator whose lead is over.

The leader refuses its own calls as soon as its lead is in doubt (`fenced`); a process that stood
still between that look and the call is refused here, at the node.
"""

from __future__ import annotations

import os
from pathlib import Path

from airan.core.errors import ConfigError, NotLeaderError
from orchestrator.drivers.base import Driver, GpuInfo, GpuInstance
from orchestrator.geometry import Geometry


class EpochGate:
    """The highest epoch that a node has seen, kept in a file so that it outlives the process.

    Raises:
        ConfigError: the file holds no epoch.
    """

    def __init__(self, node: str, path: Path) -> None:
        self._node, self._path = node, path
        self._highest = self._load()

    @property
    def highest(self) -> int:
        """The highest epoch seen; 0: none."""
        return self._highest

    def see(self, epoch: int) -> None:
        """Takes note of an epoch: from a higher one on, the lower ones change nothing here."""
        if epoch <= self._highest:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        draft = self._path.with_suffix(".tmp")
        with draft.open("w", encoding="ascii") as file:
            file.write(str(epoch))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._path)
        self._highest = epoch

    def admit(self, epoch: int) -> None:
        """Takes note of the epoch, and returns if none higher has been seen.

        Raises:
            NotLeaderError: one has.
        """
        self.see(epoch)
        if epoch < self._highest:
            raise NotLeaderError(
                f"node {self._node} obeys the orchestrator of epoch {self._highest}, not the one"
                f" of epoch {epoch}",
                remedy=f"if the database was made anew, remove {self._path} on the node",
            )

    def _load(self) -> int:
        try:
            text = self._path.read_text(encoding="ascii")
        except FileNotFoundError:
            return 0
        try:
            return int(text)
        except ValueError as error:
            raise ConfigError(
                f"{self._path} holds no epoch: {text[:40]!r}", remedy="remove it"
            ) from error


class EpochDriver:
    """The node as the orchestrator of one epoch sees it: it reads always, and changes what is
    there while the gate has seen no higher epoch. Readings, too, show the gate the epoch: an
    orchestrator's first look ends its predecessor's changes."""

    def __init__(self, driver: Driver, gate: EpochGate, epoch: int) -> None:
        self._driver, self._gate, self._epoch = driver, gate, epoch

    async def gpus(self) -> tuple[GpuInfo, ...]:
        """See `GpuInventory`."""
        self._gate.see(self._epoch)
        return await self._driver.gpus()

    def geometry(self, gpu_uuid: str) -> Geometry:
        """See `GpuInventory`."""
        return self._driver.geometry(gpu_uuid)

    async def instances(self) -> tuple[GpuInstance, ...]:
        """See `GpuInventory`."""
        self._gate.see(self._epoch)
        return await self._driver.instances()

    async def create(self, gpu_uuid: str, profile: str, start: int) -> GpuInstance:
        """See `MigControl`."""
        self._gate.admit(self._epoch)
        return await self._driver.create(gpu_uuid, profile, start)

    async def destroy(self, uuid: str) -> None:
        """See `MigControl`."""
        self._gate.admit(self._epoch)
        await self._driver.destroy(uuid)

    async def resize(self, uuid: str, profile: str, start: int) -> GpuInstance:
        """See `ShareControl`."""
        self._gate.admit(self._epoch)
        return await self._driver.resize(uuid, profile, start)

    async def attach(self, uuid: str, pid: int) -> None:
        """See `InstanceProcesses`."""
        self._gate.admit(self._epoch)
        await self._driver.attach(uuid, pid)

    async def detach(self, uuid: str, pid: int) -> None:
        """See `InstanceProcesses`."""
        self._gate.admit(self._epoch)
        await self._driver.detach(uuid, pid)

    async def evict(self, uuid: str) -> tuple[int, ...]:
        """See `InstanceProcesses`."""
        self._gate.admit(self._epoch)
        return await self._driver.evict(uuid)
