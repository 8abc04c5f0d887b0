"""What the fleet planner is given and what it answers. Pure values."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
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
    gpu: str = ""
    """Where it runs now."""


@dataclass(frozen=True)
class Fleet:
    """Everything to be placed, and where.

    Raises:
        InvalidInputError: an id twice, or a number that is not positive.
    """

    gpus: tuple[FleetGpu, ...]
    cells: tuple[FleetCell, ...] = ()
    engines: tuple[FleetEngine, ...] = ()
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
        for name in ("spread_penalty", "cell_move_cost", "engine_move_cost"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise InvalidInputError(name, "must be finite and not negative")

    def is_move(self, before: str, after: str) -> bool:
        """Whether what ran on one GPU and runs on another counts as moved: not if the first is
        gone, because then there was no choice."""
        return before != after and before in self._uuids

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
    """Value of the engines placed, less moves and crowded groups; cells count first, apart."""


def sms_on(sms: int, gpu: FleetGpu) -> int:
    """SMs of this GPU for what needs `sms` of the reference."""
    return math.ceil(sms / gpu.speed - 1e-9)


def score(fleet: Fleet, cells: Mapping[str, str], engines: Mapping[str, str]) -> float:
    """The score of an assignment (GPU by cell, GPU by engine); see `FleetPlan.score`."""
    total = 0.0
    for engine in fleet.engines:
        if engine.id in engines:
            moved = fleet.is_move(engine.gpu, engines[engine.id])
            total += engine.value * (1.0 - fleet.engine_move_cost * moved)
    node_of = {gpu.uuid: (gpu.site, gpu.node) for gpu in fleet.gpus}
    crowd: Counter[tuple[str, tuple[str, str]]] = Counter()
    for cell in fleet.cells:
        gpu = cells.get(cell.id)
        if gpu is None:
            continue
        total -= fleet.cell_move_cost * fleet.is_move(cell.gpu, gpu)
        if cell.group:
            crowd[cell.group, node_of[gpu]] += 1
    for (group, _), count in crowd.items():
        total -= fleet.spread_penalty * max(0, count - fleet.group_caps[group])
    return total


def _check_positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise InvalidInputError(name, f"must be positive and finite, got {value}")
