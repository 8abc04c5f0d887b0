"""The values the planner works on: inventory and demand in, targets and plan out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from orchestrator.geometry import Geometry
from orchestrator.mig import Placement


@dataclass(frozen=True)
class Gpu:
    """A GPU of the pool."""

    uuid: str
    geometry: Geometry
    drained: bool = False
    """In maintenance: nothing new is put on it, and what is there leaves when it can."""
    product: str = ""
    """A key of the geometry table where that has it."""
    node: str = ""
    """Host it is in."""


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
    """`whole`, `mig`, `mps` or `green`."""


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
class GpuDemand:
    """What the cells placed on one GPU need of it, in SMs, without headroom."""

    gpu_uuid: str
    now_sms: int
    soon_sms: int
    sustained_sms: int


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
    by_gpu: tuple[GpuDemand, ...] = ()
    """Where the cells are placed on GPUs; empty: the pool is filled in order."""
    scheduled_share: float | None = None
    """The most the policy's calendar gives the RAN within the horizon; None: no calendar."""


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
    undoes: int = 0
    """The failed plan whose work it undoes; 0: none."""

    @property
    def gpus(self) -> frozenset[str]:
        """The GPUs it has targets on."""
        return frozenset(target.gpu_uuid for target in self.targets)


def role_sms(parts: Iterable[Target | Partition], role: str) -> int:
    """SMs of all parts with that role."""
    return sum(part.sm_count for part in parts if part.role == role)


def renumbered(old: Plan, parent: Plan, reason: str) -> Plan:
    """The targets of `old` again, as a new plan after `parent`: how a plan is unwound."""
    return replace(
        old, generation=parent.generation + 1, parent=parent.generation, reason=reason, undoes=0
    )
