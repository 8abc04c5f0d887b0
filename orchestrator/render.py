"""Inside values to the views that clients see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from orchestrator.drivers.base import GpuInfo
from orchestrator.leases import LeaseManager
from orchestrator.mig import MEMORY_SLICES
from orchestrator.plan import Demand, Inventory, Plan
from orchestrator.policy import Policy
from orchestrator.store import StoredPlan
from orchestrator.views import DemandView, GpuView, NodeView, PartitionView, PlanView


def policy_text(policy: Policy) -> str:
    """The policy in a few words."""
    if policy.kind == "static":
        return f"static, RAN {policy.ran_share:.0%}"
    return (
        f"demand, headroom {policy.headroom:.0%}, RAN at least {policy.min_ran_share:.0%},"
        f" leases worth {policy.min_lease_s:g} s"
    )


def plan_view(plan: Plan, state: str, created_s: float) -> PlanView:
    """A plan as clients see it."""
    return PlanView(
        generation=plan.generation,
        parent=plan.parent,
        state=state,
        reason=plan.reason,
        created_s=created_s,
        partitions=tuple(
            PartitionView(
                profile=target.placement.profile,
                role=target.role,
                start=target.placement.start,
                size=target.placement.size,
                sm_count=target.sm_count,
                memory_mib=target.memory_mib,
                state="planned",
            )
            for target in plan.targets
        ),
        ran_share=plan.ran_share,
        ai_share=plan.ai_share,
    )


def stored_view(stored: StoredPlan | None) -> PlanView:
    """A stored plan as clients see it; an empty one for None."""
    if stored is None:
        return PlanView()
    return plan_view(stored.plan, stored.state, stored.created_s)


def demand_view(demand: Demand) -> DemandView:
    """A demand as clients see it."""
    return DemandView(demand.now_share, demand.forecast_share, demand.horizon_s, demand.source)


def gpu_view(
    info: GpuInfo, inventory: Inventory, leases: LeaseManager, drained: Mapping[str, str]
) -> GpuView:
    """A GPU with its partitions and its health; `drained` says why, by GPU in maintenance."""
    positions = {gpu.uuid: gpu.geometry.positions for gpu in inventory.gpus}
    partitions = []
    for part in inventory.partitions:
        if part.gpu_uuid != info.uuid:
            continue
        lease = leases.on_partition(part.id)
        view = PartitionView(
            id=part.id,
            kind=part.kind,
            profile=part.placement.profile,
            role=part.role,
            start=part.placement.start,
            size=part.placement.size,
            sm_count=part.sm_count,
            memory_mib=part.memory_mib,
            state=part.state,
            lease_id=lease.id if lease else "",
            pids=part.pids,
        )
        partitions.append(view)
    return GpuView(
        uuid=info.uuid,
        name=info.name,
        simulated=info.simulated,
        sm_count=info.sm_count,
        memory_mib=info.memory_mib,
        memory_slices=positions.get(info.uuid, MEMORY_SLICES),
        partitions=tuple(partitions),
        node=info.node,
        lost=info.lost,
        mig_mode=info.mig_mode,
        xids=info.xids,
        ecc_uncorrected=info.ecc_uncorrected,
        power_w=info.power_w,
        power_limit_w=info.power_limit_w,
        energy_j=info.energy_j,
        temperature_c=info.temperature_c,
        maintenance=info.uuid in drained,
        maintenance_reason=drained.get(info.uuid, ""),
    )


def node_views(gpus: Sequence[GpuView]) -> list[NodeView]:
    """The hosts of the GPUs, by name."""
    views = []
    for name in sorted({gpu.node for gpu in gpus}):
        here = [gpu for gpu in gpus if gpu.node == name]
        power_w = [gpu.power_w for gpu in here if gpu.power_w is not None]
        view = NodeView(
            name=name,
            simulated=any(gpu.simulated for gpu in here),
            gpus=len(here),
            gpus_lost=sum(gpu.lost for gpu in here),
            gpus_in_maintenance=sum(gpu.maintenance for gpu in here),
            power_w=sum(power_w) if power_w else None,
        )
        views.append(view)
    return views
