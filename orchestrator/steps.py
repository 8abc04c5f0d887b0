"""From a plan's target to the ordered steps that reach it from the present inventory. Pure.

Because the steps follow from what is there now, applying is idempotent: after a crash the same
call yields what is left to do. The RAN's new partitions are made before its old ones go.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from airan.core.errors import InUseError
from orchestrator.mig import Placement
from orchestrator.plan import Inventory, Partition, Plan, Target


@dataclass(frozen=True)
class Step:
    """One move. `kind` is `revoke`, `assign`, `destroy` or `create`."""

    kind: str
    gpu_uuid: str
    placement: Placement
    partition_id: str = ""
    """Empty for `create`."""
    role: str = ""
    """`assign` and `create`: the role afterwards."""
    role_before: str = ""

    def __str__(self) -> str:
        where = f"{self.placement.profile} at slice {self.placement.start}"
        if self.kind == "revoke":
            return f"revoke the lease on {where}, evict its holder at the end of the notice"
        if self.kind == "assign" and self.role_before == "ran":
            return f"hand the RAN's cells over from {where}, which becomes {self.role}"
        if self.kind == "assign":
            return f"give {where} to {self.role}"
        if self.kind == "create":
            return f"create {where} for {self.role}"
        return f"destroy {where}"


def steps(plan: Plan, inventory: Inventory) -> tuple[Step, ...]:
    """The steps left until the inventory is what the plan wants, in the order to take them.

    Leases end first; then partitions change to the RAN, others are destroyed, the RAN's new
    ones made where there is room, its cells handed over, its old ones destroyed; then the rest
    is made, the AI's last.

    Raises:
        InUseError: the plan does not fit this inventory: it would leave running cells with no
            partition on the way. Plan anew.
    """
    found: list[Step] = []
    for gpu in inventory.gpus:
        targets = {t.placement: t for t in plan.targets if t.gpu_uuid == gpu.uuid}
        found += _steps_of_gpu(targets, inventory.on(gpu))
    _refuse_interruption(found, inventory)
    return tuple(found)


def _steps_of_gpu(
    targets: dict[Placement, Target], existing: tuple[Partition, ...]
) -> Iterable[Step]:
    kept = [part for part in existing if part.placement in targets]
    gone = [part for part in existing if part.placement not in targets]
    here = {part.placement for part in kept}
    missing = [target for target in targets.values() if target.placement not in here]
    gone_ran = [part for part in gone if part.role == "ran"]
    early: list[Target] = []
    late: list[Target] = []
    for target in missing:
        blocked = any(target.placement.overlaps(part.placement) for part in gone_ran)
        (early if target.role == "ran" and not blocked else late).append(target)
    late.sort(key=lambda target: target.role != "ran")

    def wanted(part: Partition) -> str:
        return targets[part.placement].role if part.placement in targets else "free"

    found = [_of("revoke", part) for part in existing if part.leased and wanted(part) != "ai"]
    found += [_assign(part, "ran") for part in kept if part.role != "ran" == wanted(part)]
    found += [_of("destroy", part) for part in gone if part.role != "ran"]
    found += [_create(target) for target in early]
    found += [_assign(part, "free") for part in gone_ran]
    found += [_of("destroy", part) for part in gone_ran]
    found += [_create(target) for target in late if target.role == "ran"]
    found += [_assign(part, wanted(part)) for part in kept if part.role != wanted(part) != "ran"]
    return found + [_create(target) for target in late if target.role != "ran"]


def _refuse_interruption(found: Iterable[Step], inventory: Inventory) -> None:
    if not inventory.ran_in_use:
        return
    ran = {part.id for part in inventory.partitions if part.role == "ran"}
    created = 0
    for step in found:
        if step.kind == "create" and step.role == "ran":
            created += 1
        elif step.kind == "assign" and step.role == "ran":
            ran.add(step.partition_id)
        elif step.partition_id in ran and step.kind in ("assign", "destroy"):
            ran.discard(step.partition_id)
            if not ran and not created:
                raise InUseError(
                    f"to {step} would leave the RAN's running cells without a partition",
                    remedy="plan anew from the present inventory",
                )


def _of(kind: str, part: Partition) -> Step:
    return Step(kind, part.gpu_uuid, part.placement, part.id, role_before=part.role)


def _assign(part: Partition, role: str) -> Step:
    return Step("assign", part.gpu_uuid, part.placement, part.id, role, part.role)


def _create(target: Target) -> Step:
    return Step("create", target.gpu_uuid, target.placement, role=target.role)
