"""The live planner and forecaster, asked as often as a simulation has to: answers are kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from airan.core.clock import DAY_S
from orchestrator.demand import DemandEstimator, DemandSettings
from orchestrator.needs import wanted_sms
from orchestrator.plan import plan
from orchestrator.policy import Policy
from orchestrator.pool import Demand, Inventory, Plan, Target
from sims.fleet.scenario import PolicySpec, Scenario
from sims.fleet.traffic import Floats

_MOST_KEPT = 200_000


class RememberingPlanner:
    """Answers as `orchestrator.plan.plan` does. That is pure, and depends on the demand only by
    whole SMs, so that the same question need not be weighed twice; the reason's shares may be
    those of an earlier, equal question."""

    def __init__(self) -> None:
        self._kept: dict[object, Plan] = {}

    def __call__(
        self, policy: Policy, inventory: Inventory, demand: Demand, parent: Plan | None
    ) -> Plan:
        """The plan to apply next, or `parent` itself where nothing needs to change."""
        targets = parent.targets if parent is not None else None
        key = (policy, inventory, _question(policy, inventory, demand), targets)
        found = self._kept.get(key)
        if found is None:
            if len(self._kept) >= _MOST_KEPT:
                self._kept.clear()
            found = self._kept[key] = plan(policy, inventory, demand, parent)
        if parent is None:
            return found
        if found.targets == parent.targets:
            return parent
        return replace(found, generation=parent.generation + 1, parent=parent.generation)


def _question(policy: Policy, inventory: Inventory, demand: Demand) -> tuple[object, ...]:
    """All of a demand that a plan's targets depend on; see `orchestrator.needs.Needs`."""
    soon = max(demand.now_share, demand.forecast_share)
    total = inventory.sm_count
    divided = sum(gpu.geometry.divided_sm_count for gpu in inventory.gpus)
    return (
        math.ceil(min(1.0, demand.now_share) * total - 1e-9),
        wanted_sms(policy, inventory, soon),
        wanted_sms(policy, inventory, max(soon, demand.sustained_share)),
        not demand.assumed and min(soon, policy.max_ran_share) * total > divided,
        demand.by_gpu,
        demand.scheduled_share,
    )


@dataclass
class Foresight:
    """What the RAN of one site will need: forecast by the live code, or, for the oracle, known.

    `shares` [step] are what it needs, the warm-up first.
    """

    scenario: Scenario
    spec: PolicySpec
    shares: Floats
    start_s: float
    """Unix seconds of the first step of the warm-up."""

    def __post_init__(self) -> None:
        step_s = float(self.scenario.step_s)
        self._policy = self.spec.policy()
        self._first = self.scenario.warmup_days * round(DAY_S / step_s)
        self._estimator = DemandEstimator(
            DemandSettings(
                fit_s=self.scenario.forecast.fit_steps * step_s,
                residual_s=self.scenario.forecast.residual_steps * step_s,
                stale_s=2.5 * step_s,
                keep_s=DAY_S,
            )
        )
        if self._policy.kind == "demand" and self.spec.kind != "oracle":
            for step in range(self._first):
                self._estimator.add(self.start_s + step * step_s, float(self.shares[step]))

    def see(self, step: int) -> float:
        """Takes in what the RAN reports in this step (counted after the warm-up); its need."""
        share = float(self.shares[self._first + step])
        if self._policy.kind == "demand" and self.spec.kind != "oracle":
            now_s = self.start_s + (self._first + step) * self.scenario.step_s
            self._estimator.add(now_s, share)
        return share

    def demand(self, step: int, now_s: float, change_s: float) -> Demand:
        """What a plan made at `now_s` (Unix seconds), in that step, goes by; `change_s` is wall
        time."""
        step_s, speed = self.scenario.step_s, self.scenario.speed
        horizon_s = speed * (2 * change_s + self._policy.notice_ms / 1000.0) + step_s
        sustain_s = speed * self._policy.min_lease_s
        now = float(self.shares[self._first + step])
        if self.spec.kind == "oracle":
            soon = self._most(step, horizon_s)
            later = self._most(step, horizon_s + sustain_s)
            return Demand(now, soon, later, horizon_s, "known")
        if self._policy.kind == "demand":
            seen_s = self.start_s + (self._first + step) * step_s
            return self._estimator.demand(
                max(now_s, seen_s), horizon_s, sustain_s, self._policy.ran_share
            )
        scheduled = max(
            self._policy.ran_share_at(now_s), self._policy.ran_share_at(now_s + horizon_s)
        )
        calendar = scheduled if self._policy.kind == "time_of_day" else None
        return Demand(now, now, now, horizon_s, "reported", scheduled_share=calendar)

    def _most(self, step: int, horizon_s: float) -> float:
        first = self._first + step
        last = first + math.ceil(horizon_s / self.scenario.step_s)
        return float(np.max(self.shares[first : last + 1]))


def stretched(demand: Demand, factor: float) -> Demand:
    """The same need as shares of a pool that is smaller by that factor: GPUs are lost."""
    if factor == 1.0:
        return demand
    now, soon, later = (
        min(1.0, share * factor)
        for share in (demand.now_share, demand.forecast_share, demand.sustained_share)
    )
    return replace(demand, now_share=now, forecast_share=soon, sustained_share=later)


def ran_sms(targets: Sequence[Target]) -> int:
    """SMs that a plan gives the RAN."""
    return sum(target.sm_count for target in targets if target.role == "ran")
