"""The control plane: demand in, plans stored and applied, leases given and taken.

Everything it does can be driven by calls, so that tests need neither server nor timers.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from airan.core.clock import Clock
from airan.core.errors import (
    AiranError,
    InvalidInputError,
    NotFoundError,
    UnavailableError,
)
from orchestrator import render
from orchestrator.alarm import AlarmSettings
from orchestrator.applying import Applier
from orchestrator.cell_places import CellPlaces
from orchestrator.demand import DemandSettings
from orchestrator.drift import DriftWatch
from orchestrator.drivers.base import Driver
from orchestrator.drivers.timed import TimedDriver
from orchestrator.drivers.traced import TracedDriver
from orchestrator.executor import Executor, ExecutorSettings
from orchestrator.hub import EventLog
from orchestrator.leases import LeaseManager, LeaseSettings
from orchestrator.loss import expected_loss
from orchestrator.metrics import Metrics
from orchestrator.observe import Observer
from orchestrator.plan import Demand, Inventory, Plan, plan, renumbered, role_sms, wanted_sms
from orchestrator.policy import Policy, restored
from orchestrator.ran import RanSide
from orchestrator.reconcile import alarm_plan, as_planned, undoing, verdict
from orchestrator.steps import in_words, steps
from orchestrator.store import Store, StoredPlan
from orchestrator.tracing import span
from orchestrator.use import UseAccount
from orchestrator.views import (
    CellView,
    GpuView,
    PolicyChange,
    SiteStatus,
    SlotReport,
)

_ALARM_LOOK_S = 0.02
_KEPT = {"keep_plans": 10_000, "keep_events": 100_000, "keep_ended_leases": 10_000}


@dataclass(frozen=True)
class ControlOptions:
    """What the control plane needs to know beside its parts. Times are wall seconds."""

    site: str
    site_started_s: float
    change_s: float
    """Time to create and to destroy one GPU instance, together."""
    interval_s: float = 0.5
    reconcile_s: float = 3.0
    """How often the stored plan is compared with what is there, also when no plan is due."""
    margin_s: float = 0.5
    """Added to the planning horizon."""
    leases: LeaseSettings = field(default_factory=LeaseSettings)
    demand: DemandSettings = field(default_factory=DemandSettings)
    alarm: AlarmSettings = field(default_factory=AlarmSettings)
    executor: ExecutorSettings = field(default_factory=ExecutorSettings)


class ControlPlane:
    """One site's orchestrator. Belongs to one event loop."""

    def __init__(
        self, store: Store, driver: Driver, clock: Clock, policy: Policy, options: ControlOptions
    ) -> None:
        driver = TracedDriver(TimedDriver(driver, options.executor.call_timeout_s))
        self.store, self.driver, self.clock, self.options = store, driver, clock, options
        self.log = EventLog(store, clock)
        self.leases = LeaseManager(store, driver, self.log, clock, options.leases)
        self.leases.reservations = lambda: self._policy.reservations
        self.ran = RanSide(store, options.site_started_s, options.demand, options.alarm)
        self.places = CellPlaces(store)
        self.metrics = Metrics(self.ran.slots)
        self.use = UseAccount(store, self.metrics, options.site_started_s, clock.now_s())
        self.leases.on_end = self.use.count_end
        self.drift = DriftWatch(self.log, self.metrics.drift.set)
        self.observer = Observer(
            driver, store, self.leases, lambda: self.ran.reports(clock.now_s())
        )
        self.executor = Executor(
            driver, store, self.leases, self.observer, self.log, options.executor
        )
        self.executor.ran_pid = self.ran.live_pid
        stored = store.value("policy")
        # One set through the API holds until the site is started anew with its configuration.
        fresh = stored is None or stored.pop("site_started_s") != options.site_started_s
        self._policy = policy if fresh else restored(stored)
        self._demand = self._forecast()
        self.applier = Applier(
            self.executor, self.drift, self.metrics, clock, backoff_s=options.interval_s
        )

    # --- running

    async def start(self) -> None:
        """Takes up the stored leases and reconciles the stored plan with what is there."""
        self.leases.start()
        await self.reconcile()

    async def run(self) -> None:
        """Plans, applies, and watches over holders until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._every(self.options.interval_s, self._tick_in_time))
            group.create_task(self._every(self.options.reconcile_s, self.reconcile))
            group.create_task(self._every(0.2, self._watch_over))
            group.create_task(self._every(60.0, self._forget_the_oldest))
            group.create_task(self._apply_plans())

    async def close(self) -> None:
        """Stores the totals and closes what this object opened; the driver is not changed."""
        await self.leases.close()
        self.use.save()
        self.ran.save()

    async def _every(self, seconds: float, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await work()
            except AiranError as error:
                self.log.record("control.fault", str(error), "error")
            await asyncio.sleep(seconds)

    async def _watch_over(self) -> None:
        await self.leases.check_holders()
        raised = self.ran.alarm_is_raised(self.clock.now_s())
        self.metrics.alarm.set(raised)
        if self.leases.blocked and not raised:
            self.leases.unblock()
            self.log.record("slot.alarm_ended", "AI partitions are on offer again")

    async def _forget_the_oldest(self) -> None:
        self.store.prune(**_KEPT)

    async def _apply_plans(self) -> None:
        while True:
            await self.applier.ready.wait()
            self.applier.ready.clear()
            await self.apply_newest()

    # --- planning

    async def tick(self) -> None:
        """Looks at demand and inventory, accounts, and stores a new plan if one is due."""
        with span("tick") as looking:
            await self._look()
            looking.set_attribute("airan.demand_share", self._demand.now_share)
            looking.set_attribute("airan.forecast_share", self._demand.forecast_share)

    async def _tick_in_time(self) -> None:
        # A look takes milliseconds for which the RAN would wait.
        while self.applier.serves_alarm:
            await asyncio.sleep(_ALARM_LOOK_S)
        await self.tick()

    async def _look(self) -> None:
        lent = self.leases.live()
        inventory = await self.observer.inventory()
        await self.leases.end_lost(lent, {part.id for part in inventory.partitions})
        self.leases.follow(inventory.partitions)
        await self.executor.evict_strays(inventory)
        await self._attach_ran(inventory)
        self.places.update(self.ran.cells(), inventory)
        self._demand = self.places.split(self._forecast(), self.ran.cells(), inventory)
        self._account(inventory)
        self._offer(inventory)
        if not inventory.gpus:
            return
        newest = self.store.newest_plan()
        if self.applier.busy and newest is not None and not self._is_too_small(newest, inventory):
            return
        if self.applier.waits:
            return
        if self.leases.blocked:
            self._give_room_to_ran(inventory, newest)
            return
        await self._plan(inventory, newest)

    async def reconcile(self) -> None:
        """Finishes, mends or unwinds the newest plan; see `reconcile.verdict`.

        Does nothing while a plan is being applied, or waits to be planned anew after a failure.
        """
        inventory = await self.observer.inventory()
        newest = self.store.newest_plan()
        failed = newest is not None and newest.state == "failed"
        if self.applier.busy or (failed and self.applier.waits):
            return
        parent = self.store.plan(newest.plan.parent) if newest is not None else None
        found = verdict(newest, parent, inventory)
        mends = found.kind == "mend" and self._mends(newest, inventory)
        if found.kind == "mend" and found.plan is not None:
            self.drift.tell(found.plan, inventory, mends=mends)
        elif found.kind == "nothing":
            self.drift.end()
        if found.kind == "unwind" and found.plan is not None:
            self._store_plan(found.plan, inventory)
        if found.kind == "finish" or mends:
            self.applier.ready.set()
        self._offer(inventory)

    def _mends(self, newest: StoredPlan | None, inventory: Inventory) -> bool:
        """Whether a drift is mended: by policy, and always where the RAN has lost by it."""
        promised = role_sms(newest.plan.targets, "ran") if newest is not None else 0
        held = role_sms(inventory.partitions, "ran")
        return self._policy.drift == "mend" or held < promised

    async def _undo(self, failed: StoredPlan) -> None:
        """Stores the plan that undoes a failed one, where there is a point in it."""
        if failed.plan.undoes:
            return
        parent = self.store.plan(failed.plan.parent)
        inventory = await self.observer.inventory()
        undo = undoing(failed, parent, inventory)
        if undo is not None:
            self._store_plan(undo, inventory)

    async def apply_newest(self) -> None:
        """Applies the newest stored plan; failures are noted and lead to a new plan later."""
        newest = self.store.newest_plan()
        if newest is None:
            return
        failed = await self.applier.apply(newest)
        try:
            if failed:
                await self._undo(newest)
            self._offer(await self.observer.inventory())
        except AiranError as error:
            # The next tick looks again.
            self.log.record("control.fault", str(error), "error")

    async def _plan(self, inventory: Inventory, newest: StoredPlan | None) -> None:
        chosen = self._choose(self._policy, inventory, newest)
        if newest is None or not (chosen is newest.plan or self._only_drifted(newest, inventory)):
            self._store_plan(chosen, inventory)
        elif newest.state == "failed":
            reason = f"plan {newest.plan.generation} again: {newest.plan.reason}"
            self._store_plan(renumbered(newest.plan, newest.plan, reason), inventory)
        elif not self.applier.busy:
            await self.reconcile()

    def _only_drifted(self, newest: StoredPlan, inventory: Inventory) -> bool:
        """Whether no plan would be due but for a drift, which the policy leaves as it is."""
        if newest.state != "applied" or self._mends(newest, inventory):
            return False
        if newest.plan.gpus - {gpu.uuid for gpu in inventory.gpus}:
            return False
        meant = as_planned(newest.plan, inventory)
        return self._choose(self._policy, meant, newest) is newest.plan

    def _choose(self, policy: Policy, inventory: Inventory, newest: StoredPlan | None) -> Plan:
        begun_s = time.perf_counter()
        parent = newest.plan if newest else None
        with span("plan", policy=policy.kind) as planning:
            demand = self.places.split(self._forecast(policy), self.ran.cells(), inventory)
            chosen = plan(policy, inventory, demand, parent)
            planning.set_attribute("airan.generation", chosen.generation)
        self.metrics.plan_seconds.observe(time.perf_counter() - begun_s)
        return chosen

    def _store_plan(self, chosen: Plan, inventory: Inventory) -> None:
        with self.store.together():
            self.store.add_plan(chosen, self.clock.now_s())
            self.log.record("plan.stored", f"plan {chosen.generation}: {chosen.reason}")
        # At once, so that no lease is given on a partition that is about to go.
        self._offer(inventory)
        self.metrics.plans.labels("stored").inc()
        self.applier.ask(chosen.generation)

    def _is_too_small(self, newest: StoredPlan, inventory: Inventory) -> bool:
        """Whether the plan being applied already gives the RAN too little."""
        soon = max(self._demand.now_share, self._demand.forecast_share)
        wanted = wanted_sms(self._policy, inventory, soon)
        most = sum(gpu.geometry.divided_sm_count for gpu in inventory.gpus)
        return role_sms(newest.plan.targets, "ran") < min(wanted, most)

    def _forecast(self, policy: Policy | None = None) -> Demand:
        policy = policy or self._policy
        # A plan may take two changes one after the other, on top of the holder's notice.
        horizon_s = (
            2 * self.options.change_s
            + policy.notice_ms / 1000.0
            + self.options.interval_s
            + self.options.margin_s
        )
        now_s = self.clock.now_s()
        demand = self.ran.demand(policy, now_s, horizon_s)
        if policy.kind != "time_of_day":
            return demand
        # An entry of the calendar is in force when it starts, so that its plan comes before.
        scheduled = max(policy.ran_share_at(now_s), policy.ran_share_at(now_s + horizon_s))
        return dataclasses.replace(demand, scheduled_share=scheduled)

    def _offer(self, inventory: Inventory) -> None:
        """Puts the AI partitions on offer that the newest plan keeps."""
        newest = self.store.newest_plan()
        lasting = {
            (target.gpu_uuid, target.placement)
            for target in (newest.plan.targets if newest else ())
            if target.role == "ai"
        }
        self.leases.offer(
            part
            for part in inventory.partitions
            if part.role == "ai"
            and part.state == "ready"
            and (part.leased or not part.pids)
            and (part.gpu_uuid, part.placement) in lasting
        )

    # --- policy

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return self._policy

    async def set_policy(self, policy: Policy, *, dry_run: bool) -> PolicyChange:
        """Puts the policy in force and plans by it at once; `dry_run` only shows the plan.

        Raises:
            UnavailableError: the GPUs cannot be read, or all are lost.
        """
        inventory = await self.observer.inventory()
        if not inventory.gpus:
            raise UnavailableError("no GPU of the site answers", remedy="see `airan gpu`")
        newest = self.store.newest_plan()
        chosen = self._choose(policy, inventory, newest)
        todo = steps(chosen, inventory)
        loss = expected_loss(
            policy, inventory, self._forecast(policy), chosen, todo, self.options.change_s
        )
        state = "dry-run"
        if not dry_run:
            self._policy = policy
            started = {"site_started_s": self.options.site_started_s}
            self.store.set_value("policy", dataclasses.asdict(policy) | started)
            self.log.record("policy.changed", f"policy is now {render.policy_text(policy)}")
            if newest is None or chosen is not newest.plan:
                self._store_plan(chosen, inventory)
                state = "stored"
            else:
                state = newest.state
        view = render.plan_view(chosen, state, self.clock.now_s())
        return PolicyChange(policy, view, in_words(todo, inventory), loss)

    # --- maintenance

    async def set_maintenance(self, gpu_uuid: str, reason: str, *, on: bool) -> None:
        """Takes a GPU into maintenance, or back, and plans by it at once. Idempotent.

        Raises:
            NotFoundError: there is no such GPU.
            InvalidInputError: no reason is given.
        """
        if gpu_uuid not in {info.uuid for info in await self.driver.gpus()}:
            raise NotFoundError(f"there is no GPU {gpu_uuid}", remedy="see `airan gpu list`")
        if on and not reason:
            raise InvalidInputError("reason", "must not be empty", remedy="say what is done to it")
        if on:
            self.store.set_maintenance(gpu_uuid, reason, self.clock.now_s())
            self.log.record("gpu.maintenance", f"{gpu_uuid} goes into maintenance: {reason}")
        else:
            self.store.clear_maintenance(gpu_uuid)
            self.log.record("gpu.maintenance_ended", f"{gpu_uuid} is in use again")
        await self.tick()

    # --- cells

    def cells(self) -> tuple[CellView, ...]:
        """The cells as last reported, with where they have been placed."""
        return tuple(
            dataclasses.replace(cell, gpu_uuid=self.places.gpu_of(cell.id))
            for cell in self.ran.cells()
        )

    async def take_report(self, report: SlotReport) -> None:
        """Takes a slot report in; an alarm in it revokes the AI's leases at once.

        Raises:
            InvalidInputError: the report contradicts itself.
        """
        with self.store.together():
            cause = self.ran.take(report, self.clock.now_s())
            if cause:
                self.metrics.alarms.inc()
            if not cause or self.leases.blocked:
                return
            self.applier.alarm_began()
            self.leases.block(f"slot alarm: {cause}")
            self.log.record("slot.alarm", f"{cause}: the AI's leases are revoked", "warning")
        await self._give_all_to_ran(cause)

    async def _give_all_to_ran(self, cause: str) -> None:
        """The fast path: no demand, no forecast, no search. The next plan after the alarm gives
        the AI its part again."""
        newest = self.store.newest_plan()
        if newest is None:
            return
        inventory = await self.observer.inventory()
        taking = alarm_plan(newest.plan, inventory, cause)
        if taking is None:
            self.applier.alarm_needs_nothing()
        else:
            self._store_plan(taking, inventory)

    def _give_room_to_ran(self, inventory: Inventory, newest: StoredPlan | None) -> None:
        """While an alarm lasts: what no partition takes up, such as after a GPU was lost amid a
        plan, becomes the RAN's too. The fast path itself makes no partitions."""
        whole = sum(gpu.geometry.divided_sm_count for gpu in inventory.gpus if not gpu.drained)
        taken = sum(part.sm_count for part in inventory.partitions)
        if newest is None or self.applier.busy or taken >= whole:
            return
        everything = dataclasses.replace(self._policy, kind="static", ran_share=1.0)
        demand = self.places.split(self._forecast(), self.ran.cells(), inventory)
        chosen = plan(everything, inventory, demand, newest.plan)
        if role_sms(chosen.targets, "ran") > role_sms(inventory.partitions, "ran"):
            reason = f"a slot alarm lasts, and there is room: {chosen.reason}"
            self._store_plan(dataclasses.replace(chosen, reason=reason), inventory)

    async def _attach_ran(self, inventory: Inventory) -> None:
        pid = self.ran.live_pid()
        for part in inventory.partitions:
            if pid and part.role == "ran" and part.state == "ready" and pid not in part.pids:
                await self.executor.attach_ran(part.id)

    # --- use

    def report_use(self, lease_id: str, interval_s: float, busy_s: float) -> None:
        """Counts for how long of an interval the holder's engine was generating.

        Raises:
            NotFoundError: no such lease.
            InvalidInputError: impossible times.
        """
        self.use.add_busy(self.leases.find(lease_id), interval_s, busy_s)

    def _account(self, inventory: Inventory) -> None:
        now_s = self.clock.now_s()
        self.use.take(inventory, self.ran.measured_share(now_s), now_s)
        self.use.show_demand(self._demand)
        self.metrics.leases.set(len(self.leases.live()))
        self.ran.save()

    # --- status

    async def status(self) -> SiteStatus:
        """The whole site now."""
        gpus = await self.gpus()
        newest = self.store.newest_plan()
        now_s = self.clock.now_s()
        return SiteStatus(
            site=self.options.site,
            time_s=now_s,
            simulated=any(gpu.simulated for gpu in gpus),
            gpus=gpus,
            policy=self._policy,
            plan=render.stored_view(newest),
            demand=render.demand_view(self._demand),
            leases=self.leases.live(),
            slots=self.ran.slots(),
            cells=self.cells(),
            uptime_s=now_s - self.options.site_started_s,
            utilisation=self.use.utilisation(),
            drift=self.drift.found,
        )

    async def gpus(self) -> tuple[GpuView, ...]:
        """Every GPU with its partitions and its health, lost ones too."""
        inventory, drained = await self.observer.inventory(), self.store.maintenance()
        infos = await self.driver.gpus()
        return tuple(render.gpu_view(info, inventory, self.leases, drained) for info in infos)

    async def watch_status(self, interval_s: float) -> AsyncIterator[SiteStatus]:
        """The site now and then every `interval_s`."""
        while True:
            yield await self.status()
            await asyncio.sleep(interval_s)
