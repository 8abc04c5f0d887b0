"""From a plan's target to the ordered steps that reach it from the present inventory. Pure.

Because the steps follow from what is there now, applying is idempotent: after a crash the same
call yields what is left to do. The RAN's new partitions are made before its old ones go, on
whichever GPU they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from airan.core.errors import InUseError
from orchestrator.mig import Placement
from orchestrator.pool import Gpu, Inventory, Partition, Plan, Target
from orchestrator.shares import SHARE_KINDS


@dataclass(frozen=True)
class Step:
    """One move. `kind` is `revoke`, `assign`, `resize`, `destroy` or `create`."""

    kind: str
    gpu_uuid: str
    placement: Placement
    partition_id: str = ""
    """Empty for `create`."""
    role: str = ""
    """`assign`, `resize` and `create`: the role afterwards."""
    role_before: str = ""
    becomes: Placement | None = None
    """`resize`: the placement afterwards."""

    def __str__(self) -> str:
        unit = "SM" if self.placement.profile.partition(".")[0] in SHARE_KINDS else "slice"
        where = f"{self.placement.profile} at {unit} {self.placement.start}"
        if self.kind == "revoke":
            return f"revoke the lease on {where}, evict its holder at the end of the notice"
        if self.kind == "assign" and self.role_before == "ran":
            return f"hand the RAN's cells over from {where}, which becomes {self.role}"
        if self.kind == "assign":
            return f"give {where} to {self.role}"
        if self.kind == "create":
            return f"create {where} for {self.role}"
        if self.kind == "resize" and self.becomes is not None:
            word = "shrink" if self.becomes.size < self.placement.size else "grow"
            return f"{word} {self.placement.profile} of {self.role} to {self.becomes.profile}"
        return f"destroy {where}"


def in_words(found: Iterable[Step], inventory: Inventory) -> tuple[str, ...]:
    """The steps in words, with the GPU where there are several."""
    if len(inventory.gpus) == 1:
        return tuple(str(step) for step in found)
    return tuple(f"{step.gpu_uuid}: {step}" for step in found)


class _Phases(NamedTuple):
    """One GPU's steps by phase; over all GPUs the phases follow one another, but for the last
    two of the RAN's."""

    revoke: list[Step]
    to_ran: list[Step]
    clear: list[Step]
    """Shrinks and destroys what is not the RAN's."""
    grow_ran: list[Step]
    """Grows or makes the RAN's new partitions where there is room."""
    hand_over: list[Step]
    late_ran: list[Step]
    shrink_ran: list[Step]
    """Once the RAN has all of its new."""
    rest: list[Step]


def steps(plan: Plan, inventory: Inventory) -> tuple[Step, ...]:
    """The steps left until the inventory is what the plan wants, in the order to take them.

    Leases end first; then partitions change to the RAN, others are destroyed, the RAN's new
    ones made where there is room, its cells handed over, its old ones destroyed; then the rest
    is made, the AI's last. A part of a GPU divided without MIG is resized instead, and keeps its
    lease.

    Raises:
        InUseError: the plan does not fit this inventory: it would leave running cells with no
            partition on the way. Plan anew.
    """
    of_gpus = []
    for gpu in inventory.gpus:
        targets = {t.placement: t for t in plan.targets if t.gpu_uuid == gpu.uuid}
        of_gpus.append(_phases(gpu, targets, inventory.on(gpu)))
    found = tuple(_in_order(of_gpus))
    _refuse_interruption(found, inventory)
    return found


def _in_order(of_gpus: Sequence[_Phases]) -> Iterator[Step]:
    for name in ("revoke", "to_ran", "clear", "grow_ran"):
        for gpu in of_gpus:
            yield from getattr(gpu, name)
    # GPUs on which the RAN gets new partitions in the place of old ones come before those that
    # it leaves, so that it has left nothing before it has all of the new.
    for gpu in sorted(of_gpus, key=lambda gpu: not gpu.late_ran):
        yield from gpu.hand_over
        yield from gpu.late_ran
    for name in ("shrink_ran", "rest"):
        for gpu in of_gpus:
            yield from getattr(gpu, name)


