"""What the orchestrator may ask of a GPU node, one Protocol a capability.

Every driver passes the same contract suite (tests/orchestrator/test_driver_contract.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from orchestrator.geometry import Geometry
from orchestrator.mig import Placement


@dataclass(frozen=True)
class GpuInfo:
    """One GPU of the node."""

    uuid: str
    name: str
    """Product name, a key of the geometry table where that has the product."""
    simulated: bool
    sm_count: int
    memory_mib: int
    xids: tuple[int, ...] = ()
    """XID errors seen since the node started or the GPU was reset, oldest first."""
    lost: bool = False
    """Fallen off the bus: every call on it fails until an operator acts."""
    node: str = ""
    """Host it is in."""
    mig_mode: str = "enabled"
    """`enabled`, `disabled` or `unsupported`."""
    ecc_uncorrected: int = 0
    """Uncorrected memory errors since the driver was loaded."""
    power_w: float | None = None
    """Drawn now; None where it cannot be read, as for the readings below."""
    power_limit_w: float | None = None
    energy_j: float | None = None
    """Since the driver was loaded."""
    temperature_c: float | None = None


@dataclass(frozen=True)
class GpuInstance:
    """One MIG GPU instance with its one compute instance over all of it; or a part of a GPU that
    is divided without MIG."""

    uuid: str
    """The MIG UUID, or the part's own; another one after every creation."""
    gpu_uuid: str
    placement: Placement
    sm_count: int
    memory_mib: int
    state: str
    """`creating`, `ready` or `destroying`."""
    pids: tuple[int, ...] = ()
    """Live processes attached to it."""


class GpuInventory(Protocol):
    """Reading. Changes nothing; safe to repeat."""

    async def gpus(self) -> tuple[GpuInfo, ...]:
        """All GPUs, in the node's order, lost ones included.

        Raises:
            UnavailableError: the driver does not answer.
        """
        ...

    def geometry(self, gpu_uuid: str) -> Geometry:
        """How the GPU may be divided; of a GPU that `gpus` has shown.

        Raises:
            NotFoundError: no such GPU, or no geometry known for it.
        """
        ...

    async def instances(self) -> tuple[GpuInstance, ...]:
        """All GPU instances, by GPU and start, of the GPUs that are not lost.

        Raises:
            UnavailableError: the driver does not answer.
        """
        ...


class MigControl(Protocol):
    """Making and removing GPU instances, or the parts of a GPU that is divided without MIG.
    Neither is idempotent: look first."""

    async def create(self, gpu_uuid: str, profile: str, start: int) -> GpuInstance:
        """Makes an instance at an explicit position; returns when it is ready.

        Others keep running. A failure may come before or after the instance was made: read the
        inventory again to know.

        Raises:
            NotFoundError: no such GPU or profile.
            InvalidInputError: the profile cannot start there.
            CapacityError: the position is taken, or there are as many of the profile as may be.
            PermanentError: MIG mode is off; only an administrator switches it.
            UnavailableError: the driver failed, or the GPU is lost.
        """
        ...

    async def destroy(self, uuid: str) -> None:
        """Removes an instance that no process uses; returns when its space is free.

        Raises:
            NotFoundError: there is none (any more).
            InUseError: a live process is attached.
            UnavailableError: the driver failed, or the GPU is lost.
        """
        ...


class ShareControl(Protocol):
    """Moving the border between the parts of a GPU that is divided without MIG."""

    async def resize(self, uuid: str, profile: str, start: int) -> GpuInstance:
        """Makes a part larger or smaller; returns when it is. It keeps its UUID and processes.

        Idempotent: a part that is so already stays so. A failure may come before or after the
        change: read the inventory again to know.

        Raises:
            NotFoundError: there is no such part (any more), or no such profile.
            InvalidInputError: the profile cannot start there.
            CapacityError: another part is in the way.
            PermanentError: MIG instances keep their size; or this driver cannot divide GPUs so.
            UnavailableError: the driver failed, or the GPU is lost.
        """
        ...


class InstanceProcesses(Protocol):
    """Which processes use an instance. A process is known by its pid and its start time."""

    async def attach(self, uuid: str, pid: int) -> None:
        """Registers a live process as using the instance. Idempotent.

        Raises:
            NotFoundError: no such instance, or no such process.
        """
        ...

    async def detach(self, uuid: str, pid: int) -> None:
        """Says that the process has stopped using the instance. Idempotent, also for an
        instance that is gone."""
        ...

    async def evict(self, uuid: str) -> tuple[int, ...]:
        """Kills (SIGKILL) the attached processes and returns their pids once they are gone.

        Only processes whose start time is still the registered one: a recycled pid is spared.
        Idempotent. Works on a lost GPU too.

        Raises:
            NotFoundError: no such instance.
        """
        ...


class Driver(GpuInventory, MigControl, ShareControl, InstanceProcesses, Protocol):
    """A GPU node."""
