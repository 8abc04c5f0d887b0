"""What an agent starts on its lease, and how the lease's partition reaches it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from marketplace.adapters.adapter import AdapterFile
from marketplace.engines.leases import Lease
from orchestrator.drivers.environment import PartOf, Side, environment
from orchestrator.drivers.mps import MpsFolders

AI = "ai"


class EngineHost(Protocol):
    """What an agent starts and stops on its lease; see LlamaHost and VllmHost."""

    @property
    def url(self) -> str:
        """Where the server listens; empty while it does not run."""

    @property
    def needs_lease(self) -> bool:
        """It runs on the lease's partition, and without a lease not at all."""

    @property
    def loads_on(self) -> bool:
        """Whether a model that is being loaded may go on when the lease is revoked: it takes
        nothing that the partition's next holder needs."""

    @property
    def takes_adapters(self) -> bool:
        """Whether add_adapter() and drop_adapter() work while it runs; else start() takes them."""

    async def start(self, adapters: Sequence[AdapterFile] = ()) -> None:
        """Returns when it listens, with these adapters loaded.

        Raises:
            ModelFileError: it cannot load the model, or one of them.
        """

    async def add_adapter(self, adapter: AdapterFile) -> None:
        """Loads one more.

        Raises:
            InvalidInputError: it cannot.
            UnavailableError: the server does not answer.
        """

    async def drop_adapter(self, adapter: AdapterFile) -> None:
        """Unloads one.

        Raises:
            InvalidInputError: it does not have it.
            UnavailableError: the server does not answer.
        """

    def fits(self, lease: Lease) -> bool:
        """Whether the server, as it runs, keeps to the lease's partition."""

    async def occupy(self, lease: Lease) -> None:
        """Returns when it listens on the lease's partition, started anew or woken if need be."""

    async def vacate(self, until_s: float) -> None:
        """The lease ends: gives back what the partition's next holder needs, by Unix time
        `until_s`. No request is in work."""

    def disconnect(self) -> None:
        """Breaks every connection to it."""

    async def stop(self) -> None:
        """Ends it; does nothing if it does not run."""

    async def running(self) -> int:
        """Requests that it works on now."""


@dataclass(frozen=True)
class GpuAccess:
    """How an engine gets to the partition that its lease names."""

    total_sms: int
    """Of the GPU."""
    folders: MpsFolders | None = None
    """Of the site's MPS daemon; None: it runs none."""
    memory_mib: int | None = None
    """The engine's limit on a GPU shared by MPS or green contexts; None: none."""

    def variables(self, lease: Lease) -> Mapping[str, str]:
        """The environment of a process on the lease's partition.

        Raises:
            ConfigError: it needs an MPS daemon, and there is none.
        """
        side = Side(AI, self.memory_mib)
        return environment(_part(lease), side, self.total_sms, self.folders)

    def may_keep_memory(self, lease: Lease) -> bool:
        """Whether a model may stay in memory when the lease ends: each side of a GPU shared by MPS
        or green contexts has its own for good; of any other partition all goes to the next."""
        return _part(lease).kind in ("mps", "green")


def _part(lease: Lease) -> PartOf:
    return PartOf(lease.partition_id, lease.gpu_uuid, lease.profile, lease.sm_count)
