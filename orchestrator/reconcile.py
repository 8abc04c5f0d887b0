"""Compares the newest stored plan with what is there, at start and every few seconds. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from airan.core.errors import InUseError
from orchestrator.plan import Inventory, Partition, Plan, Target, renumbered, role_sms
from orchestrator.steps import least_ran_sms, steps
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
    if parent is not None and _reachable(parent.plan, inventory, keeping_ran=True):
        reason = f"plan {newest.plan.generation} unwound to plan {parent.plan.generation}"
        return Verdict("unwind", renumbered(parent.plan, newest.plan, reason))
    return Verdict("replan")


def undoing(failed: StoredPlan, parent: StoredPlan | None, inventory: Inventory) -> Plan | None:
    """The plan that undoes what a failed one has done: its parent's targets again, as far as
    the GPUs are there.

    None where that cannot be reached, or would leave the RAN less than it holds by now: then
    the next plan starts from what is there.
    """
    if parent is None:
        return None
    known = {gpu.uuid for gpu in inventory.gpus}
    left = tuple(target for target in parent.plan.targets if target.gpu_uuid in known)
    number = failed.plan.generation
    again = renumbered(parent.plan, failed.plan, f"plan {number} failed and is undone")
    total = max(1, inventory.sm_count)
    again = replace(
        again,
        undoes=number,
        targets=left,
        ran_share=role_sms(left, "ran") / total,
        ai_share=role_sms(left, "ai") / total,
    )
    if inventory.ran_in_use and role_sms(left, "ran") < role_sms(inventory.partitions, "ran"):
        return None
    if not _reachable(again, inventory, keeping_ran=True) or not steps(again, inventory):
        return None
    return again


def alarm_plan(newest: Plan, inventory: Inventory, cause: str) -> Plan | None:
    """Everything there is for the RAN, at once: only roles change, no instance is made or
    destroyed. None where the RAN has it already.
    """
    ready = [part for part in inventory.partitions if part.state == "ready"]
    if all(part.role == "ran" for part in ready):
        return None
    targets = tuple(
        Target(part.gpu_uuid, part.placement, "ran", part.sm_count, part.memory_mib)
        for part in sorted(ready, key=lambda part: (part.gpu_uuid, part.placement))
    )
    return Plan(
        generation=newest.generation + 1,
        parent=newest.generation,
        targets=targets,
        reason=f"slot alarm, the RAN gets every partition: {cause}",
        ran_share=role_sms(targets, "ran") / max(1, inventory.sm_count),
        ai_share=0.0,
    )


def as_planned(plan: Plan, inventory: Inventory) -> Inventory:
    """The inventory as an applied plan left it: without what is foreign, with what is missing."""
    there = {(part.gpu_uuid, part.placement): part for part in inventory.partitions}
    meant = []
    for target in plan.targets:
        part = there.get((target.gpu_uuid, target.placement)) or Partition(
            "", target.gpu_uuid, target.placement, target.sm_count, target.memory_mib
        )
        meant.append(replace(part, role=target.role))
    return replace(inventory, partitions=tuple(meant))


def differences(plan: Plan, inventory: Inventory) -> tuple[str, ...]:
    """In words, how the partitions differ from what an applied plan left behind."""
    wanted = {(target.gpu_uuid, target.placement): target.role for target in plan.targets}
    there = {(part.gpu_uuid, part.placement): part.role for part in inventory.partitions}
    known = {gpu.uuid for gpu in inventory.gpus}
    found = []
    for (gpu, placement), role in wanted.items():
        where = f"{placement.profile} at {placement.start} of {gpu}"
        if gpu not in known:
            found.append(f"{gpu} is gone")
        elif (gpu, placement) not in there:
            found.append(f"{where} ({role}) is missing")
        elif there[gpu, placement] != role:
            found.append(f"{where} is {there[gpu, placement]}, not {role}")
    for gpu, placement in there.keys() - wanted.keys():
        found.append(f"{placement.profile} at {placement.start} of {gpu} is in no plan")
    return tuple(sorted(set(found)))


def _reachable(plan: Plan, inventory: Inventory, *, keeping_ran: bool = False) -> bool:
    """Whether steps lead there; with `keeping_ran` none on which the RAN has less than both
    before and after."""
    if plan.gpus - {gpu.uuid for gpu in inventory.gpus}:
        return False
    try:
        found = steps(plan, inventory)
    except InUseError:
        return False
    if not keeping_ran or not inventory.ran_in_use:
        return True
    ends = (role_sms(parts, "ran") for parts in (inventory.partitions, plan.targets))
    return least_ran_sms(found, inventory) >= min(ends)
