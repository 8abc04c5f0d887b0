"""Compares the newest stored plan with what is there, at start and every few seconds. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from airan.core.errors import InUseError
from orchestrator.plan import Inventory, Plan, renumbered
from orchestrator.steps import steps
from orchestrator.store import StoredPlan


@dataclass(frozen=True)
class Verdict:
    """What to do about the newest plan.

    `kind`: `nothing`; `finish` a plan that was not applied to its end; `mend` an applied plan
    from which the inventory has drifted; `unwind` to `plan`, the parent's targets again; or
    `replan`, when neither can be reached.
    """

    kind: str
    plan: Plan | None = None


def verdict(newest: StoredPlan | None, parent: StoredPlan | None, inventory: Inventory) -> Verdict:
    """What to do about the newest plan, given what is there."""
    if newest is None:
        return Verdict("replan")
    if _reachable(newest.plan, inventory):
        if newest.state == "applied":
            left = bool(steps(newest.plan, inventory))
            return Verdict("mend", newest.plan) if left else Verdict("nothing")
        return Verdict("finish", newest.plan)
    if parent is not None and _reachable(parent.plan, inventory):
        reason = f"plan {newest.plan.generation} unwound to plan {parent.plan.generation}"
        return Verdict("unwind", renumbered(parent.plan, newest.plan, reason))
    return Verdict("replan")


def _reachable(plan: Plan, inventory: Inventory) -> bool:
    known = {gpu.uuid for gpu in inventory.gpus}
    if any(target.gpu_uuid not in known for target in plan.targets):
        return False
    try:
        steps(plan, inventory)
    except InUseError:
        return False
    return True
