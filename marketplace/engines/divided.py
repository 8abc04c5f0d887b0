"""One lease carried by several replicas of an engine, each with its own part of the SMs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from airan.core.clock import Clock
from airan.core.errors import CapacityError, InvalidInputError, NotFoundError
from marketplace.engines.leases import Lease, LeaseKeeper

log = logging.getLogger(__name__)

_MARGIN_S = 0.1
"""The parts are to be back so long before the lease itself has to be."""
_NOTICE_S = 0.4
"""How long a replica may take to stop when one fewer is wanted. Short: the lease itself may be
revoked meanwhile, and its notice does not wait for this one."""


@dataclass(frozen=True)
class PartLease:
    """A replica's part of the lease; to the replica it is a lease like any other."""

    id: str
    holder: str
    sm_count: int
    state: str
    pid: int


@dataclass(frozen=True)
class PartEvent:
    """What happens to a part."""

    kind: str
    lease: PartLease | None
    deadline_s: float = 0.0
    free_ai_partitions: int = 0


class Lender(Protocol):
    """Whoever lends parts of a lease, by number; see DividedLease."""

    def lend(self, number: int, holder: str, pid: int) -> PartLease: ...
    def parts_of(self, number: int) -> list[PartLease]: ...
    def take(self, number: int, part_id: str) -> PartLease: ...
    async def report(self, number: int, part_id: str, interval_s: float, busy_s: float) -> None: ...


