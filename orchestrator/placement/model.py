"""What the fleet planner is given and what it answers. Pure values."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from airan.core.errors import InvalidInputError
from orchestrator.geometry import Geometry
from orchestrator.mig import Placement


@dataclass(frozen=True)
class FleetSite:
    """A place with GPUs."""

    id: str
    tags: frozenset[str] = frozenset()
    """Where its data lies, such as `jp` or `eu`."""
    latency_ms: Mapping[str, float] = field(default_factory=dict)
    """From each region's clients."""


def allowed_sites(
    sites: Iterable[FleetSite],
    *,
    region: str = "",
    max_latency_ms: float = math.inf,
    residency: frozenset[str] = frozenset(),
) -> frozenset[str]:
    """The sites near enough to a region's clients whose data stays where it must.

    An empty residency allows all; a site without a reading for the region is too far.
    """
    return frozenset(
        site.id
        for site in sites
        if (not residency or site.tags & residency)
        and (not region or site.latency_ms.get(region, math.inf) <= max_latency_ms)
    )


@dataclass(frozen=True)
class FleetGpu:
    """A GPU that may be used; lost ones and those in maintenance are left out."""

    uuid: str
    node: str
    site: str
    geometry: Geometry
    speed: float = 1.0
    """Of an SM, relative to the SMs that cells and engines are counted in."""
    ran_floor_sms: int = 0
    """SMs of this GPU that the RAN has in any case."""


@dataclass(frozen=True)
class FleetCell:
    """A cell of the RAN."""

    id: str
    sms: int
    """Its peak need in SMs, headroom included."""
    sites: frozenset[str]
    """Where its fronthaul latency allows it to run."""
    group: str = ""
    """Cells of one group, say the sectors of a mast, should not all be on one node."""
    gpu: str = ""
    """Where it runs now."""


@dataclass(frozen=True)
class FleetEngine:
    """An engine that somebody wants to run."""

    id: str
    sms: int
    memory_mib: int
    value: float
    """What it is worth to run it, per unit of time."""
    sites: frozenset[str]
    """Where latency and data residency allow it to run."""
    is_reserved: bool = False
    """Somebody paid for it to be there: it comes before all that are not reserved."""
    gpu: str = ""
    """Where it runs now."""
    partition: Placement | None = None
    """Of that GPU; None if it does not matter which."""


