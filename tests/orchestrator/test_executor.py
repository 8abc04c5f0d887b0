"""Applying plans: crash or fail at every step, restart, and end where the plan wants it."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from airan.core.clock import SystemClock
from airan.core.errors import StaleGenerationError, UnavailableError
from orchestrator.drivers.simulated import SimulatedNode
from orchestrator.drivers.timed import TimedDriver
from orchestrator.executor import Executor, ExecutorSettings
from orchestrator.hub import EventLog
from orchestrator.leases import LeaseManager, LeaseSettings
from orchestrator.mig import MigGeometry, Placement
from orchestrator.observe import Observer
from orchestrator.plan import Demand, Inventory, Plan, Target, plan
from orchestrator.policy import Policy
from orchestrator.reconcile import verdict
from orchestrator.steps import steps
from orchestrator.store import Store

Start = Callable[[], "subprocess.Popen[bytes]"]
GEOMETRY = MigGeometry.load("GH200-96GB")

Split = dict[tuple[str, int], str]
NIGHT: Split = {("3g.48gb", 4): "ran", ("4g.48gb", 0): "ai"}
SWAPPED: Split = {("4g.48gb", 0): "ran", ("3g.48gb", 4): "ai"}
PEAK: Split = {("4g.48gb", 0): "ran", ("3g.48gb", 4): "ran"}
FINE: Split = {
    ("3g.48gb", 4): "ran",
    ("2g.24gb", 0): "ran",
    ("1g.12gb", 2): "ai",
    ("1g.12gb", 3): "ai",
}
SMALL: Split = {("2g.24gb", 0): "ran", ("2g.24gb", 2): "ai", ("3g.48gb", 4): "ai"}
# Before, after, and the SMs the RAN must hold at every moment in between.
CHANGES = {
    "night to peak": (NIGHT, PEAK, 60),
    "peak to night": (PEAK, NIGHT, 60),
    "roles swapped": (NIGHT, SWAPPED, 60),
    "cut finer": (SWAPPED, FINE, 60),
    "joined again": (FINE, NIGHT, 60),
    "the RAN moves over": (NIGHT, SMALL, 32),
}


class CrashError(Exception):
    """Stands for kill -9: not one of our errors, so that nobody handles it."""


class Crash:
    """Counts the calls that change something, and crashes before or after the chosen one.

    From then on every call fails: the process is dead, in whichever task it died.
    """

    def __init__(self, at: int = 0, *, after: bool = False) -> None:
        self.at, self.after, self.calls = at, after, 0
        self.struck = asyncio.Event()

    async def strikes(self, work: Coroutine[Any, Any, None]) -> bool:
        """Whether the process dies at the work; without a crash the work is done to its end."""
        task = asyncio.ensure_future(work)
        struck = asyncio.ensure_future(self.struck.wait())
        await asyncio.wait({task, struck}, return_when=asyncio.FIRST_COMPLETED)
        for one in (task, struck):
            one.cancel()
        (error, _) = await asyncio.gather(task, struck, return_exceptions=True)
        if not self.struck.is_set() and error is not None:
            raise error
        return self.struck.is_set()

    def around(self, method: Callable[..., Any], check: Callable[[], Any]) -> Callable[..., Any]:
        async def called(*args: Any) -> Any:
            self._crash(before=True)
            result = await method(*args)
            await check()
            self._crash(before=False)
            return result

        return called

    def around_sync(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any) -> Any:
            self._crash(before=True)
            result = method(*args)
            self._crash(before=False)
            return result

        return called

    def _crash(self, *, before: bool) -> None:
        self.calls += before
        if self.calls == self.at and before != self.after:
            self.struck.set()
        if self.struck.is_set():
            raise CrashError


class Process:
    """One life of the control process over a node and a store that outlive it."""

    def __init__(self, path: Path, ran_pid: int, crash: Crash | None = None) -> None:
        self.node = SimulatedNode(path / "node.json", "GH200-96GB", delays_s=(0.0, 0.0))
        self.store, clock = Store(path / "control.sqlite"), SystemClock()
        log = EventLog(self.store, clock)
        settings = LeaseSettings(60.0, 60.0)
        self.leases = LeaseManager(self.store, self.node, log, clock, settings)
        self.observer = Observer(self.node, self.store, self.leases, lambda: True)
        self.executor = Executor(
            self.node,
            self.store,
            self.leases,
            self.observer,
            log,
            ExecutorSettings(retry_s=0.0, settle_s=0.0),
        )
        self.executor.ran_pid = lambda: ran_pid
        self.needed_sms = 0
        if crash is not None:
            for name in ("create", "destroy", "attach", "detach", "evict"):
                method = getattr(self.node, name)
                setattr(self.node, name, crash.around(method, self.check_ran))
            for name in ("set_role", "mark_plan", "keep_roles", "put_lease"):
                setattr(self.store, name, crash.around_sync(getattr(self.store, name)))

    async def inventory(self) -> Inventory:
        return await self.observer.inventory()

    async def check_ran(self) -> None:
        """The RAN must hold what it needs at every moment, not only at the end."""
        inventory = await self.inventory()
        held = sum(part.sm_count for part in inventory.partitions if part.role == "ran")
        assert held >= self.needed_sms

    def store_plan(self, gpu_uuid: str, split: Split) -> Plan:
        newest = self.store.newest_plan()
        parent = newest.plan.generation if newest else 0
        targets = []
        for (name, start), role in sorted(split.items(), key=lambda item: item[0][1]):
            profile = GEOMETRY.profile(name)
            place = Placement(start, profile.size, name)
            targets.append(Target(gpu_uuid, place, role, profile.sm_count, profile.memory_mib))
        made = Plan(parent + 1, parent, tuple(targets), "a test", 0.0, 0.0)
        self.store.add_plan(made, 0.0)
        return made

    async def close(self) -> None:
        await self.leases.close()
        self.store.close()


async def split_of(process: Process) -> Split:
    parts = (await process.inventory()).partitions
    return {(part.placement.profile, part.placement.start): part.role for part in parts}


async def prepared(path: Path, before: Split, ran_pid: int, holder_pid: int) -> str:
    """A site with `before` applied and its largest AI partition under a lease; the GPU's uuid."""
    process = Process(path, ran_pid)
    gpu_uuid = (await process.node.gpus())[0].uuid
    await process.executor.apply(process.store_plan(gpu_uuid, before))
    parts = (await process.inventory()).partitions
    process.leases.offer(part for part in parts if part.role == "ai")
    if process.leases.free():
        await process.leases.acquire("engine", holder_pid, 0, 0)
    await process.close()
    return gpu_uuid


