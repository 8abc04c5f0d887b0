"""What is there now: the driver's reading joined with roles and leases."""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.drivers.base import GpuInventory
from orchestrator.leases import LeaseManager
from orchestrator.plan import Gpu, Inventory, Partition
from orchestrator.store import Store


class Observer:
    """Reads the inventory the planner and the executor work from. Changes nothing."""

    def __init__(
        self,
        driver: GpuInventory,
        store: Store,
        leases: LeaseManager,
        ran_reports: Callable[[], bool],
    ) -> None:
        self._driver, self._store, self._leases = driver, store, leases
        self._ran_reports = ran_reports

    async def inventory(self) -> Inventory:
        """GPUs that are not lost, and their partitions.

        Raises:
            UnavailableError: the driver or the database does not answer.
        """
        infos = [info for info in await self._driver.gpus() if not info.lost]
        # A GPU that nobody knows how to divide has none: it is no part of the pool.
        infos = [info for info in infos if info.sm_count]
        drained = self._store.maintenance()
        gpus = tuple(
            Gpu(
                info.uuid,
                self._driver.geometry(info.uuid),
                info.uuid in drained,
                product=info.name,
                node=info.node,
            )
            for info in infos
        )
        known = {gpu.uuid for gpu in gpus}
        roles = self._store.roles()
        leased = {lease.partition_id for lease in self._leases.live()}
        partitions = tuple(
            Partition(
                id=one.uuid,
                gpu_uuid=one.gpu_uuid,
                placement=one.placement,
                sm_count=one.sm_count,
                memory_mib=one.memory_mib,
                role=roles.get(one.uuid, "free"),
                leased=one.uuid in leased,
                state=one.state,
                pids=one.pids,
            )
            for one in await self._driver.instances()
            if one.gpu_uuid in known
        )
        # The processes on the RAN's partitions tell also after a restart of this one.
        attached = any(part.role == "ran" and part.pids for part in partitions)
        return Inventory(gpus, partitions, ran_in_use=attached or self._ran_reports())
