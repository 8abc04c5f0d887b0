"""The GPUs of this host divided by MPS or green contexts: parts are entries in books.

The GPU itself knows nothing of such a part. It is what its holder is started with (see
`environment`), and what holders and slot runtime keep to; the books say whose it is. They lie in a
file, so that a part outlives this process as a MIG instance does. GPUs whose MIG mode is on, and
everything that is read, are left to the driver below.
"""

from __future__ import annotations

import json
import os
import uuid as uuids
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from airan.core.errors import (
    CapacityError,
    InUseError,
    InvalidInputError,
    NotFoundError,
)
from orchestrator.drivers import processes
from orchestrator.drivers.base import GpuInfo, GpuInstance
from orchestrator.drivers.nvml import NvmlNode
from orchestrator.drivers.nvml_errors import lost
from orchestrator.geometry import Geometry
from orchestrator.mig import Placement

PART = "PART-"
"""UUIDs of parts begin with it; those of MIG instances with `MIG-`."""


@dataclass
class _Part:
    gpu_uuid: str
    profile: str
    start: int
    size: int
    pids: dict[str, float] = field(default_factory=dict)
    """When each process started that is attached to it."""

    @property
    def placement(self) -> Placement:
        return Placement(self.start, self.size, self.profile)

    @property
    def live(self) -> tuple[int, ...]:
        return tuple(int(pid) for pid, s in self.pids.items() if processes.is_alive(int(pid), s))