async def recover(path: Path, needed: int) -> Process:
    """Restarts as the control process does, before any slot report has named the RAN's process,
    and finishes what was begun."""
    process = Process(path, ran_pid=0)
    process.needed_sms = needed
    process.leases.start()
    await process.check_ran()
    newest = process.store.newest_plan()
    assert newest is not None
    found = verdict(newest, process.store.plan(newest.plan.parent), await process.inventory())
    assert found.kind in ("finish", "nothing")
    if found.plan is not None:
        await process.executor.apply(found.plan)
    return process


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("after_call", [False, True], ids=["before the call", "after the call"])
async def test_a_crash_at_any_step_is_finished_at_the_next_start(
    tmp_path: Path, start_process: Start, change: str, after_call: bool
) -> None:
    before, after, needed = CHANGES[change]
    ran = start_process()
    crashes = 0
    while True:
        crashes += 1
        path = tmp_path / str(crashes)
        gpu_uuid = await prepared(path, before, ran.pid, start_process().pid)
        crash = Crash(crashes, after=after_call)
        process = Process(path, ran.pid, crash)
        process.needed_sms = needed
        wanted = process.store_plan(gpu_uuid, after)
        crashed = await crash.strikes(process.executor.apply(wanted))
        await process.close()
        again = await recover(path, needed)
        assert await split_of(again) == after
        assert steps(wanted, await again.inventory()) == ()
        stored = again.store.newest_plan()
        assert stored is not None
        assert stored.state == "applied"
        assert ran.poll() is None, "the slot runtime must never be killed"
        await again.close()
        if not crashed:
            break
    assert crashes > 4, "the crash must have struck at several steps"


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_driver_call_that_fails_once_is_made_good(
    tmp_path: Path, start_process: Start, change: str, when: str
) -> None:
    before, after, _ = CHANGES[change]
    ran = start_process()
    for number in range(1, 9):
        path = tmp_path / str(number)
        gpu_uuid = await prepared(path, before, ran.pid, start_process().pid)
        process = Process(path, ran.pid)
        setattr(process.node.faults, when, {number})
        await process.executor.apply(process.store_plan(gpu_uuid, after))
        assert await split_of(process) == after
        done = process.node.faults.calls
        await process.close()
        if done < number:
            return
    pytest.fail("the change takes more calls than were made to fail")


