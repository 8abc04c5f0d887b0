"""A simulated GPU node: real geometry and placement rules, delays, in-use answers, faults.

No GPU is behind it; everything that shows it says "simulated". The node's state lives in a
file, because real GPU instances, too, outlive the process that made them.
"""

from __future__ import annotations

import asyncio
import json
import os
import uuid as uuids
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from airan.core.clock import Clock, SystemClock
from airan.core.errors import CapacityError, InUseError, NotFoundError, UnavailableError
from orchestrator.drivers import processes
from orchestrator.drivers.base import GpuInfo, GpuInstance
from orchestrator.geometry import Geometry
from orchestrator.mig import MigGeometry, Placement

XID_FELL_OFF_THE_BUS = 79


@dataclass
class Faults:
    """Faults to inject: which create and destroy calls (counted from 1) fail, and when.

    `before`: nothing was done. `after`: the change was made, but the call still fails.
    """

    before: set[int] = field(default_factory=set)
    after: set[int] = field(default_factory=set)
    calls: int = 0

    def count(self) -> int:
        """The number of this call."""
        self.calls += 1
        return self.calls


class SimulatedNode:
    """A node with `n_gpus` GPUs of one product, its state in `path`.

    `create_s` and `destroy_s` are the wall seconds a change takes. A change goes on when this
    process dies in the middle of it, as it would in a real driver.
    """

    def __init__(
        self,
        path: Path,
        gpu: str,
        n_gpus: int = 1,
        *,
        delays_s: tuple[float, float] = (0.25, 0.15),
        clock: Clock | None = None,
    ) -> None:
        self.faults = Faults()
        self._geometry = MigGeometry.load(gpu)
        self._create_s, self._destroy_s = delays_s
        self._clock = clock or SystemClock()
        self._path = path
        self._state = self._load(n_gpus)
        self._save()

    # --- GpuInventory

    async def gpus(self) -> tuple[GpuInfo, ...]:
        """See `GpuInventory`."""
        return tuple(
            GpuInfo(
                uuid=gpu["uuid"],
                name=self._geometry.gpu,
                simulated=True,
                sm_count=self._geometry.sm_count,
                memory_mib=self._geometry.memory_mib,
                xids=tuple(gpu["xids"]),
                lost=XID_FELL_OFF_THE_BUS in gpu["xids"],
            )
            for gpu in self._state["gpus"]
        )

    def geometry(self, gpu_uuid: str) -> Geometry:
        """See `GpuInventory`."""
        self._gpu(gpu_uuid)
        return self._geometry

    async def instances(self) -> tuple[GpuInstance, ...]:
        """See `GpuInventory`."""
        self._settle()
        order = [gpu["uuid"] for gpu in self._state["gpus"]]
        rows = self._state["instances"].items()
        found = [self._instance(uuid, row) for uuid, row in rows]
        return tuple(sorted(found, key=lambda one: (order.index(one.gpu_uuid), one.placement)))

    # --- MigControl

    async def create(self, gpu_uuid: str, profile: str, start: int) -> GpuInstance:
        """See `MigControl`."""
        with self._faulty(gpu_uuid):
            self._settle()
            placement = self._geometry.placement(profile, start)
            for row in self._rows_on(gpu_uuid):
                if placement.overlaps(_placement(row)):
                    raise CapacityError(
                        f"{profile} at slice {start} of {gpu_uuid}: insufficient resources,"
                        f" {row['profile']} at slice {row['start']} is in the way"
                    )
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
            self._row(uuid)["state"] = "ready"
            self._save()
        return self._instance(uuid, self._row(uuid))

    async def destroy(self, uuid: str) -> None:
        """See `MigControl`."""
        self._settle()
        row = self._row(uuid)
        with self._faulty(row["gpu"]):
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
            self._save()

    async def detach(self, uuid: str, pid: int) -> None:
        """See `InstanceProcesses`."""
        row = self._state["instances"].get(uuid)
        if row is not None and row["pids"].pop(str(pid), None) is not None:
            self._save()

    async def evict(self, uuid: str) -> tuple[int, ...]:
        """See `InstanceProcesses`."""
        row = self._row(uuid)
        killed = []
        for pid, start_s in list(row["pids"].items()):
            if await processes.kill(int(pid), start_s):
                killed.append(int(pid))
            row["pids"].pop(pid, None)
        self._save()
        return tuple(killed)

    # --- faults

    def inject_xid(self, gpu_uuid: str, xid: int) -> None:
        """Makes the GPU report an XID; 79 (fallen off the bus) makes every call on it fail."""
        self._gpu(gpu_uuid)["xids"].append(xid)
        self._save()

    @contextmanager
    def _faulty(self, gpu_uuid: str) -> Iterator[None]:
        if XID_FELL_OFF_THE_BUS in self._gpu(gpu_uuid)["xids"]:
            raise UnavailableError(f"GPU {gpu_uuid} is lost (XID 79, simulated)")
        number = self.faults.count()
        if number in self.faults.before:
            raise UnavailableError(f"driver call {number} failed (injected)")
        yield
        if number in self.faults.after:
            raise UnavailableError(f"driver call {number} failed after the change (injected)")

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

    def _load(self, n_gpus: int) -> dict[str, Any]:
        if self._path.exists():
            state: dict[str, Any] = json.loads(self._path.read_text(encoding="utf-8"))
            if state["gpu"] == self._geometry.gpu and len(state["gpus"]) == n_gpus:
                return state
        names = [f"GPU-{uuids.uuid4()}" for _ in range(n_gpus)]
        return {
            "simulated": True,
            "gpu": self._geometry.gpu,
            "gpus": [{"uuid": name, "xids": []} for name in names],
            "instances": {},
        }

    def _save(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        draft = self._path.with_suffix(".tmp")
        draft.write_text(json.dumps(self._state, indent=1), encoding="utf-8")
        os.replace(draft, self._path)

    def _gpu(self, gpu_uuid: str) -> dict[str, Any]:
        for gpu in self._state["gpus"]:
            if gpu["uuid"] == gpu_uuid:
                found: dict[str, Any] = gpu
                return found
        raise NotFoundError(f"there is no GPU {gpu_uuid}")

    def _row(self, uuid: str) -> dict[str, Any]:
        row: dict[str, Any] | None = self._state["instances"].get(uuid)
        if row is None or row["state"] == "destroying":
            raise NotFoundError(f"there is no GPU instance {uuid}")
        return row

    def _rows_on(self, gpu_uuid: str) -> Sequence[dict[str, Any]]:
        return [row for row in self._state["instances"].values() if row["gpu"] == gpu_uuid]

    def _instance(self, uuid: str, row: dict[str, Any]) -> GpuInstance:
        profile = self._geometry.profile(row["profile"])
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


def _placement(row: dict[str, Any]) -> Placement:
    return Placement(row["start"], row["size"], row["profile"])
