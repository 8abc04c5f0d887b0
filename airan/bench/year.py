"""A year at a simulated site with random faults: is the RAN's floor ever violated, a lease leaked?

The whole control plane but its server runs on a clock moved by hand, an hour a step, over a
simulated node without delays: demand by day, week and chance; failing driver calls; GPUs lost and
healed; maintenance; slot alarms; engines that die; instances changed by hand; restarts of the
control plane at any moment; policies of every kind.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from airan.bench.rows import Row, hardware, row
from airan.core.clock import DAY_S, ManualClock
from airan.core.errors import AiranError, InUseError
from orchestrator.control import ControlOptions, ControlPlane
from orchestrator.demand import DemandSettings
from orchestrator.drivers.simulated import XID_FELL_OFF_THE_BUS, SimulatedNode
from orchestrator.executor import ExecutorSettings
from orchestrator.leases import LeaseSettings
from orchestrator.plan import Inventory, role_sms
from orchestrator.policy import CalendarEntry, Policy
from orchestrator.store import Store
from orchestrator.views import CellView, SlotReport
from sims.ran_load import DiurnalProfile

STEP_S = 3600.0
_START_S = 1_767_225_600.0  # 2026-01-01 00:00 UTC
_HOLDER = "engine"
_SETTLE = 12
"""Looks at the site within a step, five seconds apart, until its plan is applied."""
_CHANCES = {
    "driver call fails": 0.03,
    "driver call fails after its change": 0.03,
    "GPU lost": 0.002,
    "ECC error": 0.005,
    "slot alarm": 0.02,
    "engine dies": 0.01,
    "control plane restarts": 0.01,
    "instance destroyed by hand": 0.005,
    "maintenance": 0.003,
    "policy changed": 0.005,
}
_POLICIES = (
    Policy(headroom=0.1, min_ran_share=0.2, min_lease_s=STEP_S, notice_ms=2000),
    Policy("static", ran_share=0.6, min_ran_share=0.2, notice_ms=2000),
    Policy(
        "time_of_day",
        min_ran_share=0.2,
        notice_ms=2000,
        time_zone="Asia/Tokyo",
        calendar=(CalendarEntry((), "06:00", 0.8), CalendarEntry((), "23:00", 0.3)),
    ),
    Policy(headroom=0.05, min_ran_share=0.2, min_ai_share=0.2, notice_ms=2000),
)


@dataclass
class YearResult:
    """What happened, counted."""

    hours: int = 0
    floor_violations: list[str] = field(default_factory=list)
    leases_leaked: list[str] = field(default_factory=list)
    overlaps: list[str] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    plans: int = 0
    leases: int = 0
    ai_share: float = 0.0
    """Mean share of the pool that was leased at the end of an hour."""


def simulate(days: int, seed: int, n_gpus: int, say: Callable[[str], None]) -> YearResult:
    """Plays so many days."""
    log = logging.getLogger("airan.orchestrator")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with tempfile.TemporaryDirectory(prefix="airan-year-") as folder:

            async def play() -> YearResult:
                return await _Year(Path(folder), seed, n_gpus).play(days, say)

            return asyncio.run(play())
    finally:
        log.setLevel(level)


def rows(result: YearResult, seconds: float, n_gpus: int) -> list[Row]:
    """As every bench reports."""
    faults = ", ".join(f"{count} {name}" for name, count in sorted(result.faults.items()))
    what = f"{hardware()}; simulated node of {n_gpus} GPUs, {result.hours} hours; {faults}"
    return [
        row("ran_floor_violations", len(result.floor_violations), "hours", what),
        row("leases_leaked", len(result.leases_leaked), "leases", what),
        row("partitions_overlapping", len(result.overlaps), "hours", what),
        row("plans", result.plans, "plans", what),
        row("leases_granted", result.leases, "leases", what),
        row("ai_leased_share", 100.0 * result.ai_share, "%", what),
        row("simulated_hours_per_second", result.hours / seconds, "hours/s", what),
    ]


class _Year:
    def __init__(self, folder: Path, seed: int, n_gpus: int) -> None:
        self._draw = random.Random(seed)
        self._clock = ManualClock(_START_S)
        self._node = SimulatedNode(
            None, gpus=["GH200-96GB"] * n_gpus, delays_s=(0.0, 0.0), clock=self._clock
        )
        self._path = folder / "control.sqlite"
        self._policy = _POLICIES[0]
        self._slots = subprocess.Popen(["sleep", "infinity"])
        self._engine = subprocess.Popen(["sleep", "infinity"])
        self._healed_at: dict[str, float] = {}
        self._drained: str = ""
        self._result = YearResult()
        self._store, self._control, self._holding = self._boot()

    def _boot(self) -> tuple[Store, ControlPlane, asyncio.Task[None]]:
        store = Store(self._path)
        options = ControlOptions(
            site="year",
            site_started_s=_START_S,
            change_s=0.4,
            interval_s=5.0,
            leases=LeaseSettings(watch_grace_s=1e9, restart_grace_s=1e9),
            demand=DemandSettings(
                fit_s=4 * STEP_S, residual_s=48 * STEP_S, stale_s=2 * STEP_S, keep_s=7 * DAY_S
            ),
            executor=ExecutorSettings(retry_s=0.0),
        )
        control = ControlPlane(store, self._node, self._clock, self._policy, options)
        return store, control, asyncio.create_task(self._hold(control))

    async def play(self, days: int, say: Callable[[str], None]) -> YearResult:
        """Hour after hour."""
        try:
            await self._control.start()
            for hour in range(24 * days):
                if hour % 24 == 0:
                    say(f"day {hour // 24 + 1} of {days}")
                    self._store.prune(keep_plans=200, keep_events=500, keep_ended_leases=100)
                await self._hour(hour)
            self._result.hours = 24 * days
            newest = self._store.newest_plan()
            self._result.plans = newest.plan.generation if newest else 0
            self._result.ai_share /= max(1, self._result.hours)
            return self._result
        finally:
            await self._stop()
            for process in (self._slots, self._engine):
                process.kill()
                process.wait()

    async def _hour(self, hour: int) -> None:
        self._clock.advance(STEP_S - _SETTLE * 5.0)
        for name, chance in _CHANCES.items():
            if self._draw.random() < chance:
                await self._strike(name)
        self._heal()
        await self._report(hour)
        for number in range(_SETTLE):
            self._clock.advance(5.0)
            with contextlib.suppress(AiranError):
                await self._control.tick()
            newest = self._store.newest_plan()
            if newest is not None and newest.state in ("stored", "applying"):
                await self._control.apply_newest()
            await asyncio.sleep(0)
            await self._control.leases.check_holders()
            if self._control.leases.blocked and not self._control.ran.alarm_is_raised(
                self._clock.now_s()
            ):
                self._control.leases.unblock()
            settled = newest is not None and newest.state == "applied"
            if settled and not self._control.leases.blocked and number >= 1:
                self._clock.advance(5.0 * (_SETTLE - number - 1))
                break
        await self._check(hour)

    # --- what goes on

    async def _report(self, hour: int, *, late: int = 0) -> None:
        profile = DiurnalProfile()
        weekend = 0.7 if (hour // 24) % 7 in (2, 3) else 1.0
        cells = [profile.load(cell, (hour % 24) * 3600.0) for cell in range(18)]
        noise = math.exp(self._draw.gauss(0.0, 0.05))
        share = min(1.0, weekend * noise * sum(cells) / 20.0)
        report = SlotReport(
            f"cell-{late}",
            self._clock.now_s(),
            slots=100,
            slots_late=late,
            demand_share=share,
            cells=(CellView("cell-0", False, share, 273),),
            pid=self._slots.pid,
        )
        await self._control.take_report(report)

    async def _hold(self, control: ControlPlane) -> None:
        """The engine: takes what is offered, gives it back when told."""
        async for event in control.leases.watch(_HOLDER):
            with contextlib.suppress(AiranError):
                if event.kind == "revoked" and event.lease is not None:
                    await control.leases.release(event.lease.id)
                elif event.lease is None and event.free_ai_partitions:
                    if self._engine.poll() is not None:
                        self._engine = subprocess.Popen(["sleep", "infinity"])
                    await control.leases.acquire(_HOLDER, self._engine.pid, 0, 2000)
                    self._result.leases += 1

    async def _strike(self, name: str) -> None:
        node = self._node
        uuids = [info.uuid for info in await node.gpus() if not info.lost]
        gpu = self._draw.choice(uuids) if uuids else ""
        if name == "driver call fails":
            node.faults.before.add(node.faults.calls + self._draw.randint(1, 3))
        elif name == "driver call fails after its change":
            node.faults.after.add(node.faults.calls + self._draw.randint(1, 3))
        elif name == "GPU lost" and len(uuids) > 1:
            node.inject_xid(gpu, XID_FELL_OFF_THE_BUS)
            self._healed_at[gpu] = self._clock.now_s() + self._draw.uniform(1, 24) * STEP_S
        elif name == "ECC error" and gpu:
            node.inject_ecc(gpu)
        elif name == "slot alarm":
            self._clock.advance(1.0)
            await self._report(0, late=1)
        elif name == "engine dies":
            self._engine.kill()
            self._engine.wait()
        elif name == "control plane restarts":
            await self._stop()
            self._store, self._control, self._holding = self._boot()
            await self._control.start()
        elif name == "instance destroyed by hand":
            await self._destroy_by_hand()
        elif name == "maintenance" and gpu:
            await self._maintain(gpu)
        elif name == "policy changed":
            self._policy = self._draw.choice(_POLICIES)
            with contextlib.suppress(AiranError):
                await self._control.set_policy(self._policy, dry_run=False)
        else:
            return
        self._result.faults[name] += 1

    async def _destroy_by_hand(self) -> None:
        for one in await self._node.instances():
            with contextlib.suppress(AiranError, InUseError):
                if not one.pids:
                    await self._node.destroy(one.uuid)
                    return

    async def _maintain(self, gpu: str) -> None:
        if self._drained:
            await self._control.set_maintenance(self._drained, "", on=False)
            self._drained = ""
        else:
            await self._control.set_maintenance(gpu, "firmware", on=True)
            self._drained = gpu

    def _heal(self) -> None:
        for gpu, at_s in list(self._healed_at.items()):
            if self._clock.now_s() >= at_s:
                self._node.heal(gpu)
                del self._healed_at[gpu]

    async def _stop(self) -> None:
        self._holding.cancel()
        await asyncio.gather(self._holding, return_exceptions=True)
        await self._control.close()
        self._store.close()

    # --- what must hold

    async def _check(self, hour: int) -> None:
        inventory = await self._control.observer.inventory()
        usable = [gpu for gpu in inventory.gpus if not gpu.drained]
        floor = math.ceil(self._policy.min_ran_share * inventory.sm_count - 1e-9)
        able = sum(gpu.geometry.divided_sm_count for gpu in usable or inventory.gpus)
        held = role_sms(inventory.partitions, "ran")
        if held < min(floor, able):
            newest = self._store.newest_plan()
            self._result.floor_violations.append(
                f"hour {hour}: {held} of {floor} SMs, plan {newest.state if newest else None}"
            )
        self._check_leases(hour, inventory)
        leased = sum(part.sm_count for part in inventory.partitions if part.leased)
        self._result.ai_share += leased / max(1, inventory.sm_count)

    def _check_leases(self, hour: int, inventory: Inventory) -> None:
        for gpu in inventory.gpus:
            try:
                gpu.geometry.check(part.placement for part in inventory.on(gpu))
            except AiranError as error:
                self._result.overlaps.append(f"hour {hour}: {error}")
        lendable = {part.id for part in inventory.partitions if part.role == "ai"}
        for lease in self._control.leases.live():
            if lease.partition_id not in lendable:
                self._result.leases_leaked.append(f"hour {hour}: {lease.id}")


def timed(days: int, seed: int, n_gpus: int, say: Callable[[str], None]) -> list[Row]:
    """Plays and reports."""
    begun_s = time.perf_counter()
    result = simulate(days, seed, n_gpus, say)
    return rows(result, time.perf_counter() - begun_s, n_gpus)
