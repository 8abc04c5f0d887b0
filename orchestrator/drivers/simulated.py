"""A simulated GPU node: real geometry and placement rules, delays, in-use answers, faults.

No GPU is behind it; everything that shows it says "simulated". The node's state lives in a
file, because real GPU instances, too, outlive the process that made them.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import uuid as uuids
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from airan.core.clock import Clock, SystemClock
from airan.core.errors import (
    CapacityError,
    InUseError,
    NotFoundError,
    PermanentError,
    UnavailableError,
)
from orchestrator.drivers import processes
from orchestrator.drivers import simulated_board as board
from orchestrator.drivers.base import GpuInfo, GpuInstance
from orchestrator.drivers.faults import Faults
from orchestrator.drivers.simulated_board import XID_FELL_OFF_THE_BUS
from orchestrator.geometry import Geometry
from orchestrator.mig import MigGeometry, Placement
from orchestrator.shares import ShareGeometry

__all__ = ["XID_FELL_OFF_THE_BUS", "Faults", "SimulatedNode"]


class SimulatedNode:
    """A node with `n_gpus` GPUs of one product, or with those that `gpus` names.

    Its state lies in `path`; None: in memory only, for simulations of many changes. `kind` is how
    the GPUs are divided: `mig`, `mps`, `green` or `whole`. `delays_s` are the wall seconds that
    creating (or resizing) and destroying take; None: what `partition_kinds` has for the kind. A
    change goes on when this process dies in the middle of it, as it would in a real driver, but
    for a resizing, which then has not taken place. `name` stands for the host's; a named node has
    the same GPUs again should its file be lost, and no other has them.

    Raises:
        NotFoundError: the geometry table has no such product.
    """

    node: str
    """Host name that it reports."""

    def __init__(
        self,
        path: Path | None,
        gpu: str = "",
        n_gpus: int = 1,
        *,
        gpus: Sequence[str] = (),
        kind: str = "mig",
        delays_s: tuple[float, float] | None = None,
        clock: Clock | None = None,
        name: str = "",
    ) -> None:
        self.faults = Faults()
        self.node = name or socket.gethostname()
        self._create_s, self._destroy_s = delays_s or board.delays_s(kind)
        self._kind = kind
        self._clock = clock or SystemClock()
        self._path = path
        products = [*gpus] if gpus else [gpu] * n_gpus
        self._geometries = {product: board.geometry(product, kind) for product in products}
        self._state = self._load(products, name)
        self._gpus: dict[str, dict[str, Any]] = {row["uuid"]: row for row in self._state["gpus"]}
        self._save()

    @property
    def change_s(self) -> float:
        """Wall seconds that making (or resizing) and removing a partition take, together."""
        return self._create_s + self._destroy_s

    # --- GpuInventory

    async def gpus(self) -> tuple[GpuInfo, ...]:
        """See `GpuInventory`."""
        self._settle()
        self._integrate()
        rows = self._gpus.items()
        return tuple(board.info(row, self.geometry(uuid), self.node) for uuid, row in rows)

    def geometry(self, gpu_uuid: str) -> Geometry:
        """See `GpuInventory`."""
        return self._geometry(gpu_uuid)

    def _geometry(self, gpu_uuid: str) -> MigGeometry | ShareGeometry:
        return self._geometries[self._gpu(gpu_uuid)["product"]]

    async def instances(self) -> tuple[GpuInstance, ...]:
        """See `GpuInventory`."""
        self._settle()
        order = {uuid: i for i, uuid in enumerate(self._gpus)}
        lost = {uuid for uuid, gpu in self._gpus.items() if board.is_lost(gpu)}
        rows = self._state["instances"].items()
        found = [self._instance(uuid, row) for uuid, row in rows if row["gpu"] not in lost]
        return tuple(sorted(found, key=lambda one: (order[one.gpu_uuid], one.placement)))

    # --- MigControl

    async def create(self, gpu_uuid: str, profile: str, start: int) -> GpuInstance:
        """See `MigControl`."""
        async with self._changing(gpu_uuid):
            self._settle()
            placement = self._free(gpu_uuid, profile, start)
            uuid = f"MIG-{uuids.uuid4()}"
            self._state["instances"][uuid] = {
                "gpu": gpu_uuid,
                "profile": placement.profile,
                "start": placement.start,
                "size": placement.size,
                "state": "creating",
                "until_s": self._clock.now_s() + self._create_s,
                "pids": {},
            }
            self._save()
            await asyncio.sleep(self._create_s)
            if uuid not in self._state["instances"]:
                raise UnavailableError(f"GPU {gpu_uuid} was reset while {profile} was made")
            self._row(uuid)["state"] = "ready"
            self._save()
        return self._instance(uuid, self._row(uuid))

    def _free(self, gpu_uuid: str, name: str, start: int) -> Placement:
        """The placement, if NVML's rules let an instance be made there."""
        geometry = self._geometry(gpu_uuid)
        placement = geometry.placement(name, start)
        self._refuse_overlap(placement, self._rows_on(gpu_uuid), gpu_uuid)
        if isinstance(geometry, MigGeometry):
            profile = geometry.profile(name)
            same = sum(row["profile"] == profile.name for row in self._rows_on(gpu_uuid))
            if same >= profile.max_count:
                raise CapacityError(
                    f"{name} at slice {start} of {gpu_uuid}: insufficient resources,"
                    f" there are {same} {profile.name} already"
                )
        return placement

    @staticmethod
    def _refuse_overlap(
        placement: Placement, rows: Iterable[dict[str, Any]], gpu_uuid: str
    ) -> None:
        for row in rows:
            if placement.overlaps(_placement(row)):
                raise CapacityError(
                    f"{placement.profile} at {placement.start} of {gpu_uuid}: insufficient"
                    f" resources, {row['profile']} at {row['start']} is in the way"
                )

    # --- ShareControl

    async def resize(self, uuid: str, profile: str, start: int) -> GpuInstance:
        """See `ShareControl`. What the processes on the part do for it (a new green context, a
        standby worker of another MPS share) is not simulated but for the time it takes."""
        self._settle()
        row = self._row(uuid)
        geometry = self._geometry(row["gpu"])
        if isinstance(geometry, MigGeometry):
            raise PermanentError(
                f"{row['profile']} {uuid} cannot be resized: MIG instances keep their size",
                remedy="destroy it, and create another",
            )
        wanted = geometry.placement(profile, start)
        async with self._changing(row["gpu"]):
            others = [other for other in self._rows_on(row["gpu"]) if other is not row]
            self._refuse_overlap(wanted, others, row["gpu"])
            if wanted != _placement(row):
                await asyncio.sleep(self._create_s)
                row = self._row(uuid)
                row |= {"profile": profile, "start": start, "size": wanted.size}
                self._integrate()
                self._save()
        return self._instance(uuid, self._row(uuid))

    async def destroy(self, uuid: str) -> None:
        """See `MigControl`."""
        self._settle()
        gpu_uuid = self._row(uuid)["gpu"]
        async with self._changing(gpu_uuid):
            row = self._row(uuid)
            if pids := self._live(row):
                raise InUseError(
                    f"{row['profile']} {uuid} is in use by process {', '.join(map(str, pids))}",
                    remedy="let the process detach, or evict it",
                )
            row |= {"state": "destroying", "until_s": self._clock.now_s() + self._destroy_s}
            self._save()
            await asyncio.sleep(self._destroy_s)
            self._state["instances"].pop(uuid, None)
            self._save()

    # --- InstanceProcesses

    async def attach(self, uuid: str, pid: int) -> None:
        """See `InstanceProcesses`."""
        row = self._row(uuid)
        start_s = processes.started_s(pid)
        if start_s is None:
            raise NotFoundError(f"there is no process {pid} to attach to {uuid}")
        if row["pids"].get(str(pid)) != start_s:
            row["pids"][str(pid)] = start_s
            self._integrate()
            self._save()

    async def detach(self, uuid: str, pid: int) -> None:
        """See `InstanceProcesses`."""
        row = self._state["instances"].get(uuid)
        if row is not None and row["pids"].pop(str(pid), None) is not None:
            self._integrate()
            self._save()

    async def evict(self, uuid: str) -> tuple[int, ...]:
        """See `InstanceProcesses`."""
        row = self._row(uuid)
        killed = []
        for pid, start_s in list(row["pids"].items()):
            if await processes.kill(int(pid), start_s):
                killed.append(int(pid))
            row["pids"].pop(pid, None)
        self._integrate()
        self._save()
        return tuple(killed)

    # --- faults

    def inject_xid(self, gpu_uuid: str, xid: int) -> None:
        """Makes the GPU report an XID; 79 (fallen off the bus) makes every call on it fail."""
        self._gpu(gpu_uuid)["xids"].append(xid)
        self._integrate()
        self._save()

    def inject_ecc(self, gpu_uuid: str, count: int = 1) -> None:
        """Makes the GPU report that many more uncorrected memory errors."""
        self._gpu(gpu_uuid)["ecc_uncorrected"] += count
        self._save()

    def heal(self, gpu_uuid: str) -> None:
        """Resets the GPU as an operator would: its XIDs and memory errors are forgotten.

        As on a real one, every GPU instance on it is gone, whether a process used it or not.
        """
        self._gpu(gpu_uuid).update(xids=[], ecc_uncorrected=0)
        rows = self._state["instances"]
        for uuid in [uuid for uuid, row in rows.items() if row["gpu"] == gpu_uuid]:
            del rows[uuid]
        self._integrate()
        self._save()

    @asynccontextmanager
    async def _changing(self, gpu_uuid: str) -> AsyncIterator[None]:
        """A change of the GPU, with the faults that it is told to have."""
        self._refuse_lost(gpu_uuid)
        number = self.faults.count()
        await self.faults.hang(number)
        self._refuse_lost(gpu_uuid)
        with self.faults.around(number):
            yield
            self._refuse_lost(gpu_uuid)

    def _refuse_lost(self, gpu_uuid: str) -> None:
        if board.is_lost(self._gpu(gpu_uuid)):
            raise UnavailableError(f"GPU {gpu_uuid} is lost (XID 79, simulated)")

    # --- state

    def _settle(self) -> None:
        """Completes the changes whose time has come."""
        now_s, rows, changed = self._clock.now_s(), self._state["instances"], False
        for uuid, row in list(rows.items()):
            if row["state"] == "ready" or now_s < row["until_s"]:
                continue
            changed = True
            if row["state"] == "creating":
                row["state"] = "ready"
            else:
                del rows[uuid]
        if changed:
            self._save()

    def _integrate(self) -> None:
        """Counts the energy up to now, and notes the power from now on, of every GPU."""
        now_s, busy = self._clock.now_s(), dict.fromkeys(self._gpus, 0)
        for row in self._state["instances"].values():
            if row["pids"] and self._live(row):
                busy[row["gpu"]] += self._geometry(row["gpu"]).profile(row["profile"]).sm_count
        for uuid, gpu in self._gpus.items():
            board.integrate(gpu, busy[uuid] / self._geometry(uuid).sm_count, now_s)

    def _load(self, products: Sequence[str], name: str) -> dict[str, Any]:
        now_s = self._clock.now_s()
        if self._path is not None and self._path.exists():
            state: dict[str, Any] = json.loads(self._path.read_text(encoding="utf-8"))
            # A file of a version that knew only one product has less in it.
            found = [gpu.get("product", state.get("gpu")) for gpu in state["gpus"]]
            if found == list(products) and state.get("kind", "mig") == self._kind:
                rows = zip(state["gpus"], products, strict=True)
                whole = [board.new_row(gpu["uuid"], one, now_s) | gpu for gpu, one in rows]
                return state | {"gpus": whole}
        names = [f"GPU-{_gpu_number(name, i)}" for i in range(len(products))]
        return {
            "simulated": True,
            "kind": self._kind,
            "gpus": [board.new_row(*pair, now_s) for pair in zip(names, products, strict=True)],
            "instances": {},
        }

    def _save(self) -> None:
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        draft = self._path.with_suffix(".tmp")
        draft.write_text(json.dumps(self._state, indent=1), encoding="utf-8")
        os.replace(draft, self._path)

    def _gpu(self, gpu_uuid: str) -> dict[str, Any]:
        if gpu_uuid not in self._gpus:
            raise NotFoundError(f"there is no GPU {gpu_uuid}")
        return self._gpus[gpu_uuid]

    def _row(self, uuid: str) -> dict[str, Any]:
        row: dict[str, Any] | None = self._state["instances"].get(uuid)
        if row is None or row["state"] == "destroying":
            raise NotFoundError(f"there is no GPU instance {uuid}")
        return row

    def _rows_on(self, gpu_uuid: str) -> Sequence[dict[str, Any]]:
        return [row for row in self._state["instances"].values() if row["gpu"] == gpu_uuid]

    def _instance(self, uuid: str, row: dict[str, Any]) -> GpuInstance:
        profile = self._geometry(row["gpu"]).profile(row["profile"])
        return GpuInstance(
            uuid=uuid,
            gpu_uuid=row["gpu"],
            placement=_placement(row),
            sm_count=profile.sm_count,
            memory_mib=profile.memory_mib,
            state=row["state"],
            pids=self._live(row),
        )

    @staticmethod
    def _live(row: dict[str, Any]) -> tuple[int, ...]:
        pids = row["pids"].items()
        return tuple(int(pid) for pid, start_s in pids if processes.is_alive(int(pid), start_s))


def _gpu_number(name: str, index: int) -> uuids.UUID:
    return uuids.uuid5(uuids.NAMESPACE_DNS, f"{index}.{name}") if name else uuids.uuid4()


def _placement(row: dict[str, Any]) -> Placement:
    return Placement(row["start"], row["size"], row["profile"])
