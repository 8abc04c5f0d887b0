"""Applies a stored plan: dull, step by step, each step following from what is there now.

A crash at any step leaves a state from which the same call goes on. A call that fails is tried
again after another look at the inventory, because it may have taken effect all the same. A plan
is applied only when a last look finds what it promises; one that cannot be completed is failed,
and whoever called stores the plan that undoes it (`reconcile.undoing`).
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from airan.core.errors import (
    AiranError,
    InUseError,
    NotFoundError,
    NotLeaderError,
    PermanentError,
    StaleGenerationError,
    UnavailableError,
)
from orchestrator.drivers.base import Driver
from orchestrator.hub import EventLog
from orchestrator.leases import LeaseManager
from orchestrator.observe import Observer
from orchestrator.plan import Inventory, Plan, role_sms
from orchestrator.steps import Step, steps
from orchestrator.store import Store
from orchestrator.tracing import span

# More than any transition between two layouts takes; reaching it means no progress is made.
_MAX_STEPS = 200


class PlanUnreachableError(UnavailableError):
    """A plan that no step leads to from what is there: the next one starts from that."""


@dataclass(frozen=True)
class ExecutorSettings:
    """How a failing driver is met."""

    max_faults: int = 4
    """Failed driver calls in one plan before it is given up."""
    retry_s: float = 0.05
    """Wait after the first failure; doubles with each."""
    settle_s: float = 0.02
    """How often a change under way is looked at."""
    call_timeout_s: float = 60.0
    """A driver call, or a change under way, that takes longer counts as failed."""


class Executor:
    """Turns plans into driver calls, and notes every step. Use from one task at a time."""

    def __init__(
        self,
        driver: Driver,
        store: Store,
        leases: LeaseManager,
        observer: Observer,
        log: EventLog,
        settings: ExecutorSettings | None = None,
    ) -> None:
        self._driver, self._store, self._leases = driver, store, leases
        self._observer, self._log = observer, log
        self._settings = settings or ExecutorSettings()
        self.ran_pid: Callable[[], int] = lambda: 0
        """The slot runtime's process; 0 while unknown."""
        self._unwritten: list[Callable[[], None]] = []
        """Notes of what is over; they are written with the next change, in one transaction."""

    async def apply(self, plan: Plan) -> None:
        """Makes the inventory what the plan wants. Idempotent.

        Raises:
            StaleGenerationError: a newer plan has been stored; nothing more was done.
            PlanUnreachableError: the plan cannot be reached from here: a GPU of it is lost, or
                the RAN would be interrupted. It is marked `failed`.
            UnavailableError: the driver kept failing, or failed for good; likewise `failed`.
            NotLeaderError: another orchestrator may lead; nothing more was done.
        """
        number = plan.generation
        self._unwritten = [lambda: self._store.mark_plan(number, "applying")]
        try:
            await self._reach(plan)
            there = await self._driver.instances()
        except (StaleGenerationError, NotLeaderError):
            raise
        except AiranError as error:
            with self._writing():
                self._store.mark_plan(number, "failed")
                self._log.record("plan.failed", f"plan {number}: {error}", "error")
            raise
        with self._writing():
            self._store.mark_plan(number, "applied")
            self._store.keep_roles([part.uuid for part in there])
            self._log.record("plan.applied", f"plan {number}: {plan.reason}")

    async def _reach(self, plan: Plan) -> None:
        faults = 0
        for _ in range(_MAX_STEPS):
            self._refuse_stale(plan)
            try:
                inventory = await self._settled()
                todo = self._left(plan, inventory)
                if not todo:
                    return
                await self._take(plan, todo)
            except (StaleGenerationError, NotLeaderError, PlanUnreachableError):
                raise
            except AiranError as error:
                faults += 1
                self._log.record("driver.fault", str(error), "warning")
                self._give_up(error, faults)
                await asyncio.sleep(self._settings.retry_s * 2 ** (faults - 1))
        raise UnavailableError(f"no progress after {_MAX_STEPS} steps")

    def _left(self, plan: Plan, inventory: Inventory) -> tuple[Step, ...]:
        """The steps left; none only where the inventory is what the plan promises."""
        lost = plan.gpus - {gpu.uuid for gpu in inventory.gpus}
        if lost:
            raise PlanUnreachableError(
                f"{', '.join(sorted(lost))} is lost, which plan {plan.generation} needs",
                remedy="the orchestrator plans anew by itself; see `airan gpu`",
            )
        try:
            todo = steps(plan, inventory)
        except InUseError as error:
            raise PlanUnreachableError(error.message, remedy=error.remedy) from error
        held, promised = (role_sms(parts, "ran") for parts in (inventory.partitions, plan.targets))
        if not todo and held < promised:
            raise PlanUnreachableError(
                f"the RAN's partitions have {held} SMs, not the {promised} of plan"
                f" {plan.generation}",
                remedy="compare the geometry with `airan gpu`",
            )
        return todo

    async def _take(self, plan: Plan, todo: tuple[Step, ...]) -> None:
        taken = _at_once(todo)
        try:
            with span("step", step=str(taken[0])):
                await self._do(plan, taken)
        except AiranError as error:
            with self._writing():
                self._note(plan, taken, "failed", str(error))
            raise
        self._unwritten.append(lambda: self._note(plan, taken, "done"))

    def _give_up(self, error: AiranError, faults: int) -> None:
        """Raises where trying again cannot help, or has not."""
        # What has gone in the meantime is looked at again: the step may have become another.
        permanent = isinstance(error, PermanentError) and not isinstance(error, NotFoundError)
        if permanent or faults >= self._settings.max_faults:
            times = "for good" if permanent else f"{faults} times, last"
            raise UnavailableError(
                f"the driver failed {times}: {error}",
                remedy="the orchestrator plans anew by itself; see `airan gpu`",
            ) from error

    async def _do(self, plan: Plan, taken: tuple[Step, ...]) -> None:
        """Takes steps that may be taken at once; see `_at_once`."""
        step = taken[0]
        with self._writing():
            self._note(plan, taken, "started")
            if _only_gives(step):
                for one in taken:
                    self._store.set_role(one.partition_id, one.role)
        if step.kind == "revoke":
            reason = "the plan needs the partition"
            await asyncio.gather(*(self._leases.reclaim(one.partition_id, reason) for one in taken))
        elif _only_gives(step):
            for one in taken:
                await self._greet(one.partition_id, one.role)
        elif step.kind == "assign":
            await self._hand_over(step)
        elif step.kind == "destroy":
            await self._destroy(step)
        elif step.kind == "resize" and step.becomes is not None:
            new = step.becomes
            part = await self._driver.resize(step.partition_id, new.profile, new.start)
            self._leases.follow((part,))
        elif step.kind == "create":
            placement = step.placement
            made = await self._driver.create(step.gpu_uuid, placement.profile, placement.start)
            await self._give(made.uuid, step.role)
        else:
            raise PermanentError(f"there is no way to take the step {step.kind!r}: {step}")

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """One transaction for what is written within, and for the notes that wait for one."""
        with self._store.together():
            for write in self._unwritten:
                write()
            yield
        self._unwritten.clear()

    def _note(self, plan: Plan, taken: tuple[Step, ...], state: str, error: str = "") -> None:
        now_s = self._log.now_s()
        for step in taken:
            self._store.note_step(plan.generation, str(step), state, now_s, error)

    async def _hand_over(self, step: Step) -> None:
        # All that is attached to it is the RAN's, also while no report has named it yet.
        parts = (await self._observer.inventory()).partitions
        own = (part.pids for part in parts if part.id == step.partition_id)
        await self._detach(step.partition_id, itertools.chain(*own))
        await self._give(step.partition_id, step.role)

    async def _give(self, partition_id: str, role: str) -> None:
        self._store.set_role(partition_id, role)
        await self._greet(partition_id, role)

    async def _greet(self, partition_id: str, role: str) -> None:
        if role == "ran" and self.ran_pid():
            await self.attach_ran(partition_id)

    async def attach_ran(self, partition_id: str) -> None:
        """Registers the slot runtime on one of the RAN's partitions. Idempotent."""
        try:
            await self._driver.attach(partition_id, self.ran_pid())
        except NotFoundError:
            # The slot runtime, or the partition, has just gone; its next report tells.
            return

    async def evict_strays(self, inventory: Inventory) -> None:
        """Evicts who computes on an AI partition that is lent to nobody: a holder whose host was
        out of reach when its lease ended."""
        for part in inventory.partitions:
            if part.role != "ai" or part.leased or not part.pids:
                continue
            own = await self._ran_pids()
            # Looked up last: it may have been lent since the inventory was read.
            if set(part.pids) - own and self._leases.on_partition(part.id) is None:
                gone = await self._driver.evict(part.id)
                # Who never registered with the driver is left alone, and the partition to them.
                if gone:
                    self._tell_evicted(part.placement.profile, gone)

    async def _destroy(self, step: Step) -> None:
        try:
            await self._driver.destroy(step.partition_id)
        except NotFoundError:
            return
        except InUseError:
            # By now no lease and no cell is on it: whoever still is has lost the right to be.
            await self._detach(step.partition_id, await self._ran_pids())
            gone = await self._driver.evict(step.partition_id)
            self._tell_evicted(step.placement.profile, gone)

    def _tell_evicted(self, profile: str, gone: tuple[int, ...]) -> None:
        self._log.record(
            "partition.evicted",
            f"{profile} was in use without a lease, by process"
            f" {', '.join(map(str, gone)) or 'unknown'}",
            "warning",
        )

    async def _ran_pids(self) -> set[int]:
        """The RAN's processes, which are never evicted: those on its partitions."""
        parts = (await self._observer.inventory()).partitions
        return {pid for part in parts if part.role == "ran" for pid in part.pids} | {self.ran_pid()}

    async def _detach(self, partition_id: str, pids: Iterable[int]) -> None:
        for pid in pids:
            await self._driver.detach(partition_id, pid)

    async def _settled(self) -> Inventory:
        """The inventory once no change is under way, such as one begun before a crash."""
        try:
            async with asyncio.timeout(self._settings.call_timeout_s) as limit:
                while True:
                    inventory = await self._observer.inventory()
                    under_way = [part for part in inventory.partitions if part.state != "ready"]
                    if not under_way:
                        return inventory
                    await asyncio.sleep(self._settings.settle_s)
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise UnavailableError(
                f"partitions are under way for more than {self._settings.call_timeout_s:g} s",
                remedy="see `airan gpu`",
            ) from error

    def _refuse_stale(self, plan: Plan) -> None:
        newest = self._store.newest_plan()
        if newest is not None and newest.plan.generation != plan.generation:
            raise StaleGenerationError(
                f"plan {plan.generation} is superseded by plan {newest.plan.generation}"
            )


def _at_once(todo: tuple[Step, ...]) -> tuple[Step, ...]:
    """The steps to take first: every revocation, since their notices run together; role changes
    that follow one another, since they are one transaction; otherwise the first alone."""
    first = todo[0]
    if first.kind == "revoke":
        return tuple(step for step in todo if step.kind == "revoke")
    if _only_gives(first):
        return tuple(itertools.takewhile(_only_gives, todo))
    return (first,)


def _only_gives(step: Step) -> bool:
    """Whether the step changes a role, and takes nothing from the RAN."""
    return step.kind == "assign" and step.role_before != "ran"
