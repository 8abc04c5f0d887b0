"""A lease lent in parts to several engines, each of which sees a lease like any other."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace

from airan.core.clock import Clock
from airan.core.errors import CapacityError, NotFoundError
from marketplace.engines.leases import Lease, LeaseKeeper

MARGIN_S = 0.1
"""The parts are to be back so long before the lease itself has to be."""
NOTICE_S = 0.4
"""How long an engine may take to stop when its part is taken back alone. Short: the lease itself
may be revoked meanwhile, and its notice does not wait for this one."""


@dataclass(frozen=True)
class PartLease:
    """An engine's part of the lease; to the engine it is a lease like any other."""

    id: str
    holder: str
    sm_count: int
    state: str
    pid: int
    partition_id: str
    """The lease's, as are the two below: parts of it are not kept apart on the GPU."""
    gpu_uuid: str
    profile: str


@dataclass(frozen=True)
class PartEvent:
    """What happens to a part."""

    kind: str
    lease: PartLease | None
    deadline_s: float = 0.0
    free_ai_partitions: int = 0


class LentParts(ABC):
    """Lends parts of the lease that `keeper` holds to so many engines, numbered from 0."""

    def __init__(self, keeper: LeaseKeeper, clock: Clock, n_engines: int) -> None:
        self.keeper = keeper
        self._clock = clock
        self._parts: dict[int, PartLease] = {}
        self._busy: dict[int, float] = {}
        self._changed = asyncio.Event()
        self._n_granted = 0
        self.sources = [PartSource(self, number) for number in range(n_engines)]
        keeper.on_granted = keeper.on_resized = self._taken_up
        keeper.on_revoked = self._revoked

    @property
    def sm_count(self) -> int:
        """SMs of the lease; 0 without one."""
        lease = self.keeper.lease
        return 0 if lease is None else lease.sm_count

    @property
    def sm_lent(self) -> int:
        """SMs of all parts that are lent now, those being taken back included."""
        return sum(part.sm_count for part in self._parts.values())

    @abstractmethod
    def _share(self) -> None:
        """Takes back what no longer fits, and offers what is free."""

    @abstractmethod
    def _sms_for(self, number: int) -> int:
        """SMs that the engine, which has no part, can have now; 0: none."""

    def lend(self, number: int, holder: str, pid: int) -> PartLease:
        """Gives the engine its part.

        Raises:
            CapacityError: it is not to have one, or the lease does not carry it now.
        """
        lease = self.keeper.lease
        sm_count = 0 if lease is None or number in self._parts else self._sms_for(number)
        if lease is None or not sm_count:
            raise CapacityError(f"the lease has no part for engine {number} now")
        self._n_granted += 1
        part_id = f"{lease.id}/{self._n_granted}"
        place = (lease.partition_id, lease.gpu_uuid, lease.profile)
        self._parts[number] = part = PartLease(part_id, holder, sm_count, "active", pid, *place)
        return part

    def parts_of(self, number: int) -> list[PartLease]:
        """The engine's part, if it has one."""
        return [self._parts[number]] if number in self._parts else []

    def take(self, number: int, part_id: str) -> PartLease:
        """The engine gives its part back.

        Raises:
            NotFoundError: it does not have it.
        """
        part = self._known(number, part_id)
        del self._parts[number]
        self._busy.pop(number, None)
        self._changed.set()
        if self.keeper.lease is not None:
            self._share()
        return replace(part, state="ended")

    async def report(self, number: int, part_id: str, interval_s: float, busy_s: float) -> None:
        """Passes on how busy the parts are together, weighted by their SMs.

        Raises:
            NotFoundError: the engine does not have that part.
        """
        self._known(number, part_id)
        self._busy[number] = busy_s / interval_s if interval_s > 0 else 0.0
        if number != min(self._parts) or not self.sm_count:
            return
        busy = sum(share * self._parts[one].sm_count for one, share in self._busy.items())
        await self.keeper.report_use(interval_s, min(1.0, busy / self.sm_count) * interval_s)

    async def _taken_up(self, _: Lease) -> None:
        self._share()

    def _take_back(self, number: int, deadline_s: float) -> None:
        self._parts[number] = part = replace(self._parts[number], state="revoking")
        if self.sources[number].is_watched:
            self.sources[number].send(PartEvent("revoked", part, deadline_s))
        else:
            # Nobody is there any more who could give it back.
            del self._parts[number]
            self._busy.pop(number, None)

    async def _revoked(self, deadline_s: float) -> None:
        """Returns when all parts are back, or at the deadline: the engines stop by then."""
        part_deadline_s = deadline_s - MARGIN_S if deadline_s else 0.0
        for number in list(self._parts):
            self._take_back(number, part_deadline_s)
        while self._parts:
            self._changed.clear()
            left_s = deadline_s - self._clock.now_s() if deadline_s else None
            try:
                async with asyncio.timeout(left_s):
                    await self._changed.wait()
            except TimeoutError:
                return

    def _known(self, number: int, part_id: str) -> PartLease:
        part = self._parts.get(number)
        if part is None or part.id != part_id:
            raise NotFoundError(f"engine {number} does not have the part {part_id}")
        return part


class PartSource:
    """What an engine takes for the control plane: it knows of one part only."""

    def __init__(self, lender: LentParts, number: int) -> None:
        self._lender = lender
        self._number = number
        self._watchers: list[asyncio.Queue[PartEvent]] = []

    @property
    def is_watched(self) -> bool:
        """Whether the engine listens."""
        return bool(self._watchers)

    def send(self, event: PartEvent) -> None:
        """Tells the engine."""
        for queue in self._watchers:
            queue.put_nowait(event)

    async def watch_leases(self, holder: str) -> AsyncIterator[PartEvent]:
        """See LeaseSource."""
        queue: asyncio.Queue[PartEvent] = asyncio.Queue()
        self._watchers.append(queue)
        del holder  # There is one only.
        try:
            for part in self._lender.parts_of(self._number):
                yield PartEvent("snapshot", part)
            yield PartEvent("snapshot", None)
            while True:
                yield await queue.get()
        finally:
            self._watchers.remove(queue)

    async def leases(self) -> Sequence[PartLease]:
        """See LeaseSource."""
        return self._lender.parts_of(self._number)

    async def acquire_lease(self, holder: str, pid: int) -> PartLease:
        """See LeaseSource."""
        return self._lender.lend(self._number, holder, pid)

    async def release_lease(self, lease_id: str) -> PartLease:
        """See LeaseSource."""
        return self._lender.take(self._number, lease_id)

    async def report_use(self, lease_id: str, interval_s: float, busy_s: float) -> None:
        """See LeaseSource."""
        await self._lender.report(self._number, lease_id, interval_s, busy_s)