class SharedNode:
    """A node whose GPUs without MIG are divided as `node` shows them: by `mps` or by `green`."""

    def __init__(self, node: NvmlNode, path: Path) -> None:
        """`path` keeps the books.

        Raises:
            InvalidInputError: the books cannot be read.
        """
        self._node, self._path = node, path
        self._gpus: dict[str, GpuInfo] = {}
        self._parts: dict[str, _Part] = {}
        if path.exists():
            try:
                body = json.loads(path.read_text("utf-8"))
                self._parts = {uuid: _Part(**row) for uuid, row in body["parts"].items()}
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise InvalidInputError(
                    "books", f"{path} cannot be read: {error}", remedy="remove it"
                ) from error

    # --- GpuInventory

    async def gpus(self) -> tuple[GpuInfo, ...]:
        """See `GpuInventory`."""
        found = await self._node.gpus()
        self._gpus = {gpu.uuid: gpu for gpu in found}
        return found

    def geometry(self, gpu_uuid: str) -> Geometry:
        """See `GpuInventory`."""
        return self._node.geometry(gpu_uuid)

    async def instances(self) -> tuple[GpuInstance, ...]:
        """See `GpuInventory`."""
        below = await self._node.instances()
        order = {gpu.uuid: n for n, gpu in enumerate(await self.gpus()) if not gpu.lost}
        ours = [
            self._instance(uuid, part)
            for uuid, part in self._parts.items()
            # The driver may have been told to divide another way since.
            if part.gpu_uuid in order and self._is_of_kind(part)
        ]
        found = (*below, *ours)
        return tuple(sorted(found, key=lambda one: (order[one.gpu_uuid], one.placement)))

    # --- MigControl

    async def create(self, gpu_uuid: str, profile: str, start: int) -> GpuInstance:
        """See `MigControl`. Takes no time on the GPU: nothing is there yet that could compute."""
        await self._require(gpu_uuid)
        if not self._is_shared(gpu_uuid):
            return await self._node.create(gpu_uuid, profile, start)
        placement = self.geometry(gpu_uuid).placement(profile, start)
        self._refuse_overlap(gpu_uuid, placement, self._on(gpu_uuid))
        for uuid in [uuid for uuid, part in self._parts.items() if self._is_stale(part)]:
            del self._parts[uuid]
        uuid = f"{PART}{uuids.uuid4()}"
        self._parts[uuid] = _Part(gpu_uuid, profile, placement.start, placement.size)
        self._save()
        return self._instance(uuid, self._parts[uuid])

    async def destroy(self, uuid: str) -> None:
        """See `MigControl`."""
        if uuid not in self._parts:
            await self._node.destroy(uuid)
            return
        part = self._parts[uuid]
        await self._require(part.gpu_uuid)
        if pids := part.live:
            raise InUseError(
                f"{part.profile} {uuid} is in use by process {', '.join(map(str, pids))}",
                remedy="let the process detach, or evict it",
            )
        del self._parts[uuid]
        self._save()

    # --- ShareControl

    async def resize(self, uuid: str, profile: str, start: int) -> GpuInstance:
        """See `ShareControl`. Holders learn of it by their lease, and change over by gears."""
        if uuid not in self._parts:
            return await self._node.resize(uuid, profile, start)
        part = self._parts[uuid]
        await self._require(part.gpu_uuid)
        wanted = self.geometry(part.gpu_uuid).placement(profile, start)
        others = [other for other in self._on(part.gpu_uuid) if other is not part]
        self._refuse_overlap(part.gpu_uuid, wanted, others)
        if wanted != part.placement:
            self._parts[uuid] = replace(part, profile=profile, start=wanted.start, size=wanted.size)
            self._save()
        return self._instance(uuid, self._parts[uuid])

    # --- InstanceProcesses

    async def attach(self, uuid: str, pid: int) -> None:
        """See `InstanceProcesses`."""
        if uuid not in self._parts:
            await self._node.attach(uuid, pid)
            return
        start_s = processes.started_s(pid)
        if start_s is None:
            raise NotFoundError(f"there is no process {pid} to attach to {uuid}")
        self._parts[uuid].pids[str(pid)] = start_s
        self._save()

    async def detach(self, uuid: str, pid: int) -> None:
        """See `InstanceProcesses`."""
        if uuid not in self._parts:
            await self._node.detach(uuid, pid)
        elif self._parts[uuid].pids.pop(str(pid), None) is not None:
            self._save()

    async def evict(self, uuid: str) -> tuple[int, ...]:
        """See `InstanceProcesses`. A process killed is a client gone; the MPS server goes on."""
        if uuid not in self._parts:
            return await self._node.evict(uuid)
        pids, killed = self._parts[uuid].pids, []
        for pid, start_s in list(pids.items()):
            if await processes.kill(int(pid), start_s):
                killed.append(int(pid))
            pids.pop(pid, None)
        self._save()
        return tuple(killed)

    def close(self) -> None:
        """Lets the driver below go; the books stay."""
        self._node.close()

    # --- within

    async def _require(self, gpu_uuid: str) -> None:
        """Raises NotFoundError or UnavailableError unless the GPU is there."""
        if gpu_uuid not in {gpu.uuid for gpu in await self.gpus()}:
            raise NotFoundError(f"there is no GPU {gpu_uuid}")
        if self._gpus[gpu_uuid].lost:
            raise lost(f"GPU {gpu_uuid}")

    def _is_shared(self, gpu_uuid: str) -> bool:
        return self.geometry(gpu_uuid).kind in ("mps", "green")

    def _is_of_kind(self, part: _Part) -> bool:
        return self.geometry(part.gpu_uuid).kind == part.profile.partition(".")[0]

    def _is_stale(self, part: _Part) -> bool:
        """Of a way of dividing that is over; nobody computes on it any more."""
        is_known = part.gpu_uuid in self._gpus and not self._gpus[part.gpu_uuid].lost
        return is_known and not self._is_of_kind(part) and not part.live

    def _on(self, gpu_uuid: str) -> Sequence[_Part]:
        parts = self._parts.values()
        return [part for part in parts if part.gpu_uuid == gpu_uuid and self._is_of_kind(part)]

    @staticmethod
    def _refuse_overlap(gpu_uuid: str, wanted: Placement, others: Sequence[_Part]) -> None:
        for other in others:
            if wanted.overlaps(other.placement):
                raise CapacityError(
                    f"{wanted.profile} at {wanted.start} of {gpu_uuid}: insufficient resources,"
                    f" {other.profile} at {other.start} is in the way"
                )

    def _instance(self, uuid: str, part: _Part) -> GpuInstance:
        profile = self.geometry(part.gpu_uuid).profile(part.profile)
        return GpuInstance(
            uuid,
            part.gpu_uuid,
            part.placement,
            profile.sm_count,
            profile.memory_mib,
            "ready",
            part.live,
        )

    def _save(self) -> None:
        body: dict[str, Any] = {"parts": {uuid: vars(part) for uuid, part in self._parts.items()}}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        draft = self._path.with_suffix(".tmp")
        draft.write_text(json.dumps(body, indent=1), encoding="utf-8")
        os.replace(draft, self._path)
