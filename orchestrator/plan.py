"""Policy + inventory + demand -> plan. Pure: no clock, no randomness, no I/O.

The RAN always wins, and is never interrupted: a plan never takes away the partitions its cells
run on before others hold what they need. Within that, the AI gets the largest partitions left.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

from orchestrator.mig import COMPUTE_SLICES, Layout, MigGeometry, Placement
from orchestrator.options import Option, maximal_options, options_of, ranked
from orchestrator.policy import Policy


@dataclass(frozen=True)
class Gpu:
    """A GPU of the pool."""

    uuid: str
    geometry: MigGeometry


@dataclass(frozen=True)
class Partition:
    """A part of a GPU as the driver last saw it, with the role it has been given."""

    id: str
    gpu_uuid: str
    placement: Placement
    sm_count: int
    memory_mib: int
    role: str = "free"
    """`ran`, `ai` or `free`."""
    leased: bool = False
    state: str = "ready"
    """`creating`, `ready` or `destroying`."""
    pids: tuple[int, ...] = ()
    kind: str = "mig"


@dataclass(frozen=True)
class Inventory:
    """What the driver last saw."""

    gpus: tuple[Gpu, ...]
    partitions: tuple[Partition, ...] = ()
    ran_in_use: bool = False
    """Cells run on the RAN's partitions, so that taking all of them interrupts service."""

    @property
    def sm_count(self) -> int:
        """SMs of the pool, those included that MIG strands."""
        return sum(gpu.geometry.sm_count for gpu in self.gpus)

    def on(self, gpu: Gpu) -> tuple[Partition, ...]:
        """The GPU's partitions that exist and are not going away."""
        return tuple(
            part
            for part in self.partitions
            if part.gpu_uuid == gpu.uuid and part.state != "destroying"
        )


@dataclass(frozen=True)
class Demand:
    """What the RAN needs, as shares of the pool's SMs, without headroom."""

    now_share: float
    forecast_share: float
    """The most it is expected to need until a plan made now could be corrected."""
    sustained_share: float
    """The most it is expected to need over the policy's `min_lease_s` on top."""
    horizon_s: float = 0.0
    source: str = ""
    assumed: bool = False
    """Not measured: no, or only stale, reports. Never worth an undividable GPU."""


@dataclass(frozen=True)
class Target:
    """A partition a plan wants."""

    gpu_uuid: str
    placement: Placement
    role: str
    sm_count: int
    memory_mib: int


@dataclass(frozen=True)
class Plan:
    """Who gets which part of which GPU; leaves no choice to whoever applies it."""

    generation: int
    parent: int
    targets: tuple[Target, ...]
    reason: str
    ran_share: float
    ai_share: float


class _Need(NamedTuple):
    """SMs the RAN needs on one GPU."""

    now: int
    soon: int
    sustained: int
    slices: int | None
    """Compute slices a static policy gives it; None: by SMs."""
    whole: bool
    """Only an undivided GPU covers what is needed."""


def plan(policy: Policy, inventory: Inventory, demand: Demand, parent: Plan | None) -> Plan:
    """The plan to apply next, or `parent` itself where nothing needs to change.

    Every maximal layout of each GPU with every assignment of roles is weighed, in this order:
    interrupting the RAN, the RAN's shortfall, the AI's partitions (largest first), leases
    revoked, instances moved. The AI grows only if the RAN's demand allows it for `min_lease_s`,
    and for a gain that is worth a revocation. A pool of several GPUs is filled in order.
    """
    needs = _Needs(policy, inventory, demand)
    targets: list[Target] = []
    for gpu in inventory.gpus:
        need = needs(gpu, targets)
        option = _choose(gpu, inventory, need, parent)
        targets += _targets(gpu, option)
    chosen = tuple(targets)
    if parent is not None and chosen == parent.targets:
        return parent
    total = inventory.sm_count
    generation = 0 if parent is None else parent.generation
    return Plan(
        generation=generation + 1,
        parent=generation,
        targets=chosen,
        reason=_reason(policy, inventory, demand, chosen),
        ran_share=role_sms(chosen, "ran") / total,
        ai_share=role_sms(chosen, "ai") / total,
    )