class DividedLease:
    """Lends parts of `sm_per_replica` SMs of the lease that `keeper` holds.

    As many parts are lent as are wanted, and never more than the lease carries: a part is lent
    only while the SMs of all parts together, those being taken back included, fit into the lease.
    """

    def __init__(
        self,
        keeper: LeaseKeeper,
        clock: Clock,
        *,
        n_replicas: int,
        sm_per_replica: int,
    ) -> None:
        if n_replicas < 1 or sm_per_replica < 1:
            raise InvalidInputError("n_replicas", "and sm_per_replica must be 1 or more")
        self.keeper = keeper
        self.sm_per_replica = sm_per_replica
        self.wanted = 1
        self._clock = clock
        self._parts: dict[int, PartLease] = {}
        self._busy: dict[int, float] = {}
        self._changed = asyncio.Event()
        self._n_granted = 0
        self.replicas = [PartSource(self, number) for number in range(n_replicas)]
        keeper.on_granted = self._granted
        keeper.on_resized = self._resized
        keeper.on_revoked = self._revoked

    @property
    def sm_count(self) -> int:
        """SMs of the lease; 0 without one."""
        lease = self.keeper.lease
        return 0 if lease is None else lease.sm_count

    @property
    def sm_lent(self) -> int:
        """SMs of all parts that are lent now."""
        return sum(part.sm_count for part in self._parts.values())

    @property
    def n_active(self) -> int:
        """Replicas that have their part."""
        return len(self._parts)

    def want(self, n_replicas: int) -> None:
        """From now on so many replicas are to run, if the lease carries them.

        Raises:
            InvalidInputError: there are not so many.
        """
        if not 0 <= n_replicas <= len(self.replicas):
            raise InvalidInputError(
                "wanted", f"must be between 0 and {len(self.replicas)}, got {n_replicas}"
            )
        self.wanted = n_replicas
        self._divide()

    def _divide(self) -> None:
        """Takes back what is too much, from the last replica on, and offers what is free."""
        n_carried = min(self.wanted, self.sm_count // self.sm_per_replica)
        for number in [number for number in self._parts if number >= n_carried]:
            self._take_back(number, self._clock.now_s() + _NOTICE_S)
        for source in self.replicas[:n_carried]:
            source.send(PartEvent("offered", None, free_ai_partitions=1))

    def _take_back(self, number: int, deadline_s: float) -> None:
        self._parts[number] = part = replace(self._parts[number], state="revoking")
        if self.replicas[number].is_watched:
            self.replicas[number].send(PartEvent("revoked", part, deadline_s))
        else:
            # Nobody is there any more who could give it back.
            del self._parts[number]

    async def _granted(self, lease: Lease) -> None:
        if lease.sm_count < self.sm_per_replica:
            text = "lease %s has %d SMs, too few for a replica, which takes %d"
            log.warning(text, lease.id, lease.sm_count, self.sm_per_replica)
        self._divide()

    async def _resized(self, _: Lease) -> None:
        self._divide()

    async def _revoked(self, deadline_s: float) -> None:
        """Returns when all parts are back, or at the deadline: the replicas stop by then."""
        part_deadline_s = deadline_s - _MARGIN_S if deadline_s else 0.0
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

    def lend(self, number: int, holder: str, pid: int) -> PartLease:
        """Gives the replica its part.

        Raises:
            CapacityError: it is not wanted, or the lease does not carry it now.
        """
        lease = self.keeper.lease
        fits = self.sm_lent + self.sm_per_replica <= self.sm_count
        if lease is None or number >= self.wanted or number in self._parts or not fits:
            raise CapacityError(f"the lease has no part for replica {number} now")
        self._n_granted += 1
        part_id = f"{lease.id}/{self._n_granted}"
        part = PartLease(part_id, holder, self.sm_per_replica, "active", pid)
        self._parts[number] = part
        return part

    def parts_of(self, number: int) -> list[PartLease]:
        """The replica's part, if it has one."""
        return [self._parts[number]] if number in self._parts else []

    def take(self, number: int, part_id: str) -> PartLease:
        """The replica gives its part back.

        Raises:
            NotFoundError: it does not have it.
        """
        part = self._known(number, part_id)
        del self._parts[number]
        self._busy.pop(number, None)
        self._changed.set()
        if self.keeper.lease is not None:
            self._divide()
        return replace(part, state="ended")

    async def report(self, number: int, part_id: str, interval_s: float, busy_s: float) -> None:
        """Passes on how busy the parts are together, weighted by their SMs.

        Raises:
            NotFoundError: the replica does not have that part.
        """
        self._known(number, part_id)
        self._busy[number] = busy_s / interval_s if interval_s > 0 else 0.0
        if number != min(self._parts) or not self.sm_count:
            return
        share = sum(self._busy.values()) * self.sm_per_replica / self.sm_count
        await self.keeper.report_use(interval_s, min(1.0, share) * interval_s)

    def _known(self, number: int, part_id: str) -> PartLease:
        part = self._parts.get(number)
        if part is None or part.id != part_id:
            raise NotFoundError(f"replica {number} does not have the part {part_id}")
        return part


class PartSource:
    """What a replica takes for the control plane: it knows of one part only."""

    def __init__(self, divided: Lender, number: int) -> None:
        self._divided = divided
        self._number = number
        self._watchers: list[asyncio.Queue[PartEvent]] = []

    @property
    def is_watched(self) -> bool:
        """Whether the replica listens."""
        return bool(self._watchers)

    def send(self, event: PartEvent) -> None:
        """Tells the replica."""
        for queue in self._watchers:
            queue.put_nowait(event)

    async def watch_leases(self, holder: str) -> AsyncIterator[PartEvent]:
        """See LeaseSource."""
        queue: asyncio.Queue[PartEvent] = asyncio.Queue()
        self._watchers.append(queue)
        del holder  # There is one only.
        try:
            for part in self._divided.parts_of(self._number):
                yield PartEvent("snapshot", part)
            yield PartEvent("snapshot", None)
            while True:
                yield await queue.get()
        finally:
            self._watchers.remove(queue)

    async def leases(self) -> Sequence[PartLease]:
        """See LeaseSource."""
        return self._divided.parts_of(self._number)

    async def acquire_lease(self, holder: str, pid: int) -> PartLease:
        """See LeaseSource."""
        return self._divided.lend(self._number, holder, pid)

    async def release_lease(self, lease_id: str) -> PartLease:
        """See LeaseSource."""
        return self._divided.take(self._number, lease_id)

    async def report_use(self, lease_id: str, interval_s: float, busy_s: float) -> None:
        """See LeaseSource."""
        await self._divided.report(self._number, lease_id, interval_s, busy_s)
