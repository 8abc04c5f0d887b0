"""Leases: AI partitions lent to the marketplace, and taken back when the RAN needs them.

active -> revoking (until the notice ends) -> ended (released | revoked | evicted |
    holder_lost | partition_lost)

The RAN always wins: a holder that does not release before the deadline is evicted. Leases
survive a restart of the control plane; their holders just watch again.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from airan.core.clock import Clock
from airan.core.errors import AiranError, CapacityError, InvalidInputError, NotFoundError
from orchestrator.drivers import processes
from orchestrator.drivers.base import GpuInstance, InstanceProcesses
from orchestrator.hub import EventLog, History, Hub
from orchestrator.plan import Partition
from orchestrator.policy import Reservation
from orchestrator.store import Store
from orchestrator.views import Lease, LeaseEvent

_EVENT_OF_END = {
    "released": ("lease.released", "info"),
    "revoked": ("lease.released", "info"),
    "evicted": ("lease.evicted", "warning"),
    "holder_lost": ("lease.lost", "warning"),
    "partition_lost": ("lease.lost", "warning"),
}


@dataclass(frozen=True)
class LeaseSettings:
    """How patient the orchestrator is with holders."""

    watch_grace_s: float = 2.0
    """A holder without an open watch for this long has lost its leases."""
    restart_grace_s: float = 6.0
    """The same just after the control plane started, while holders find it again."""


Part = Partition | GpuInstance


@dataclass
class _Live:
    lease: Lease
    pid_started_s: float
    ended: asyncio.Event
    ending: bool = False


class LeaseManager:
    """All leases of the site. Belongs to one event loop."""

    def __init__(
        self,
        store: Store,
        driver: InstanceProcesses,
        log: EventLog,
        clock: Clock,
        settings: LeaseSettings | None = None,
    ) -> None:
        self._store, self._driver, self._log, self._clock = store, driver, log, clock
        self._settings = settings or LeaseSettings()
        self._hub: Hub[LeaseEvent] = Hub()
        self._history: History[LeaseEvent] = History(clock.now_s())
        self._offers: dict[str, Partition] = {}
        self._blocked = ""
        self._told_free: frozenset[str] = frozenset()
        self._watching: Counter[str] = Counter()
        self._seen_s: dict[str, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._live = {
            lease.id: _Live(lease, started_s, asyncio.Event())
            for lease, started_s in store.leases()
        }
        self.on_end: Callable[[Lease], None] = lambda _: None
        self.reservations: Callable[[], Sequence[Reservation]] = tuple
        """What tenants have reserved, by the policy in force."""

    def start(self) -> None:
        """Takes up the leases found in the store: their holders get time to come back."""
        for live in self._live.values():
            self._seen_s[live.lease.holder] = self._later(self._settings.restart_grace_s)
            if live.lease.state == "revoking":
                self._spawn(self._evict_at_deadline(live))

    async def close(self) -> None:
        """Stops the watch over deadlines; leases stay as they are."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- what is there

    def live(self) -> tuple[Lease, ...]:
        """Leases that have not ended, oldest first."""
        leases = (live.lease for live in self._live.values())
        return tuple(sorted(leases, key=lambda lease: (lease.granted_s, lease.id)))

    def on_partition(self, partition_id: str) -> Lease | None:
        """The live lease on a partition."""
        return next((one for one in self.live() if one.partition_id == partition_id), None)

    @property
    def blocked(self) -> str:
        """Why nothing is leased out just now; empty if something may be."""
        return self._blocked

    def offer(self, partitions: Iterable[Partition]) -> None:
        """Sets which AI partitions may be leased; those under a lease stay out of the offer."""
        self._offers = {part.id: part for part in partitions}
        self._tell_offers()

    def free(self) -> tuple[Partition, ...]:
        """AI partitions on offer, largest first."""
        if self._blocked:
            return ()
        taken = {live.lease.partition_id for live in self._live.values()}
        free = [part for part in self._offers.values() if part.id not in taken]
        return tuple(sorted(free, key=lambda part: (-part.sm_count, part.id)))

    # --- the holder's side

    async def acquire(
        self, holder: str, pid: int, min_sm_count: int, notice_ms: int, tenant: str = ""
    ) -> Lease:
        """Lends the largest partition on offer; the same holder and process get theirs again.

        Raises:
            InvalidInputError: an empty holder, or no such process.
            CapacityError: nothing (large enough) on offer that is not reserved for other tenants,
                or the holder's lease is ending.
        """
        started_s = processes.started_s(pid)
        if not holder:
            raise InvalidInputError("holder", "must not be empty")
        if started_s is None:
            raise InvalidInputError("pid", f"there is no process {pid}")
        if not processes.of_this_site(pid):
            # A holder's process can be killed; nobody may name one that is not the site's.
            raise InvalidInputError("pid", f"process {pid} is none of this site's")
        held = await self._held(holder, pid)
        if held is not None:
            return held
        if self._blocked:
            raise CapacityError(f"no AI partition is leased out now: {self._blocked}")
        refused = CapacityError(
            f"no AI partition with {min_sm_count} SMs or more is free for this tenant",
            remedy="watch the leases and ask again when one is offered",
        )
        tried: set[str] = set()
        while part := self._largest(min_sm_count, tenant, tried):
            tried.add(part.id)
            lease = replace(self._new_lease(holder, pid, part, notice_ms), tenant=tenant)
            try:
                return await self._lend(lease, started_s)
            except CapacityError as error:
                # It has just gone, or is on a host that does not have the process.
                refused = error
        raise refused

    def _largest(self, min_sm_count: int, tenant: str, tried: set[str]) -> Partition | None:
        """The largest partition that the tenant may have now, but for those."""
        free = (
            part
            for part in self.free()
            if part.sm_count >= min_sm_count
            and part.id not in tried
            and self._leaves_reserved(part, tenant)
        )
        return next(free, None)

    async def _lend(self, lease: Lease, started_s: float) -> Lease:
        live = _Live(lease, started_s, asyncio.Event())
        # Stored before the process is attached: after a crash in between, the lease is known.
        self._live[lease.id] = live
        self._store.put_lease(lease, started_s)
        self._seen_s[lease.holder] = max(
            self._seen_s.get(lease.holder, 0.0), self._later(self._settings.watch_grace_s)
        )
        await self._attach(live)
        self._log.record(
            "lease.granted",
            f"{lease.holder} leases {lease.profile} ({lease.sm_count} SMs), lease {lease.id}",
        )
        self._publish("granted", lease)
        self._tell_offers()
        return lease

    async def release(self, lease_id: str) -> Lease:
        """The holder is done; ends the lease. Idempotent.

        Raises:
            NotFoundError: there never was such a lease.
        """
        live = self._live.get(lease_id)
        if live is None:
            return self.find(lease_id)
        reason = "revoked" if live.lease.state == "revoking" else "released"
        await self._end(live, reason)
        return live.lease

    def find(self, lease_id: str) -> Lease:
        """The lease, live or ended.

        Raises:
            NotFoundError: there never was such a lease.
        """
        live = self._live.get(lease_id)
        lease = live.lease if live is not None else self._store.lease(lease_id)
        if lease is None:
            raise NotFoundError(f"there is no lease {lease_id!r}")
        return lease

    async def watch(self, holder: str, after_seq: int = 0) -> AsyncIterator[LeaseEvent]:
        """The holder's live leases (all for an empty holder), then changes and offers; with
        `after_seq` no snapshot, but every change since.

        Raises:
            OutOfRangeError: not all of them are known any more; watch anew.
        """
        past = self._history.after(after_seq) if after_seq else self._snapshot(holder)
        self._watching[holder] += 1
        try:
            # No await since `past` was taken: nothing falls between the two.
            with self._hub.subscribe() as changes:
                for event in past:
                    if event.lease is None or holder in ("", event.lease.holder):
                        yield event
                while True:
                    event = await changes.next()
                    if event.lease is None or holder in ("", event.lease.holder):
                        yield event
        finally:
            self._watching[holder] -= 1
            self._seen_s[holder] = self._later(self._settings.watch_grace_s)

    # --- the RAN's side

    def block(self, reason: str) -> None:
        """Revokes every lease and lends nothing until `unblock`. Idempotent."""
        self._blocked = reason
        with self._store.together():
            for live in list(self._live.values()):
                self._revoke(live, reason)

    def unblock(self) -> None:
        """Puts the free AI partitions on offer again. Idempotent."""
        self._blocked = ""
        self._tell_offers()

    def revoke(self, lease_id: str, reason: str) -> Lease:
        """Takes a lease back, with its notice; the lease as it is then. Idempotent.

        Raises:
            NotFoundError: there never was such a lease.
            InvalidInputError: no reason is given.
        """
        if not reason:
            raise InvalidInputError("reason", "must not be empty", remedy="say why it is revoked")
        if lease_id in self._live:
            self._revoke(self._live[lease_id], reason)
        return self.find(lease_id)

    async def reclaim(self, partition_id: str, reason: str) -> None:
        """Revokes the partition's lease and returns when it has ended, by force if need be."""
        for live in list(self._live.values()):
            if live.lease.partition_id == partition_id:
                self._revoke(live, reason)
                await live.ended.wait()

    async def check_holders(self) -> None:
        """Ends the leases whose holder's process or watch is gone."""
        for live in list(self._live.values()):
            lease = live.lease
            gone = not processes.is_alive(lease.pid, live.pid_started_s)
            silent = not self._watching[lease.holder] and (
                self._clock.monotonic_s() > self._seen_s.get(lease.holder, 0.0)
            )
            if gone or silent:
                await self._end(live, "holder_lost")

    async def end_lost(self, lent: Iterable[Lease], there: Collection[str]) -> None:
        """Ends those leases whose partitions are not there any more: their GPU is lost or was
        reset, or somebody removed them by hand. They must have been lent before the look that
        found what is there."""
        for lease in lent:
            if lease.id in self._live and lease.partition_id not in there:
                await self._end(self._live[lease.id], "partition_lost")

    def follow(self, parts: Iterable[Part]) -> None:
        """Takes over the present size of the partitions under leases, and tells their holders."""
        now = {_id(part): part for part in parts}
        for live in self._live.values():
            part = now.get(live.lease.partition_id)
            if part is None or part.placement.profile == live.lease.profile or live.ending:
                continue
            before = live.lease.sm_count
            live.lease = replace(
                live.lease,
                profile=part.placement.profile,
                sm_count=part.sm_count,
                memory_mib=part.memory_mib,
            )
            self._store.put_lease(live.lease, live.pid_started_s)
            self._log.record(
                "lease.resized",
                f"the lease of {live.lease.holder} has {part.sm_count} SMs now, not {before}",
            )
            self._publish("resized", live.lease)

    # --- within

    def _leaves_reserved(self, part: Partition, tenant: str) -> bool:
        """Whether what is free besides covers what other tenants have reserved and not leased."""
        held: Counter[str] = Counter()
        for lease in self.live():
            held[lease.tenant] += lease.sm_count
        kept = sum(
            max(0, one.sm_count - held[one.tenant])
            for one in self.reservations()
            if one.tenant != tenant
        )
        left = sum(other.sm_count for other in self.free() if other.id != part.id)
        return not kept or left >= kept

    async def _attach(self, live: _Live) -> None:
        try:
            await self._driver.attach(live.lease.partition_id, live.lease.pid)
        except AiranError as error:
            await self._end(live, "released")
            raise CapacityError(
                f"the partition was lost while it was leased: {error.message}",
                remedy="watch the leases and ask again",
            ) from error

    async def _held(self, holder: str, pid: int) -> Lease | None:
        for live in list(self._live.values()):
            lease = live.lease
            if lease.holder != holder:
                continue
            if not processes.is_alive(lease.pid, live.pid_started_s):
                await self._end(live, "holder_lost")
            elif lease.pid != pid:
                raise CapacityError(
                    f"{holder} has a lease already, used by process {lease.pid}",
                    remedy="release it first, or ask under another name",
                )
            elif lease.state == "active":
                return lease
            else:
                raise CapacityError(
                    f"the lease of {holder} is being revoked", remedy="release it, then watch"
                )
        return None

    def _new_lease(self, holder: str, pid: int, part: Partition, notice_ms: int) -> Lease:
        return Lease(
            id=f"lease-{uuid.uuid4().hex[:12]}",
            holder=holder,
            partition_id=part.id,
            gpu_uuid=part.gpu_uuid,
            profile=part.placement.profile,
            sm_count=part.sm_count,
            memory_mib=part.memory_mib,
            notice_ms=notice_ms,
            granted_s=self._clock.now_s(),
            pid=pid,
        )

    def _revoke(self, live: _Live, reason: str) -> None:
        if live.lease.state != "active" or live.ending:
            return
        live.lease = replace(live.lease, state="revoking", revoked_s=self._clock.now_s())
        with self._store.together():
            self._store.put_lease(live.lease, live.pid_started_s)
            self._log.record(
                "lease.revoked",
                f"{live.lease.holder} must give {live.lease.profile} back within"
                f" {live.lease.notice_ms} ms: {reason}",
            )
            self._publish("revoked", live.lease)
        self._spawn(self._evict_at_deadline(live))

    async def _evict_at_deadline(self, live: _Live) -> None:
        left_s = live.lease.deadline_s - self._clock.now_s()
        with contextlib.suppress(TimeoutError):
            # Not wait_for, which before Python 3.12 may lose the cancellation of `close`.
            async with asyncio.timeout(max(0.0, left_s)):
                await live.ended.wait()
        await self._end(live, "evicted")

    async def _end(self, live: _Live, reason: str) -> None:
        if live.ending:
            await live.ended.wait()
            return
        live.ending = True
        lease = live.lease
        try:
            if reason in ("evicted", "holder_lost", "partition_lost"):
                # A holder that lost its watch may still be computing on what is not its own.
                await self._driver.evict(lease.partition_id)
            else:
                await self._driver.detach(lease.partition_id, lease.pid)
        except NotFoundError:
            pass
        except AiranError as error:
            # The lease ends all the same; whoever destroys the partition evicts again.
            self._log.record("driver.fault", f"ending lease {lease.id}: {error}", "warning")
        live.lease = replace(
            live.lease, state="ended", end_reason=reason, ended_s=self._clock.now_s()
        )
        kind, severity = _EVENT_OF_END[reason]
        message = f"lease {lease.id} of {lease.holder} on {lease.profile} ended: {reason}"
        with self._store.together():
            self._store.put_lease(live.lease, live.pid_started_s)
            self._log.record(kind, message, severity)
        del self._live[lease.id]
        live.ended.set()
        self.on_end(live.lease)
        self._publish("ended", live.lease)
        self._tell_offers()

    def _snapshot(self, holder: str) -> list[LeaseEvent]:
        leases = [lease for lease in self.live() if holder in ("", lease.holder)]
        newest = self._history.newest
        return [self._event("snapshot", lease, newest) for lease in (*leases, None)]

    def _event(self, kind: str, lease: Lease | None, seq: int) -> LeaseEvent:
        deadline_s = lease.deadline_s if lease is not None and lease.state == "revoking" else 0.0
        return LeaseEvent(kind, lease, deadline_s, len(self.free()), seq)

    def _publish(self, kind: str, lease: Lease | None) -> None:
        def tell() -> None:
            self._hub.publish(self._history.add(lambda seq: self._event(kind, lease, seq)))

        self._store.then(tell)

    def _tell_offers(self) -> None:
        free = frozenset(part.id for part in self.free())
        if free - self._told_free:
            self._publish("offered", None)
        self._told_free = free

    def _later(self, seconds: float) -> float:
        return self._clock.monotonic_s() + seconds

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _id(part: Part) -> str:
    return part.uuid if isinstance(part, GpuInstance) else part.id