def role_sms(parts: Iterable[Target | Partition], role: str) -> int:
    """SMs of all parts with that role."""
    return sum(part.sm_count for part in parts if part.role == role)


def wanted_sms(policy: Policy, inventory: Inventory, share: float) -> int:
    """SMs that cover `share` of the pool with the policy's headroom and floor, at least one."""
    covered = max(share + policy.headroom, policy.min_ran_share)
    # The tolerance keeps 0.5 + 0.1 of 130 SMs at 78, not 79.
    return max(1, math.ceil(min(1.0, covered) * inventory.sm_count - 1e-9))


class _Needs:
    """Splits what the RAN needs over the GPUs, first come first filled."""

    def __init__(self, policy: Policy, inventory: Inventory, demand: Demand) -> None:
        self._policy, self._inventory = policy, inventory
        soon = max(demand.now_share, demand.forecast_share)
        self._now = math.ceil(min(1.0, demand.now_share) * inventory.sm_count - 1e-9)
        self._soon = wanted_sms(policy, inventory, soon)
        self._sustained = wanted_sms(policy, inventory, max(soon, demand.sustained_share))
        # An undivided GPU can only be divided again by interrupting the RAN, so that it is
        # worth having only for a measured demand that no division covers.
        divided = sum(gpu.geometry.divided_sm_count for gpu in inventory.gpus)
        self._whole = not demand.assumed and soon * inventory.sm_count > divided

    def __call__(self, gpu: Gpu, before: list[Target]) -> _Need:
        geometry = gpu.geometry
        if self._policy.kind == "static":
            slices = max(1, math.floor(self._policy.ran_share * COMPUTE_SLICES + 0.5))
            return _Need(self._now, 0, 0, slices, slices == COMPUTE_SLICES)
        given = role_sms(before, "ran")
        most = geometry.sm_count if self._whole else geometry.divided_sm_count
        now, soon, sustained = (
            min(most, max(0, wanted - given)) for wanted in (self._now, self._soon, self._sustained)
        )
        return _Need(max(now, 0 if before else 1), soon, sustained, None, self._whole)


def _choose(gpu: Gpu, inventory: Inventory, need: _Need, parent: Plan | None) -> Option:
    existing = inventory.on(gpu)
    held = tuple(t for t in parent.targets if t.gpu_uuid == gpu.uuid) if parent else ()
    judge = _Judge(gpu.geometry, existing, held, need, inventory.ran_in_use)
    return judge.best(_options(gpu, existing, held))


def _options(
    gpu: Gpu, existing: tuple[Partition, ...], held: tuple[Target, ...]
) -> Iterable[Option]:
    yield from maximal_options(gpu.geometry)
    for parts in (existing, held):
        yield from options_of(gpu.geometry, tuple(sorted(part.placement for part in parts)))


