"""One site under one policy, event by event."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from dataclasses import astuple, dataclass

import numpy as np

from airan.core.clock import DAY_S
from airan.core.errors import InUseError, InvalidInputError
from orchestrator.alarm import AlarmGate
from orchestrator.pool import Partition, Plan
from orchestrator.reconcile import alarm_plan
from orchestrator.steps import Step, steps
from orchestrator.views import SlotReport
from sims import ran_year
from sims.fleet import engines, faults, slots, traffic
from sims.fleet.account import Account
from sims.fleet.desk import desk_of
from sims.fleet.moment import Moment
from sims.fleet.node import FAST_PATH_S, SimulatedGpus
from sims.fleet.planning import Foresight, RememberingPlanner, stretched
from sims.fleet.scenario import Scenario
from sims.fleet.serving import Serving
from sims.fleet.traffic import Floats

_REPORT_S = 0.5
"""Between two slot reports of the live runtime."""
_planner = RememberingPlanner()


@dataclass(frozen=True)
class SiteTask:
    """One site to simulate; `shares` [step] are what its cells need, the warm-up first."""

    scenario: Scenario
    policy: str
    site: int
    shares: Floats


def simulate_site(task: SiteTask) -> Account:
    """Plays the site's days. The same task gives the same account, to the bit."""
    return _Site(task).play()


