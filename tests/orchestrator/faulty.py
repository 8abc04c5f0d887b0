"""A control plane that can be made to fail, hang or die at any of its effects, for tests.

An effect is a call that changes the node, or a transaction of the store.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from airan.core.clock import ManualClock
from airan.core.errors import PermanentError, UnavailableError
from orchestrator.control import ControlOptions, ControlPlane
from orchestrator.drivers.base import GpuInfo, GpuInstance
from orchestrator.drivers.simulated import XID_FELL_OFF_THE_BUS, SimulatedNode
from orchestrator.drivers.timed import TimedDriver
from orchestrator.drivers.traced import TracedDriver
from orchestrator.executor import ExecutorSettings
from orchestrator.geometry import Geometry
from orchestrator.leases import LeaseSettings
from orchestrator.mig import Placement
from orchestrator.plan import Plan, Target
from orchestrator.policy import Policy
from orchestrator.store import Store, StoredPlan
from orchestrator.store.database import Database
from orchestrator.store.schema import METADATA
from orchestrator.views import CellView, SlotReport
from tests.orchestrator.site import STARTED_S

GPU = "GH200-96GB"
POLICY = Policy("static", ran_share=0.5, min_ran_share=0.3, notice_ms=0)
FLOOR_SMS = 40
Split = dict[tuple[str, int], str]
"""Role by profile and start, on the first GPU."""
DEATH = "dies before"
"""To die after an effect is to die before the next one."""


class DeadError(BaseException):
    """Stands for kill -9: no handler may take it for an error."""


def at_once(work: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that waits for nothing."""
    try:
        work.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waits for something")