class _Judge:
    """Weighs options for one GPU; the smaller cost wins."""

    def __init__(
        self,
        geometry: MigGeometry,
        existing: tuple[Partition, ...],
        held: tuple[Target, ...],
        need: _Need,
        ran_in_use: bool,
    ) -> None:
        self._geometry = geometry
        self._need = need
        self._sms_of_ran = {
            part.placement: part.sm_count for part in existing if part.role == "ran"
        }
        self._role_now = {part.placement: part.role for part in existing}
        self._leased = frozenset(part.placement for part in existing if part.leased)
        self._held_ai = ranked(target.sm_count for target in held if target.role == "ai")
        self._slice_sms = geometry.profile("1g").sm_count
        self._short = role_sms(held, "ran") < need.soon
        self._leaving_of: dict[Layout, tuple[set[Placement], int]] = {}
        self._protected = 0
        if ran_in_use and self._sms_of_ran:
            self._protected = min(need.now, sum(self._sms_of_ran.values()))

    def best(self, options: Iterable[Option]) -> Option:
        """The option that is least bad by the first criterion that tells options apart."""
        left = list(options)
        for criterion in (
            self._interruption,
            lambda option: option.is_undivided and not self._need.whole,
            self._shortfall,
            lambda option: not self._is_worthwhile(option),
            lambda option: tuple(-sms for sms in option.ai_sms),
            self._revoked,
            lambda option: len(self._role_now.keys() ^ set(option.layout)),
            self._changed_roles,
            lambda option: (option.ran_sms, option.layout, option.roles),
        ):
            costs = [criterion(option) for option in left]
            least = min(costs)
            left = [option for option, cost in zip(left, costs, strict=True) if cost == least]
        return left[0]

    def _interruption(self, option: Option) -> int:
        """SMs the RAN lacks, of those it has and needs now, during the change or after it."""
        if not self._protected:
            return 0
        leaving, meanwhile = self._leaving(option.layout)
        for one in option.ran:
            if one not in self._sms_of_ran and not any(one.overlaps(old) for old in leaving):
                meanwhile += self._geometry.profile(one.profile).sm_count
        # A static share may be less than the RAN needs: the operator's word. Never nothing.
        kept = self._protected if self._need.slices is None else 1
        return max(0, self._protected - meanwhile, kept - option.ran_sms)

    def _leaving(self, layout: Layout) -> tuple[set[Placement], int]:
        """The RAN's placements that a layout has no room for, and the SMs of the others."""
        if layout not in self._leaving_of:
            leaving = self._sms_of_ran.keys() - set(layout)
            staying = sum(sms for one, sms in self._sms_of_ran.items() if one not in leaving)
            self._leaving_of[layout] = (leaving, staying)
        return self._leaving_of[layout]

    def _revoked(self, option: Option) -> int:
        return len(self._leased - option.ai)

    def _changed_roles(self, option: Option) -> int:
        parts = zip(option.layout, option.roles, strict=True)
        return sum(self._role_now.get(one, role) != role for one, role in parts)

    def _shortfall(self, option: Option) -> int:
        if self._need.slices is not None:
            return abs(option.ran_slices - self._need.slices)
        grows = option.ai_sms > self._held_ai
        return max(0, (self._need.sustained if grows else self._need.soon) - option.ran_sms)

    def _is_worthwhile(self, option: Option) -> bool:
        """Whether a change that revokes leases serves the RAN, or else brings a slice more."""
        if self._short or self._need.slices is not None or not self._revoked(option):
            return True
        return option.ai_sms[0] >= self._held_ai[0] + self._slice_sms


def _targets(gpu: Gpu, option: Option) -> list[Target]:
    targets = []
    for placement, role in zip(option.layout, option.roles, strict=True):
        profile = gpu.geometry.profile(placement.profile)
        targets.append(Target(gpu.uuid, placement, role, profile.sm_count, profile.memory_mib))
    return targets


def _reason(
    policy: Policy, inventory: Inventory, demand: Demand, targets: tuple[Target, ...]
) -> str:
    total, ran = inventory.sm_count, role_sms(targets, "ran")
    stranded = total - sum(target.sm_count for target in targets)
    if policy.kind == "static":
        why = f"static {policy.ran_share:.0%} by compute slices"
    else:
        soon = max(demand.now_share, demand.forecast_share)
        wanted = wanted_sms(policy, inventory, soon)
        why = (
            f"RAN needs {wanted} SMs (now {demand.now_share:.1%}, forecast "
            f"{demand.forecast_share:.1%}, headroom {policy.headroom:.1%}"
            f"{', assumed' if demand.assumed else ''})"
        )
        if wanted > ran:
            why += (
                f", {wanted - ran} more than any layout gives without interrupting it or taking"
                " an undivided GPU"
            )
    words = [f"{role.upper()} {_sizes(targets, role)}" for role in ("ran", "ai")]
    return f"{why}: {', '.join(words)}; {stranded} of {total} SMs stranded by MIG"


def _sizes(targets: tuple[Target, ...], role: str) -> str:
    names = [target.placement.profile for target in targets if target.role == role]
    return f"{' + '.join(names) or 'nothing'} ({role_sms(targets, role)} SMs)"


def renumbered(old: Plan, parent: Plan, reason: str) -> Plan:
    """The targets of `old` again, as a new plan after `parent`: how a plan is unwound."""
    return replace(old, generation=parent.generation + 1, parent=parent.generation, reason=reason)
