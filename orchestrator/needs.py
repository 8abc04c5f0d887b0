"""What each GPU of the pool must give the RAN, and leave the AI, under a policy. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from orchestrator.policy import Policy
from orchestrator.pool import Demand, Gpu, Inventory, Plan, Target, role_sms


class Need(NamedTuple):
    """What one GPU must give."""

    now: int
    """SMs the RAN uses now."""
    soon: int
    """SMs it must have, headroom included."""
    sustained: int
    """SMs it must keep if the AI is to get more."""
    floor: int = 0
    """SMs of `soon` that come before the AI's floor."""
    slices: int | None = None
    """Compute slices a fixed share gives the RAN; None: by SMs."""
    whole: bool = False
    """The RAN may take the undivided GPU."""
    ai_floor: int = 0
    """SMs the AI must get here."""
    ai_ceiling: int = 1 << 30
    """SMs the AI may have here."""


def wanted_sms(policy: Policy, inventory: Inventory, share: float) -> int:
    """SMs that cover `share` of the pool with the policy's headroom and bounds, at least one."""
    return _sms(policy.bounded(share + policy.headroom), inventory)


def _sms(share: float, inventory: Inventory) -> int:
    # The tolerance keeps 0.5 + 0.1 of 130 SMs at 78, not 79.
    return max(1, math.ceil(min(1.0, share) * inventory.sm_count - 1e-9))


class Needs:
    """Splits what both sides must have over the GPUs, in the order `order` gives."""

    def __init__(
        self, policy: Policy, inventory: Inventory, demand: Demand, parent: Plan | None = None
    ) -> None:
        self._parent = parent
        self._policy, self._inventory, self._demand = policy, inventory, demand
        soon = max(demand.now_share, demand.forecast_share)
        self._now = math.ceil(min(1.0, demand.now_share) * inventory.sm_count - 1e-9)
        self._soon = wanted_sms(policy, inventory, soon)
        self._sustained = wanted_sms(policy, inventory, max(soon, demand.sustained_share))
        self._floor = _sms(policy.min_ran_share, inventory)
        total = inventory.sm_count
        self._ai_floor = math.ceil(policy.min_ai_share * total - 1e-9)
        self._ai_ceiling = math.floor(policy.max_ai_share * total + 1e-9)
        # An undivided GPU can only be divided again by interrupting the RAN, so that it is
        # worth having only for a measured demand that no division covers.
        divided = sum(gpu.geometry.divided_sm_count for gpu in inventory.gpus)
        self._whole = not demand.assumed and min(soon, policy.max_ran_share) * total > divided
        self._of_gpu = {one.gpu_uuid: one for one in demand.by_gpu}
        self._left = list(self.order())

    def order(self) -> Sequence[Gpu]:
        """The GPUs in the order in which the RAN fills them: first those where it is, so that
        it gathers there; those in maintenance last."""
        held = {gpu.uuid: 0 for gpu in self._inventory.gpus}
        for target in self._parent.targets if self._parent else ():
            if target.role == "ran" and target.gpu_uuid in held:
                held[target.gpu_uuid] += target.sm_count
        return sorted(self._inventory.gpus, key=lambda gpu: (gpu.drained, -held[gpu.uuid]))

    def __call__(self, gpu: Gpu, before: list[Target]) -> Need:
        """What this GPU must give after what the ones before it have been given."""
        self._left.remove(gpu)
        later = sum(one.geometry.divided_sm_count for one in self._left if not one.drained)
        ai_given = role_sms(before, "ai")
        need = self._ran(gpu, before)
        return need._replace(
            ai_floor=0 if gpu.drained else max(0, self._ai_floor - ai_given - later),
            ai_ceiling=0 if gpu.drained else max(0, self._ai_ceiling - ai_given),
        )

    def _ran(self, gpu: Gpu, before: list[Target]) -> Need:
        if self._policy.kind != "demand":
            return self._fixed(gpu, before)
        if self._of_gpu:
            return self._placed(gpu, before)
        given = role_sms(before, "ran")
        most = gpu.geometry.sm_count if self._whole else gpu.geometry.divided_sm_count
        now, soon, sustained, floor = (
            min(most, max(0, wanted - given))
            for wanted in (self._now, self._soon, self._sustained, self._floor)
        )
        least = 0 if before or gpu.drained else 1
        return Need(max(now, least), soon, sustained, floor, whole=self._whole)

    def _placed(self, gpu: Gpu, before: list[Target]) -> Need:
        """By the cells on this GPU; the pool's floor is filled up on the first ones."""
        own = self._of_gpu.get(gpu.uuid)
        most = gpu.geometry.sm_count
        floor = min(gpu.geometry.divided_sm_count, max(0, self._floor - role_sms(before, "ran")))
        if gpu.drained or own is None:
            return Need(0, 0 if gpu.drained else floor, 0 if gpu.drained else floor, floor)
        headroom = math.ceil(self._policy.headroom * most - 1e-9) if own.soon_sms else 0
        ceiling = math.floor(self._policy.bounded(1.0) * most + 1e-9)
        soon, sustained = (
            max(floor, min(ceiling, sms + headroom)) for sms in (own.soon_sms, own.sustained_sms)
        )
        whole = not self._demand.assumed and soon > gpu.geometry.divided_sm_count
        return Need(own.now_sms, soon, max(soon, sustained), floor, whole=whole)

    def _fixed(self, gpu: Gpu, before: list[Target]) -> Need:
        """A fixed share: of every GPU, or of the number of GPUs."""
        share = self._demand.scheduled_share
        if share is None:
            share = self._policy.bounded(self._policy.ran_share)
        slices = gpu.geometry.compute_slices
        # Cells that need nothing just now run all the same.
        now = max(self._now, 0 if role_sms(before, "ran") else 1)
        if self._policy.unit == "gpu":
            mine = gpu.uuid in self._ran_gpus(share)
            sms = gpu.geometry.sm_count if mine else 0
            floor = max(0, self._floor - role_sms(before, "ran")) if mine else 0
            return Need(now if mine else 0, sms, sms, min(floor, sms), slices=None, whole=mine)
        # Where other GPUs are lost or in maintenance, the share of the rest may be too little.
        later = sum(
            _nearest(share, one.geometry.compute_slices) * one.geometry.slice_sms
            for one in self._left
            if not one.drained
        )
        floor = max(0, self._floor - role_sms(before, "ran") - later)
        if gpu.drained:
            return Need(0, floor, floor, floor, slices=None if floor else 0)
        wanted = _nearest(share, slices)
        floor = min(floor, gpu.geometry.divided_sm_count)
        return Need(now, 0, 0, floor, slices=wanted, whole=wanted == slices)

    def _ran_gpus(self, share: float) -> set[str]:
        """Which whole GPUs are the RAN's: first those where it is already."""
        usable = [gpu for gpu in self._inventory.gpus if not gpu.drained]
        count = max(1, math.floor(share * len(usable) + 0.5))
        held = {part.gpu_uuid for part in self._inventory.partitions if part.role == "ran"}
        usable.sort(key=lambda gpu: gpu.uuid not in held)
        return {gpu.uuid for gpu in usable[:count]}


def _nearest(share: float, slices: int) -> int:
    """The slices nearest to a share, at least one."""
    return max(1, math.floor(share * slices + 0.5))