class Effects:
    """Counts effects; at number `at` (from 1) it does `what`, and with `lasting` at every later
    driver call too. `after_each` is called after every effect."""

    def __init__(self) -> None:
        self.at, self.what, self.lasting, self.count, self.struck = 0, "", False, 0, False
        self.dead = asyncio.Event()
        self.after_each: Callable[[], None] = lambda: None
        self.limit_calls: Callable[[float], None] = lambda _: None
        """Sets how long the control plane waits for a driver call."""
        self.lost_gpu = ""
        self.lose_gpu: Callable[[str], None] = lambda _: None

    def arm(self, at: int, what: str, *, lasting: bool = False) -> None:
        self.at, self.what, self.lasting, self.count, self.struck = at, what, lasting, 0, False
        self.limit_calls(self.call_limit_s)

    @property
    def call_limit_s(self) -> float:
        """Short where a call hangs; elsewhere no call may fail because the machine is busy."""
        return 0.2 if self.what.startswith("hangs") else 30.0

    def disarm(self) -> None:
        self.at = 0

    async def call(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Carries a driver call out, or not."""
        try:
            due = self._due(of_driver=True)
            await self._strike(due, "before")
            result = await work
        finally:
            work.close()
        self.after_each()
        await self._strike(due, "after")
        return result

    @contextmanager
    def transaction(self, real: Callable[[], Any]) -> Iterator[Any]:
        """A transaction of the store; it is only interrupted by the process's death."""
        self._die(due=self._due(of_driver=False))
        with real() as db:
            yield db
        self.after_each()

    def _due(self, *, of_driver: bool) -> bool:
        if self.dead.is_set():
            raise DeadError
        if self.what != DEATH and not of_driver:
            return False
        self.count += 1
        reached = self.at and (self.count == self.at or (self.lasting and self.count > self.at))
        self.struck = self.struck or bool(reached)
        return bool(reached)

    async def _strike(self, due: bool, when: str) -> None:
        self._die(due=due and when == "before")
        if not due:
            return
        if self.what == f"fails {when}":
            raise UnavailableError(f"effect {self.count} fails {when} it is made (injected)")
        if self.what == "refuses" and when == "before":
            raise PermanentError("the driver refuses for good (injected)")
        if self.what == f"hangs {when}":
            await asyncio.Event().wait()
        if self.what == "loses the GPU" and when == "before":
            self.lose_gpu(self.lost_gpu)
            raise UnavailableError("the GPU has fallen off the bus (injected)")

    def _die(self, *, due: bool) -> None:
        if due and self.what == DEATH:
            self.dead.set()
        if self.dead.is_set():
            raise DeadError


class FaultyDriver:
    """A node all of whose changes are effects."""

    def __init__(self, node: SimulatedNode, effects: Effects) -> None:
        self._node, self._effects = node, effects

    async def gpus(self) -> tuple[GpuInfo, ...]:
        return await self._node.gpus()

    def geometry(self, gpu_uuid: str) -> Geometry:
        return self._node.geometry(gpu_uuid)

    async def instances(self) -> tuple[GpuInstance, ...]:
        return await self._node.instances()

    async def create(self, gpu_uuid: str, profile: str, start: int) -> GpuInstance:
        made: GpuInstance = await self._effects.call(self._node.create(gpu_uuid, profile, start))
        return made

    async def destroy(self, uuid: str) -> None:
        await self._effects.call(self._node.destroy(uuid))

    async def resize(self, uuid: str, profile: str, start: int) -> GpuInstance:
        part: GpuInstance = await self._effects.call(self._node.resize(uuid, profile, start))
        return part

    async def attach(self, uuid: str, pid: int) -> None:
        await self._effects.call(self._node.attach(uuid, pid))

    async def detach(self, uuid: str, pid: int) -> None:
        await self._effects.call(self._node.detach(uuid, pid))

    async def evict(self, uuid: str) -> tuple[int, ...]:
        gone: tuple[int, ...] = await self._effects.call(self._node.evict(uuid))
        return gone


def limit_calls(control: ControlPlane, limit_s: float) -> None:
    """Has it wait so long for a driver call."""
    traced = control.driver
    assert isinstance(traced, TracedDriver)
    timed = traced._driver
    assert isinstance(timed, TimedDriver)
    timed._limit_s = limit_s


class Rig:
    """A node and a store, emptied first, that outlive the control planes over them."""

    def __init__(
        self, store: Store, *, n_gpus: int = 1, policy: Policy = POLICY, kind: str = "mig"
    ) -> None:
        self.store, self.policy = store, policy
        with Database.writing(store._database) as db:
            for table in METADATA.sorted_tables:
                db.execute(table.delete())
        self.clock = ManualClock(STARTED_S)
        self.node = SimulatedNode(
            None, GPU, n_gpus, kind=kind, delays_s=(0.0, 0.0), clock=self.clock
        )
        self.uuids = [info.uuid for info in at_once(self.node.gpus())]
        self.violations: list[str] = []
        self.needed_sms = 0
        self.effects = Effects()
        self._open()

    def _open(self) -> None:
        self.effects.after_each = self.probe
        self.effects.lost_gpu = self.uuids[0]
        self.effects.lose_gpu = self.lose
        database, effects = self.store._database, self.effects
        database.writing = lambda: effects.transaction(  # type: ignore[method-assign]
            lambda: Database.writing(database)
        )
        self.control = self.another_control(self.store)
        effects.limit_calls = lambda limit_s: limit_calls(self.control, limit_s)

    def another_control(self, store: Store) -> ControlPlane:
        """A control plane over the same node, with a store of its own perhaps."""
        options = ControlOptions(
            site="edge-1",
            site_started_s=STARTED_S,
            change_s=0.1,
            leases=LeaseSettings(watch_grace_s=1e6, restart_grace_s=1e6),
            executor=ExecutorSettings(max_faults=3, retry_s=0.0, settle_s=0.0, call_timeout_s=0.2),
        )
        driver = FaultyDriver(self.node, self.effects)
        control = ControlPlane(store, driver, self.clock, self.policy, options)
        limit_calls(control, self.effects.call_limit_s)
        return control

    # --- what happens to it

    async def begin(self, splits: Sequence[Split], *holders: int) -> None:
        """Applies a first plan; the RAN's cells run, and the holders lease what there is."""
        self.store_plan(*splits)
        await self.control.apply_newest()
        await self.report(0.1)
        for number, pid in enumerate(holders):
            if self.control.leases.free():
                await self.control.leases.acquire(f"engine-{number}", pid, 0, 0)
        await self.control._attach_ran(await self.control.observer.inventory())
        self.needed_sms = min(FLOOR_SMS, self.ran_sms())

    async def report(
        self, demand: float, *, slots_late: int = 0, control: ControlPlane | None = None
    ) -> None:
        cells = (CellView("cell-1", True, demand, 51),)
        report = SlotReport(
            "cell-1",
            self.clock.now_s(),
            slots=50,
            slots_late=slots_late,
            budget_us=1000.0,
            pid=os.getpid(),
            demand_share=demand,
            cells=cells,
        )
        await (control or self.control).take_report(report)

    def store_plan(self, *splits: Split) -> Plan:
        """Stores a plan, a split for each GPU, as the planner would."""
        newest = self.store.newest_plan()
        parent = newest.plan.generation if newest else 0
        targets = []
        for gpu_uuid, split in zip(self.uuids, splits, strict=False):
            geometry = self.node.geometry(gpu_uuid)
            for (name, start), role in sorted(split.items(), key=lambda item: item[0][1]):
                profile = geometry.profile(name)
                place = Placement(start, profile.size, name)
                sms, memory_mib = profile.sm_count, profile.memory_mib
                targets.append(Target(gpu_uuid, place, role, sms, memory_mib))
        made = Plan(parent + 1, parent, tuple(targets), "a test", 0.0, 0.0)
        self.store.add_plan(made, self.clock.now_s())
        return made

    async def settle(self) -> None:
        """Applies what is stored until nothing is left to apply; after a death it starts anew."""
        for _ in range(10):
            newest = self.store.newest_plan()
            if newest is None or newest.state not in ("stored", "applying"):
                return
            if await self.dies(self.control.apply_newest()):
                await self.restart()
        raise AssertionError("it does not settle")

    async def dies(self, work: Coroutine[Any, Any, None]) -> bool:
        """Whether the process dies at the work, in whichever of its tasks."""
        task, dead = asyncio.ensure_future(work), asyncio.ensure_future(self.effects.dead.wait())
        await asyncio.wait({task, dead}, return_when=asyncio.FIRST_COMPLETED)
        for one in (task, dead):
            one.cancel()
        error, _ = await asyncio.gather(task, dead, return_exceptions=True)
        if error is not None and not self.effects.dead.is_set():
            raise error
        return self.effects.dead.is_set()

    async def restart(self) -> None:
        """A new control plane over what the dead one left behind."""
        await self.control.leases.close()
        self.effects = Effects()
        self._open()
        await self.control.start()

    async def close(self) -> None:
        await self.control.leases.close()

    def lose(self, gpu_uuid: str) -> None:
        """A GPU falls off the bus; what the RAN had there it cannot keep."""
        self.node.inject_xid(gpu_uuid, XID_FELL_OFF_THE_BUS)
        self.needed_sms = min(self.needed_sms, self.ran_sms())

    # --- what is there

    def ran_sms(self) -> int:
        roles = self.store.roles()
        there = at_once(self.node.instances())
        ready = (one for one in there if one.state == "ready")
        return sum(one.sm_count for one in ready if roles.get(one.uuid) == "ran")

    def split(self, gpu: int = 0) -> Split:
        """What is on one of the GPUs."""
        roles = self.store.roles()
        return {
            (one.placement.profile, one.placement.start): roles.get(one.uuid, "free")
            for one in at_once(self.node.instances())
            if one.gpu_uuid == self.uuids[gpu]
        }

    def probe(self) -> None:
        """Notes where the RAN has less than it must have."""
        held = self.ran_sms()
        if held < self.needed_sms:
            self.violations.append(f"{held} SMs after effect {self.effects.count}: {self.split()}")

    def newest(self) -> StoredPlan:
        newest = self.store.newest_plan()
        assert newest is not None
        return newest

    def check(self) -> None:
        """The RAN was never short; no lease is on a partition that is not the AI's."""
        assert self.violations == []
        roles, there = self.store.roles(), at_once(self.node.instances())
        lendable = {one.uuid for one in there if roles.get(one.uuid) == "ai"}
        assert {lease.partition_id for lease in self.control.leases.live()} <= lendable
        assert {lease.partition_id for lease, _ in self.store.leases()} <= lendable
        for gpu_uuid in self.uuids:
            places = [one.placement for one in there if one.gpu_uuid == gpu_uuid]
            self.node.geometry(gpu_uuid).check(places)
