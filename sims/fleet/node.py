"""A simulated site's GPUs: partitions that change step by step, as the live driver's do.

The order of the steps is the live code's (`orchestrator.steps`); how long each takes is given
here with its source. Nothing is waited for: the clock is the simulation's.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from airan.core.errors import InvalidInputError
from orchestrator.geometry import Geometry
from orchestrator.partition_kinds import kind_of
from orchestrator.pool import Gpu, Inventory, Partition
from orchestrator.steps import Step

MIG_CREATE_S, MIG_DESTROY_S = 0.25, 0.15
"""Assumed, as the site's settings node.mig_create_ms and node.mig_destroy_ms."""
FAST_PATH_S = 0.032
"""Measured: `airan bench reclaim`, from an alarm until every partition is the RAN's."""


@dataclass
class SimulatedGpus:
    """What is there now."""

    geometry: Geometry
    n_gpus: int
    speed: float = 1.0
    """Of the simulated clock against wall time, in which changes take what they take."""
    gpus: dict[str, Gpu] = field(init=False)
    parts: dict[str, Partition] = field(init=False, default_factory=dict)
    _numbered: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        uuids = [f"GPU-{number}" for number in range(self.n_gpus)]
        self.gpus = {uuid: Gpu(uuid, self.geometry) for uuid in uuids}

    @property
    def sm_count(self) -> int:
        """SMs of all GPUs, lost ones too."""
        return self.n_gpus * self.geometry.sm_count

    @property
    def change_s(self) -> float:
        """Time of one change, in wall seconds, for the planning horizon."""
        if self.geometry.kind == "mig":
            return MIG_CREATE_S + MIG_DESTROY_S
        return kind_of(self.geometry.kind).change_ms / 1000.0

    def inventory(self) -> Inventory:
        """What the planner sees."""
        # Ids are in no plan: without them, equal situations are equal.
        parts = sorted(self.parts.values(), key=lambda part: (part.gpu_uuid, part.placement))
        return Inventory(tuple(self.gpus[uuid] for uuid in sorted(self.gpus)), tuple(parts), True)

    def sms(self, role: str) -> int:
        """SMs of all partitions with that role."""
        return sum(part.sm_count for part in self.parts.values() if part.role == role)

    def seconds(self, step: Step, pause_s: float, notice_s: float) -> float:
        """How long the step takes on the simulated clock; pause and notice are on it, too."""
        if step.kind == "revoke":
            return min(pause_s, notice_s)
        if step.kind == "assign":
            return 0.0
        if self.geometry.kind == "mig":
            return self.speed * (MIG_CREATE_S if step.kind == "create" else MIG_DESTROY_S)
        return self.speed * self.change_s

    def carry_out(self, step: Step) -> None:
        """Does what the step says.

        Raises:
            InvalidInputError: the geometry has no room for what it makes.
        """
        if step.kind == "create":
            self._create(step)
            return
        part = self.parts.pop(step.partition_id)
        if step.kind == "revoke":
            self._put(replace(part, leased=False))
        elif step.kind == "assign":
            self._put(replace(part, role=step.role, leased=False))
        elif step.kind == "resize" and step.becomes is not None:
            profile = self.geometry.profile(step.becomes.profile)
            self._put(
                replace(
                    part,
                    id=f"{part.gpu_uuid}/{step.becomes}",
                    placement=step.becomes,
                    sm_count=profile.sm_count,
                    memory_mib=profile.memory_mib,
                )
            )

    def lease(self, part: Partition) -> None:
        """An engine takes it."""
        self.parts[part.id] = replace(part, leased=True)

    def lose(self, uuid: str) -> None:
        """The GPU falls off the bus, with all that is on it."""
        self.gpus.pop(uuid, None)
        self.parts = {key: part for key, part in self.parts.items() if part.gpu_uuid != uuid}

    def restore(self, uuid: str) -> None:
        """The GPU is back, undivided."""
        self.gpus.setdefault(uuid, Gpu(uuid, self.geometry))

    def drain(self, uuid: str, *, on: bool) -> None:
        """The GPU goes into maintenance, or is in use again."""
        if uuid in self.gpus:
            self.gpus[uuid] = replace(self.gpus[uuid], drained=on)

    def check(self) -> None:
        """Returns if the partitions are legal together.

        Raises:
            InvalidInputError: they are not.
        """
        for uuid in self.gpus:
            on_it = [part.placement for part in self.parts.values() if part.gpu_uuid == uuid]
            self.geometry.check(on_it)

    def _create(self, step: Step) -> None:
        profile = self.geometry.profile(step.placement.profile)
        part = Partition(
            f"{step.gpu_uuid}/{step.placement}",
            step.gpu_uuid,
            step.placement,
            profile.sm_count,
            profile.memory_mib,
            step.role,
            kind=self.geometry.kind,
        )
        self._put(part)

    def _put(self, part: Partition) -> None:
        if part.id in self.parts:
            raise InvalidInputError("partition", f"{part.id} is there already")
        self.parts[part.id] = part