@dataclass(frozen=True)
class Fleet:
    """Everything to be placed, and where.

    Raises:
        InvalidInputError: an id twice, or a number that is not positive.
    """

    gpus: tuple[FleetGpu, ...]
    cells: tuple[FleetCell, ...] = ()
    engines: tuple[FleetEngine, ...] = ()
    max_per_node: Mapping[str, int] = field(default_factory=dict)
    """By group: no node has more of its cells, though some then run nowhere."""
    spread_penalty: float = 30.0
    """For every cell above half of its group on one node."""
    cell_move_cost: float = 5.0
    engine_move_cost: float = 0.1
    """As a share of the engine's value."""

    def __post_init__(self) -> None:
        for name, ids in (
            ("gpus", [gpu.uuid for gpu in self.gpus]),
            ("cells", [cell.id for cell in self.cells]),
            ("engines", [engine.id for engine in self.engines]),
        ):
            twice = [one for one, count in Counter(ids).items() if count > 1]
            if twice:
                raise InvalidInputError(name, f"{twice[0]!r} is there twice")
        for cell in self.cells:
            _check_positive(f"cells[{cell.id}].sms", cell.sms)
        for engine in self.engines:
            _check_positive(f"engines[{engine.id}].sms", engine.sms)
            _check_positive(f"engines[{engine.id}].memory_mib", engine.memory_mib)
            _check_positive(f"engines[{engine.id}].value", engine.value)
        for gpu in self.gpus:
            _check_positive(f"gpus[{gpu.uuid}].speed", gpu.speed)
            if not 0 <= gpu.ran_floor_sms <= gpu.geometry.sm_count:
                raise InvalidInputError(
                    f"gpus[{gpu.uuid}].ran_floor_sms",
                    f"must lie in [0, {gpu.geometry.sm_count}], got {gpu.ran_floor_sms}",
                )
        for group, most in self.max_per_node.items():
            _check_positive(f"max_per_node[{group}]", most)
        for name in ("spread_penalty", "cell_move_cost", "engine_move_cost"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise InvalidInputError(name, "must be finite and not negative")

    def is_cell_move(self, cell: FleetCell, gpu: str) -> bool:
        """Whether running there counts as moved: not if its GPU is gone, which leaves no choice."""
        return cell.gpu != gpu and cell.gpu in self._uuids

    def is_engine_move(self, engine: FleetEngine, gpu: str, placement: Placement | None) -> bool:
        """Likewise; an engine also moves to another partition of its GPU."""
        if engine.gpu not in self._uuids:
            return False
        return engine.gpu != gpu or engine.partition not in (None, placement)

    @cached_property
    def reserved_weight(self) -> float:
        """Of a reserved engine in the score: more than everything that may be traded for it."""
        worth = sum(engine.value for engine in self.engines)
        return 1.0 + worth + len(self.cells) * (self.cell_move_cost + self.spread_penalty)

    @cached_property
    def cell_weight(self) -> float:
        """Of a cell in the score: more than all engines together."""
        n_reserved = sum(engine.is_reserved for engine in self.engines)
        return 1.0 + self.reserved_weight * (n_reserved + 1)

    @cached_property
    def partitions_now(self) -> Mapping[str, frozenset[Placement]]:
        """By GPU: the partitions in which engines run."""
        found: dict[str, set[Placement]] = {gpu.uuid: set() for gpu in self.gpus}
        for engine in self.engines:
            if engine.partition is not None and engine.gpu in found:
                found[engine.gpu].add(engine.partition)
        return {uuid: frozenset(placements) for uuid, placements in found.items()}

    def at(self, plan: FleetPlan) -> Fleet:
        """The fleet with everything running where the plan puts it."""
        return replace(
            self,
            cells=tuple(replace(one, gpu=plan.cells.get(one.id, "")) for one in self.cells),
            engines=tuple(_engine_at(one, plan.engines.get(one.id)) for one in self.engines),
        )

    @cached_property
    def _uuids(self) -> frozenset[str]:
        return frozenset(gpu.uuid for gpu in self.gpus)

    @cached_property
    def group_caps(self) -> Mapping[str, int]:
        """How many cells of each group may be on one node without penalty: half, rounded up."""
        sizes = Counter(cell.group for cell in self.cells if cell.group)
        return {group: (size + 1) // 2 for group, size in sizes.items()}


@dataclass(frozen=True)
class EnginePlace:
    """Where an engine runs: an AI partition of a GPU's division."""

    gpu: str
    placement: Placement


@dataclass(frozen=True)
class FleetPlan:
    """Where everything runs, and how each GPU is divided for it."""

    divisions: Mapping[str, tuple[tuple[Placement, str], ...]]
    """By GPU: its partitions with their roles."""
    cells: Mapping[str, str]
    """GPU by cell."""
    engines: Mapping[str, EnginePlace]
    unplaced: Mapping[str, str]
    """Why, by id of the cell or engine."""
    moved_cells: tuple[str, ...]
    moved_engines: tuple[str, ...]
    score: float
    """What the planner makes as large as it can: every cell weighs more than all engines, every
    reserved engine more than all others; `worth` comes on top."""
    worth: float
    """Value of the engines placed, less moves and crowded groups."""


def sms_on(sms: int, gpu: FleetGpu) -> int:
    """SMs of this GPU for what needs `sms` of the reference."""
    return math.ceil(sms / gpu.speed - 1e-9)


def worth(fleet: Fleet, cells: Mapping[str, str], engines: Mapping[str, EnginePlace]) -> float:
    """Of an assignment (GPU by cell, partition by engine); see `FleetPlan.worth`."""
    total = 0.0
    for engine in fleet.engines:
        if engine.id in engines:
            where = engines[engine.id]
            moved = fleet.is_engine_move(engine, where.gpu, where.placement)
            total += engine.value * (1.0 - fleet.engine_move_cost * moved)
    node_of = {gpu.uuid: (gpu.site, gpu.node) for gpu in fleet.gpus}
    crowd: Counter[tuple[str, tuple[str, str]]] = Counter()
    for cell in fleet.cells:
        if cell.id in cells:
            total -= fleet.cell_move_cost * fleet.is_cell_move(cell, cells[cell.id])
            if cell.group:
                crowd[cell.group, node_of[cells[cell.id]]] += 1
    for (group, _), count in crowd.items():
        total -= fleet.spread_penalty * max(0, count - fleet.group_caps[group])
    return total


def weight(fleet: Fleet, cells: Iterable[str], engines: Iterable[str]) -> float:
    """What the score has on top of the worth, for the cells and engines placed."""
    reserved = {engine.id for engine in fleet.engines if engine.is_reserved}
    n_reserved = sum(engine in reserved for engine in engines)
    return fleet.cell_weight * sum(1 for _ in cells) + fleet.reserved_weight * n_reserved


def _engine_at(engine: FleetEngine, where: EnginePlace | None) -> FleetEngine:
    if where is None:
        return replace(engine, gpu="", partition=None)
    return replace(engine, gpu=where.gpu, partition=where.placement)


def _check_positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise InvalidInputError(name, f"must be positive and finite, got {value}")