class _Site:
    def __init__(self, task: SiteTask) -> None:
        self._scenario = scenario = task.scenario
        self._spec = scenario.policies[task.policy]
        self._policy = self._spec.policy()
        self._step_s = float(scenario.step_s)
        self._end_s = scenario.days * DAY_S
        self._start_s = ran_year.START_S + scenario.warmup_days * DAY_S
        self._gpus = SimulatedGpus(scenario.geometry(), scenario.gpus_per_site, scenario.speed)
        self._foresight = Foresight(scenario, self._spec, task.shares, ran_year.START_S)
        self._table = engines.of(scenario).at_speed(scenario.speed)
        streams = traffic.requests(scenario, task.site)
        self._serving = Serving(self._table, streams, self._step_s, desk_of(scenario, task.site))
        # Each purpose has its own draws: those of slots depend on the policy, faults must not.
        self._random = np.random.default_rng([scenario.seed, task.site, 2])
        self._gate_settings = slots.alarm_settings(scenario.speed)
        self._gate = AlarmGate(self._gate_settings)
        n_cells = min(scenario.cells_per_site, scenario.cells - task.site * scenario.cells_per_site)
        self._slots_per_s = n_cells * slots.SLOTS_PER_CELL_S / scenario.speed
        self._account = Account(daily=[[0.0] * 3 for _ in range(scenario.days)])
        if scenario.federation is not None:
            n_steps = round(self._end_s / self._step_s)
            self._account.spare = [[0.0] * 4 for _ in range(n_steps)]
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._now_s = 0.0
        self._step = 0
        self._share = 0.0
        self._late_per_s = 0.0
        self._watched = 0
        self._alarmed = False
        self._plan: Plan | None = None
        self._todo: list[Step] = []
        self._applying = 0
        self._settled = False
        """The newest plan is carried out, and nothing has happened to it since."""
        self._up: dict[str, int] = {}
        """Engines that generate: SMs by partition."""
        self._starts_s: dict[str, float] = {}
        """When engines that do not yet generate will: by partition."""
        for at_s, fault in faults.drawn(scenario, task.site):
            self._at(at_s, lambda fault=fault: self._strike(fault))  # type: ignore[misc]

    # --- the clock

    def play(self) -> Account:
        """Every event until the end."""
        self._find_running()
        self._at(0.0, self._begin_step)
        while self._events and self._events[0][0] < self._end_s:
            at_s, _, act = heapq.heappop(self._events)
            self._advance(at_s)
            act()
        self._advance(self._end_s)
        self._account.preemptions = self._serving.preempted
        self._account.tiers = self._serving.totals()
        self._account.refused = [list(astuple(one)) for one in self._serving.refused]
        self._account.waits = {tier: one.counts for tier, one in self._serving.waits.items()}
        self._account.faults = dict(sorted(self._account.faults.items()))
        return self._account

    def _find_running(self) -> None:
        """The site has run before: its first plan is carried out as the first day begins."""
        inventory = self._gpus.inventory()
        self._foresight.see(0)
        demand = self._foresight.demand(0, self._start_s, self._gpus.change_s)
        self._plan = _planner(self._policy, inventory, demand, None)
        for step in steps(self._plan, inventory):
            self._gpus.carry_out(step)
        for part in self._offered():
            self._gpus.lease(part)
            self._up[part.id] = part.sm_count
        self._engines_changed()
        self._settled = True

    def _at(self, at_s: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._events, (at_s, next(self._order), act))

    def _advance(self, until_s: float) -> None:
        """Counts the time until then, in which nothing changes."""
        seconds = until_s - self._now_s
        if seconds <= 0.0:
            return
        worked_s = self._serving.advance(self._now_s, seconds)
        able = sum(gpu.geometry.divided_sm_count for gpu in self._gpus.gpus.values())
        moment = Moment(
            self._now_s,
            seconds,
            self._gpus.sm_count,
            able,
            self._gpus.sms("ran"),
            self._share * self._gpus.sm_count,
            self._policy.min_ran_share,
            sum(self._up.values()),
            worked_s,
        )
        account = self._account
        moment.count(account, self._scenario)
        account.outage_s += seconds * (not self._gpus.gpus)
        account.slots += self._slots_per_s * seconds * bool(moment.held)
        if self._late_per_s and not self._lends():
            late = int(self._random.poisson(self._late_per_s * seconds))
            account.slots_late += late
            account.slots_late_unavoidable += late
        if self._scenario.federation is not None:
            moment.count_spare(account.spare[self._step], self._serving.rates)
        self._now_s = until_s

    # --- load

    def _begin_step(self) -> None:
        self._step = round(self._now_s / self._step_s)
        self._share = self._foresight.see(self._step)
        self._serving.arrive(self._step, self._now_s)
        self._look()
        self._watch_slots()
        self._at((self._step + 1) * self._step_s, self._begin_step)

    def _look(self) -> None:
        """Plans, as the control plane does in each of its looks."""
        if not self._gpus.gpus or self._alarmed:
            return
        inventory = self._gpus.inventory()
        demand = self._foresight.demand(
            self._step, self._start_s + self._now_s, self._gpus.change_s
        )
        demand = stretched(demand, self._gpus.sm_count / inventory.sm_count)
        chosen = _planner(self._policy, inventory, demand, self._plan)
        if chosen is not self._plan:
            self._take(chosen)
        elif not self._todo and not self._settled:
            self._carry_out(chosen)

    # --- plans

    def _take(self, chosen: Plan) -> None:
        self._plan = chosen
        self._settled = False
        self._account.plans += 1
        self._carry_out(chosen)

    def _carry_out(self, chosen: Plan) -> None:
        try:
            self._todo = list(steps(chosen, self._gpus.inventory()))
        except InUseError:
            # The next look plans from what is there.
            self._todo, self._plan = [], None
            return
        self._applying += 1
        self._next_move(self._applying)

    def _next_move(self, applying: int) -> None:
        if applying != self._applying:
            return
        if not self._todo:
            self._settled = True
            self._check()
            self._lease_out()
            return
        step = self._todo[0]
        if step.kind == "revoke":
            self._stop_engine(step.partition_id)
        notice_s = self._scenario.speed * self._policy.notice_ms / 1000.0
        took_s = self._gpus.seconds(step, self._table.pause_s, notice_s)
        fails = self._scenario.faults.failing_calls
        while took_s and step.kind != "revoke" and fails and self._random.random() < fails:
            self._count("driver call fails")
            took_s += took_s
        if took_s:
            self._at(self._now_s + took_s, lambda: self._move(applying, step))
        else:
            self._move(applying, step)

    def _move(self, applying: int, step: Step) -> None:
        if applying != self._applying:
            return
        self._todo.pop(0)
        self._gpus.carry_out(step)
        if step.kind == "resize":
            self._move_engine(step)
        else:
            self._up.pop(step.partition_id, None)
        self._engines_changed()
        self._watch_slots()
        self._next_move(applying)

    def _check(self) -> None:
        """What must hold whenever a plan is carried out.

        Raises:
            InvalidInputError: partitions overlap, or a lease has no engine.
        """
        self._gpus.check()
        leased = {part.id for part in self._gpus.parts.values() if part.leased}
        if leased != self._up.keys() | self._starts_s.keys():
            raise InvalidInputError(
                "leases", f"{sorted(leased)}, but engines on {sorted(self._up | self._starts_s)}"
            )

    def _lease_out(self) -> None:
        """Engines take what is on offer."""
        if self._alarmed:
            return
        for part in self._offered():
            self._gpus.lease(part)
            self._start_engine(part.id, self._now_s + self._table.start_s)

    def _offered(self) -> list[Partition]:
        """AI partitions that engines take now, largest first."""
        ai = [part for part in self._gpus.parts.values() if part.role == "ai"]
        free = sorted(
            (part for part in ai if not part.leased), key=lambda part: (-part.sm_count, part.id)
        )
        most = self._scenario.engines_per_site
        return free[: max(0, most - (len(ai) - len(free)))] if most else free

    def _lends(self) -> bool:
        return any(part.role == "ai" for part in self._gpus.parts.values())

    # --- engines

    def _start_engine(self, partition_id: str, at_s: float) -> None:
        self._starts_s[partition_id] = at_s
        self._at(at_s, lambda: self._engine_is_up(partition_id))

    def _engine_is_up(self, partition_id: str) -> None:
        if self._starts_s.get(partition_id) == self._now_s:
            del self._starts_s[partition_id]
            self._up[partition_id] = self._gpus.parts[partition_id].sm_count
            self._engines_changed()

    def _move_engine(self, step: Step) -> None:
        """The engine on a part that is resized goes on there, or starts when it would have."""
        moved = f"{step.gpu_uuid}/{step.becomes}"
        if self._up.pop(step.partition_id, 0):
            self._up[moved] = self._gpus.parts[moved].sm_count
        elif step.partition_id in self._starts_s:
            self._start_engine(moved, self._starts_s.pop(step.partition_id))

    def _stop_engine(self, partition_id: str) -> None:
        self._account.revocations += 1
        self._starts_s.pop(partition_id, None)
        sms = self._up.pop(partition_id, 0)
        if sms:
            self._serving.pause(sms, keeps_cache=self._table.keeps_cache)
            self._engines_changed()

    def _engines_changed(self) -> None:
        self._serving.engines(list(self._up.values()), self._now_s)

    # --- slots

    def _watch_slots(self) -> None:
        """Draws when the next late slot is due, with what the RAN has and needs now."""
        self._watched += 1
        held = self._gpus.sms("ran") / self._gpus.sm_count
        late = slots.late_share(held, self._share, self._scenario.ran.slot_variation)
        self._late_per_s = late * self._slots_per_s * bool(held)
        if self._late_per_s <= 0.0 or self._alarmed or not self._lends():
            return
        watched = self._watched
        at_s = self._now_s + float(self._random.exponential(1.0 / self._late_per_s))
        if at_s < (self._step + 1) * self._step_s:
            self._at(at_s, lambda: self._late(watched))

    def _late(self, watched: int) -> None:
        """The first late slot is in the next report, with those that follow it."""
        if watched != self._watched or self._alarmed:
            return
        wait_s = self._scenario.speed * (_REPORT_S / 2.0 + FAST_PATH_S)
        self._account.slots_late += 1 + int(self._random.poisson(self._late_per_s * wait_s))
        self._watched += 1
        self._at(self._now_s + wait_s, self._alarm)

    def _alarm(self) -> None:
        """The fast path: every partition is the RAN's."""
        if self._plan is None or self._alarmed:
            return
        self._account.alarms += 1
        self._report_late(1)
        self._alarmed, self._settled = True, False
        self._applying += 1
        self._todo = []
        taking = alarm_plan(self._plan, self._gpus.inventory(), "late slots")
        if taking is not None:
            for part in list(self._gpus.parts.values()):
                if part.leased:
                    self._stop_engine(part.id)
            self._plan = taking
            for step in steps(taking, self._gpus.inventory()):
                self._gpus.carry_out(step)
        self._watch_slots()
        self._at(self._now_s + self._gate_settings.hold_s, self._after_alarm)

    def _after_alarm(self) -> None:
        hold_s = self._gate_settings.hold_s
        if self._late_per_s and int(self._random.poisson(self._late_per_s * hold_s)):
            self._report_late(1)
        if self._gate.is_raised(self._now_s):
            self._at(self._now_s + hold_s, self._after_alarm)
            return
        self._alarmed = False
        self._look()
        self._watch_slots()

    def _report_late(self, late: int) -> None:
        report = SlotReport("site", self._now_s, slots=max(1, late), slots_late=late)
        self._gate.take(report, self._now_s)

    # --- faults

    def _strike(self, fault: faults.Fault) -> None:
        if fault.kind == "engine dies":
            self._kill_engine(fault.pick)
        elif fault.kind == "GPU lost":
            uuid = f"GPU-{fault.pick}"
            for part in list(self._gpus.parts.values()):
                if part.gpu_uuid == uuid and part.leased:
                    self._stop_engine(part.id)
            self._gpus.lose(uuid)
            self._interrupt()
        elif fault.kind == "GPU back":
            self._gpus.restore(f"GPU-{fault.pick}")
            self._interrupt()
        else:
            self._gpus.drain(f"GPU-{fault.pick}", on=fault.kind == "maintenance")
            self._interrupt()
        if fault.kind not in ("GPU back", "maintenance ends"):
            self._count(fault.kind)

    def _interrupt(self) -> None:
        """What was being applied does not fit any more."""
        self._settled = False
        self._applying += 1
        self._todo = []
        self._engines_changed()
        self._look()
        self._watch_slots()

    def _kill_engine(self, pick: int) -> None:
        if not self._up:
            return
        one = sorted(self._up)[pick % len(self._up)]
        self._serving.pause(self._up.pop(one), keeps_cache=False)
        self._engines_changed()
        self._start_engine(one, self._now_s + self._table.cold_start_s)

    def _count(self, fault: str) -> None:
        self._account.faults[fault] = self._account.faults.get(fault, 0) + 1