async def test_a_driver_that_keeps_failing_fails_the_plan_and_not_the_ran(
    tmp_path: Path, start_process: Start
) -> None:
    ran = start_process()
    gpu_uuid = await prepared(tmp_path, SWAPPED, ran.pid, start_process().pid)
    process = Process(tmp_path, ran.pid)
    process.node.faults.before = set(range(2, 100))
    with pytest.raises(UnavailableError, match="failed 4 times"):
        await process.executor.apply(process.store_plan(gpu_uuid, FINE))
    newest = process.store.newest_plan()
    assert newest is not None
    assert newest.state == "failed"
    kinds = [event.kind for event in process.store.events(0, 100)]
    assert kinds.count("driver.fault") == 4
    assert kinds[-1] == "plan.failed"
    process.needed_sms = 60
    await process.check_ran()
    # The planner takes it from what is there now.
    process.node.faults.before = set()
    inventory = await process.inventory()
    chosen = plan(Policy(headroom=0.0), inventory, Demand(0.4, 0.4, 0.4), newest.plan)
    process.store.add_plan(chosen, 1.0)
    await process.executor.apply(chosen)
    assert steps(chosen, await process.inventory()) == ()
    await process.close()


async def test_applying_twice_changes_nothing(tmp_path: Path, start_process: Start) -> None:
    ran = start_process()
    gpu_uuid = await prepared(tmp_path, NIGHT, ran.pid, start_process().pid)
    process = Process(tmp_path, ran.pid)
    wanted = process.store_plan(gpu_uuid, PEAK)
    await process.executor.apply(wanted)
    there = await process.node.instances()
    await process.executor.apply(wanted)
    assert await process.node.instances() == there
    await process.close()


async def test_a_superseded_plan_is_not_applied(tmp_path: Path, start_process: Start) -> None:
    ran = start_process()
    gpu_uuid = await prepared(tmp_path, NIGHT, ran.pid, start_process().pid)
    process = Process(tmp_path, ran.pid)
    old = process.store_plan(gpu_uuid, PEAK)
    process.store_plan(gpu_uuid, SWAPPED)
    with pytest.raises(StaleGenerationError):
        await process.executor.apply(old)
    assert await split_of(process) == NIGHT
    await process.close()


async def test_a_process_without_a_lease_does_not_keep_the_ran_waiting(
    tmp_path: Path, start_process: Start
) -> None:
    ran, squatter = start_process(), start_process()
    gpu_uuid = await prepared(tmp_path, SWAPPED, ran.pid, start_process().pid)
    process = Process(tmp_path, ran.pid)
    for part in (await process.inventory()).partitions:
        if part.role == "ai":
            await process.node.attach(part.id, squatter.pid)
    await process.executor.apply(process.store_plan(gpu_uuid, FINE))
    await process.executor.apply(process.store_plan(gpu_uuid, SMALL))
    assert await split_of(process) == SMALL
    assert ran.poll() is None
    await process.close()


async def test_an_unreachable_plan_is_unwound_to_its_parent(
    tmp_path: Path, start_process: Start
) -> None:
    ran = start_process()
    gpu_uuid = await prepared(tmp_path, NIGHT, ran.pid, start_process().pid)
    process = Process(tmp_path, ran.pid)
    process.store_plan(gpu_uuid, {("7g.96gb", 0): "ran"})
    newest = process.store.newest_plan()
    assert newest is not None
    parent = process.store.plan(newest.plan.parent)
    found = verdict(newest, parent, await process.inventory())
    assert found.kind == "unwind"
    assert found.plan is not None
    process.store.add_plan(found.plan, 1.0)
    await process.executor.apply(found.plan)
    assert await split_of(process) == NIGHT
    await process.close()


async def test_drift_from_an_applied_plan_is_seen(tmp_path: Path, start_process: Start) -> None:
    ran = start_process()
    await prepared(tmp_path, NIGHT, ran.pid, start_process().pid)
    process = Process(tmp_path, ran.pid)
    newest = process.store.newest_plan()
    assert newest is not None
    assert verdict(newest, None, await process.inventory()).kind == "nothing"
    (leased,) = process.leases.live()
    await process.leases.release(leased.id)
    await process.node.destroy(leased.partition_id)
    found = verdict(newest, None, await process.inventory())
    assert found.kind == "mend"
    assert verdict(None, None, await process.inventory()).kind == "replan"
    await process.close()


async def test_a_stop_that_comes_with_the_drivers_answer_is_not_lost(tmp_path: Path) -> None:
    timed = TimedDriver(SimulatedNode(tmp_path / "node.json", "GH200-96GB"), 60.0)
    answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(timed._in_time(answer, "answer"))
    await asyncio.sleep(0)
    answer.set_result(None)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
