"""Why a cell or an engine runs nowhere, and whether a plan keeps every rule."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping

from airan.core.errors import InvalidInputError
from orchestrator.placement.model import (
    EnginePlace,
    Fleet,
    FleetCell,
    FleetEngine,
    FleetPlan,
    sms_on,
)


def why_unplaced(
    fleet: Fleet, cells: Mapping[str, str], engines: Mapping[str, EnginePlace]
) -> dict[str, str]:
    """The reason in words, by id, for everything that is not placed."""
    reasons = {one.id: _why_cell(fleet, one) for one in fleet.cells if one.id not in cells}
    return reasons | {
        one.id: _why_engine(fleet, one) for one in fleet.engines if one.id not in engines
    }


def _why_cell(fleet: Fleet, cell: FleetCell) -> str:
    near = [gpu for gpu in fleet.gpus if gpu.site in cell.sites]
    if not near:
        return "no GPU at a site within its fronthaul latency"
    if all(sms_on(cell.sms, gpu) > gpu.geometry.sm_count for gpu in near):
        return f"it needs {cell.sms} SMs, more than any GPU in reach has"
    if cell.group in fleet.max_per_node:
        most = fleet.max_per_node[cell.group]
        return (
            f"the {len(near)} GPUs within its fronthaul latency are full with cells, or on nodes"
            f" that have {most} of group {cell.group}, as many as may be there"
        )
    return f"the {len(near)} GPUs within its fronthaul latency are full with cells"


def _why_engine(fleet: Fleet, engine: FleetEngine) -> str:
    near = [gpu for gpu in fleet.gpus if gpu.site in engine.sites]
    if not near:
        return "no GPU at a site that its latency and residency allow"
    if all(
        sms_on(engine.sms, gpu) > gpu.geometry.sm_count
        or engine.memory_mib > gpu.geometry.memory_mib
        for gpu in near
    ):
        return f"no GPU it may use has {engine.sms} SMs and {engine.memory_mib} MiB"
    return "what the RAN leaves is worth more to other engines, or too small for it"


def check(fleet: Fleet, plan: FleetPlan) -> None:
    """Returns if the plan keeps every rule of the fleet.

    Raises:
        InvalidInputError: it does not; names the GPU, cell or engine.
    """
    gpus = {gpu.uuid: gpu for gpu in fleet.gpus}
    node_of = {gpu.uuid: (gpu.site, gpu.node) for gpu in fleet.gpus}
    ran_sms: dict[str, int] = defaultdict(int)
    crowd: Counter[tuple[str, tuple[str, str]]] = Counter()
    for cell in fleet.cells:
        if cell.id in plan.cells:
            gpu = gpus[plan.cells[cell.id]]
            _require(gpu.site in cell.sites, f"cell {cell.id} is out of reach on {gpu.uuid}")
            ran_sms[gpu.uuid] += sms_on(cell.sms, gpu)
            crowd[cell.group, node_of[gpu.uuid]] += 1
    for (group, node), count in crowd.items():
        most = fleet.max_per_node.get(group, count)
        _require(count <= most, f"{count} cells of group {group} are on node {node[1]}")
    taken: dict[EnginePlace, list[int]] = defaultdict(lambda: [0, 0])
    for engine in fleet.engines:
        if engine.id in plan.engines:
            where = plan.engines[engine.id]
            gpu = gpus[where.gpu]
            _require(gpu.site in engine.sites, f"engine {engine.id} may not run at {gpu.site}")
            _require(
                (where.placement, "ai") in plan.divisions[gpu.uuid],
                f"engine {engine.id} is on no AI partition",
            )
            taken[where][0] += sms_on(engine.sms, gpu)
            taken[where][1] += engine.memory_mib
    for place, (sms, mib) in taken.items():
        profile = gpus[place.gpu].geometry.profile(place.placement.profile)
        _require(
            sms <= profile.sm_count and mib <= profile.memory_mib, f"{place} holds too many engines"
        )
    for gpu in fleet.gpus:
        division = plan.divisions[gpu.uuid]
        gpu.geometry.check(placement for placement, _ in division)
        ran = gpu.geometry.sms(placement for placement, role in division if role == "ran")
        _require(ran_sms[gpu.uuid] <= ran, f"the cells on {gpu.uuid} lack SMs")
        _require(gpu.ran_floor_sms <= ran, f"the RAN has less than its floor on {gpu.uuid}")


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise InvalidInputError("plan", problem)