@dataclass
class _Resized:
    """Parts that stay but for their size, by their old placement."""

    shrunk: list[Step] = field(default_factory=list)
    grown: list[Step] = field(default_factory=list)
    taken: set[Placement] = field(default_factory=set)
    """Placements, old and new, with which nothing else is to be done."""


def _phases(gpu: Gpu, targets: dict[Placement, Target], existing: tuple[Partition, ...]) -> _Phases:
    resized = _resized(gpu, targets, existing)
    existing = tuple(part for part in existing if part.placement not in resized.taken)
    kept = [part for part in existing if part.placement in targets]
    gone = [part for part in existing if part.placement not in targets]
    here = {part.placement for part in kept} | resized.taken
    missing = [target for target in targets.values() if target.placement not in here]
    gone_ran = [part for part in gone if part.role == "ran"]
    ran_shrinks = [step for step in resized.shrunk if step.role == "ran"]
    new = [(step.becomes or step.placement, step) for step in resized.grown]
    new += [(target.placement, _create(target)) for target in missing]
    early: list[Step] = []
    late: list[Step] = []
    last: list[Step] = []
    for placement, step in new:
        if step.role != "ran" or any(placement.overlaps(old.placement) for old in ran_shrinks):
            last.append(step)
        elif any(placement.overlaps(part.placement) for part in gone_ran):
            late.append(step)
        else:
            early.append(step)

    def wanted(part: Partition) -> str:
        return targets[part.placement].role if part.placement in targets else "free"

    changed = [part for part in kept if part.role != wanted(part)]
    return _Phases(
        revoke=[_of("revoke", part) for part in existing if part.leased and wanted(part) != "ai"],
        to_ran=[_assign(part, "ran") for part in changed if wanted(part) == "ran"],
        clear=[step for step in resized.shrunk if step.role != "ran"]
        + [_of("destroy", part) for part in gone if part.role != "ran"],
        grow_ran=early,
        hand_over=[_assign(part, "free") for part in gone_ran]
        + [_of("destroy", part) for part in gone_ran],
        late_ran=late,
        shrink_ran=ran_shrinks,
        rest=[_assign(part, wanted(part)) for part in changed if wanted(part) != "ran"] + last,
    )


def _resized(
    gpu: Gpu, targets: dict[Placement, Target], existing: tuple[Partition, ...]
) -> _Resized:
    """The parts of a shared GPU that only move their border: same side, other size."""
    found = _Resized()
    if not gpu.geometry.is_resizable:
        return found
    for part in existing:
        target = _same_side(part, targets)
        if target is None or target.placement == part.placement:
            continue
        step = Step(
            "resize",
            gpu.uuid,
            part.placement,
            part.id,
            target.role,
            part.role,
            becomes=target.placement,
        )
        shrinks = target.placement.size < part.placement.size
        (found.shrunk if shrinks else found.grown).append(step)
        found.taken |= {part.placement, target.placement}
    return found


def _same_side(part: Partition, targets: dict[Placement, Target]) -> Target | None:
    """The target with the part's role, on the same end of the GPU."""
    starts_at_zero = part.placement.start == 0
    for target in targets.values():
        if target.role == part.role and (target.placement.start == 0) == starts_at_zero:
            return target
    return None


def least_ran_sms(found: Iterable[Step], inventory: Inventory) -> int:
    """The fewest SMs the RAN holds at any moment on the way."""
    geometries = {gpu.uuid: gpu.geometry for gpu in inventory.gpus}
    sms = {part.id: part.sm_count for part in inventory.partitions}
    held = {part.id for part in inventory.partitions if part.role == "ran"}
    now = least = sum(sms[one] for one in held)
    for step in found:
        geometry = geometries[step.gpu_uuid]
        if step.kind == "create" and step.role == "ran":
            now += geometry.profile(step.placement.profile).sm_count
        elif step.kind == "assign" and step.role == "ran":
            held.add(step.partition_id)
            now += sms[step.partition_id]
        elif step.kind == "resize" and step.role == "ran" and step.becomes is not None:
            grown = geometry.profile(step.becomes.profile).sm_count
            now += grown - sms[step.partition_id]
            sms[step.partition_id] = grown
        elif step.partition_id in held and step.kind in ("assign", "destroy"):
            held.discard(step.partition_id)
            now -= sms[step.partition_id]
        least = min(least, now)
    return least


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
