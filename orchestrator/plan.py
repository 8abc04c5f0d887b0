"""Policy + inventory + demand -> plan. Pure: no clock, no randomness, no I/O.

The RAN always wins, and is never interrupted: a plan never takes away the partitions its cells
run on before others hold what they need. Within that, the AI gets the largest partitions left.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from orchestrator.judge import Judge
from orchestrator.needs import Need, Needs, wanted_sms
from orchestrator.options import Option, maximal_options, options_of, within
from orchestrator.policy import Policy
from orchestrator.pool import (
    Demand,
    Gpu,
    GpuDemand,
    Inventory,
    Partition,
    Plan,
    Target,
    renumbered,
    role_sms,
)

__all__ = [
    "Demand",
    "Gpu",
    "GpuDemand",
    "Inventory",
    "Partition",
    "Plan",
    "Target",
    "plan",
    "renumbered",
    "role_sms",
    "wanted_sms",
]


def plan(policy: Policy, inventory: Inventory, demand: Demand, parent: Plan | None) -> Plan:
    """The plan to apply next, or `parent` itself where nothing needs to change.

    Every maximal layout of each GPU with every assignment of roles is weighed, in this order:
    interrupting the RAN, both sides' floors, the RAN's shortfall, the AI's partitions (largest
    first), leases revoked, instances moved. The AI grows only if the RAN's demand allows it for
    `min_lease_s`, and for a gain that is worth a revocation. A pool of several GPUs is filled in
    order, unless the demand says what each must give; GPUs in maintenance come last and keep
    only what the RAN cannot get elsewhere.
    """
    needs = Needs(policy, inventory, demand, parent)
    gain_sms = math.ceil(policy.hysteresis_share * inventory.sm_count)
    found: dict[str, list[Target]] = {}
    before: list[Target] = []
    wanted = 0
    for gpu in needs.order():
        need = needs(gpu, before)
        option = _choose(gpu, inventory, need, parent, gain_sms)
        found[gpu.uuid] = _targets(gpu, option, need)
        before += found[gpu.uuid]
        wanted += need.soon
    chosen = tuple(target for gpu in inventory.gpus for target in found[gpu.uuid])
    if parent is not None and chosen == parent.targets:
        return parent
    total = inventory.sm_count
    generation = 0 if parent is None else parent.generation
    return Plan(
        generation=generation + 1,
        parent=generation,
        targets=chosen,
        reason=_reason(policy, inventory, _Wanted(demand, wanted), chosen),
        ran_share=role_sms(chosen, "ran") / total,
        ai_share=role_sms(chosen, "ai") / total,
    )


def _choose(
    gpu: Gpu, inventory: Inventory, need: Need, parent: Plan | None, gain_sms: int
) -> Option:
    existing = inventory.on(gpu)
    held = tuple(t for t in parent.targets if t.gpu_uuid == gpu.uuid) if parent else ()
    judge = Judge(
        gpu.geometry,
        existing,
        held,
        need,
        ran_in_use=inventory.ran_in_use,
        gain_sms=max(gain_sms, gpu.geometry.gain_sms),
    )
    return judge.best(_options(gpu, existing, held))


def _options(
    gpu: Gpu, existing: tuple[Partition, ...], held: tuple[Target, ...]
) -> Iterable[Option]:
    yield from maximal_options(gpu.geometry)
    if gpu.drained:
        yield from options_of(gpu.geometry, ())
    for parts in (existing, held):
        yield from options_of(gpu.geometry, tuple(sorted(part.placement for part in parts)))


def _targets(gpu: Gpu, option: Option, need: Need) -> list[Target]:
    """The option's partitions; those above the AI's ceiling are free, or gone in maintenance."""
    allowed = [sms for sms in within(option.ai_sms, need.ai_ceiling) if sms]
    targets = []
    for placement, role in zip(option.layout, option.roles, strict=True):
        profile = gpu.geometry.profile(placement.profile)
        kept = role
        if role == "ai" and profile.sm_count not in allowed:
            kept = "free"
        elif role == "ai":
            allowed.remove(profile.sm_count)
        unused = kept == "free" or not (need.soon or need.now)
        if not (gpu.drained and unused):
            memory_mib = profile.memory_mib
            targets.append(Target(gpu.uuid, placement, kept, profile.sm_count, memory_mib))
    return targets


class _Wanted(NamedTuple):
    demand: Demand
    placed_sms: int
    """What the cells placed on the GPUs need together, headroom included."""


def _reason(
    policy: Policy, inventory: Inventory, wanted: _Wanted, targets: tuple[Target, ...]
) -> str:
    total = inventory.sm_count
    stranded = total - sum(target.sm_count for target in targets)
    if policy.kind == "demand":
        why = _demand_reason(policy, inventory, wanted, role_sms(targets, "ran"))
    else:
        why = _fixed_reason(policy, wanted.demand)
    words = [f"{role.upper()} {_sizes(targets, role)}" for role in ("ran", "ai")]
    if free := role_sms(targets, "free"):
        words.append(f"{free} SMs above the AI's ceiling")
    if drained := sum(gpu.drained for gpu in inventory.gpus):
        words.append(f"{drained} GPU{'s' if drained > 1 else ''} in maintenance")
    return f"{why}: {', '.join(words)}; {stranded} of {total} SMs {_stranded_by(inventory)}"


def _demand_reason(policy: Policy, inventory: Inventory, wanted: _Wanted, ran_sms: int) -> str:
    demand = wanted.demand
    soon = max(demand.now_share, demand.forecast_share)
    sms = wanted.placed_sms if demand.by_gpu else wanted_sms(policy, inventory, soon)
    why = (
        f"RAN needs {sms} SMs (now {demand.now_share:.1%}, forecast "
        f"{demand.forecast_share:.1%}, headroom {policy.headroom:.1%}"
        f"{', by cells placed' if demand.by_gpu else ''}{', assumed' if demand.assumed else ''})"
    )
    if sms <= ran_sms:
        return why
    floor = ", leaving the AI its floor" if policy.min_ai_share else ""
    return (
        f"{why}, {sms - ran_sms} more than any layout gives without interrupting it or taking"
        f" an undivided GPU{floor}"
    )


def _fixed_reason(policy: Policy, demand: Demand) -> str:
    share = demand.scheduled_share
    if share is None:
        share = policy.bounded(policy.ran_share)
    unit = "whole GPUs" if policy.unit == "gpu" else "compute slices"
    return f"{policy.kind.replace('_', ' ')} {share:.0%} by {unit}"


def _stranded_by(inventory: Inventory) -> str:
    kinds = {gpu.geometry.kind for gpu in inventory.gpus}
    return "stranded by MIG" if kinds == {"mig"} else "in no partition"


def _sizes(targets: tuple[Target, ...], role: str) -> str:
    names = [target.placement.profile for target in targets if target.role == role]
    return f"{' + '.join(names) or 'nothing'} ({role_sms(targets, role)} SMs)"
