"""The engine's lease: asked for when offered, kept while confirmed, given back when revoked."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Protocol

from airan.core.clock import Clock
from airan.core.errors import CapacityError, NotFoundError, RetryableError

log = logging.getLogger(__name__)

_RETRY_S = 0.2
_ASK_AGAIN_S = 2.0


class Lease(Protocol):
    """A lease as the control plane describes it."""

    @property
    def id(self) -> str: ...
    @property
    def holder(self) -> str: ...
    @property
    def sm_count(self) -> int: ...
    @property
    def partition_id(self) -> str: ...
    @property
    def gpu_uuid(self) -> str: ...
    @property
    def profile(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def pid(self) -> int: ...


class LeaseEvent(Protocol):
    """A change of some lease: snapshot, offered, granted, revoked or ended.

    The snapshots of a new connection end with one without a lease.
    """

    @property
    def kind(self) -> str: ...
    @property
    def lease(self) -> Lease | None: ...
    @property
    def deadline_s(self) -> float: ...
    @property
    def free_ai_partitions(self) -> int: ...


class LeaseSource(Protocol):
    """The part of the control plane's client that an engine needs."""

    def watch_leases(self, holder: str) -> AsyncIterator[LeaseEvent]: ...
    async def leases(self) -> Sequence[Lease]: ...
    async def acquire_lease(self, holder: str, pid: int) -> Lease: ...
    async def release_lease(self, lease_id: str) -> Lease: ...
    async def report_use(self, lease_id: str, interval_s: float, busy_s: float) -> None: ...


class LeaseKeeper:
    """Holds at most one lease for `holder`.

    `on_granted(lease)` is called when one was granted, `on_resized(lease)` when it has become
    smaller or larger. `on_revoked(deadline_s)` must stop all work
    and return before the deadline (0: at once); only then is the lease released.
    """

    def __init__(
        self,
        source: LeaseSource,
        holder: str,
        pid: int,
        clock: Clock,
        *,
        confirm_timeout_s: float,
    ) -> None:
        self._source = source
        self._holder = holder
        self._pid = pid
        self._clock = clock
        self._confirm_timeout_s = confirm_timeout_s
        self._confirmed_s = 0.0
        self._wake = asyncio.Event()
        # Held while asking and while comparing: a lease being granted just now is no leftover.
        self._changing = asyncio.Lock()
        self._revoked_early: dict[str, float] = {}
        self._wanted = True
        self.lease: Lease | None = None
        self.on_granted: Callable[[Lease], Awaitable[None]] = _ignore
        self.on_resized: Callable[[Lease], Awaitable[None]] = _ignore
        self.on_revoked: Callable[[float], Awaitable[None]] = _ignore

    async def run(self) -> None:
        """Keeps going until cancelled; whatever happens to the control plane, it tries again."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch())
            tasks.create_task(self._ask())
            tasks.create_task(self._expire())

    async def report_use(self, interval_s: float, busy_s: float) -> None:
        """Tells the control plane how busy the lease was; its answer also confirms the lease."""
        lease = self.lease
        if lease is None:
            return
        try:
            await self._source.report_use(lease.id, interval_s, busy_s)
        except NotFoundError:
            await self._lose(lease.id, "the control plane does not know it any more")
        except RetryableError:
            return
        else:
            self._confirmed_s = self._clock.monotonic_s()

    def want(self) -> None:
        """From now on asks for a lease again."""
        self._wanted = True
        self._wake.set()

    async def rest(self, deadline_s: float) -> None:
        """Gives the lease back, the work stopped by Unix time `deadline_s`, and asks for none."""
        self._wanted = False
        async with self._changing:
            lease, self.lease = self.lease, None
        if lease is not None:
            await self.on_revoked(deadline_s)
            await self._release(lease.id)

    async def give_back(self) -> None:
        """Stops the work and releases the lease, at the end of the process."""
        lease, self.lease = self.lease, None
        if lease is None:
            return
        await self.on_revoked(0.0)
        await self._release(lease.id)

    async def _watch(self) -> None:
        """Follows the lease events; the source reconnects by itself, or ends with an error."""
        while True:
            try:
                async for event in self._source.watch_leases(self._holder):
                    await self._handle(event)
            except RetryableError as error:
                log.warning("lease watch broke off: %s", error)
            await asyncio.sleep(_RETRY_S)

    async def _handle(self, event: LeaseEvent) -> None:
        held, lease = self.lease, event.lease
        if lease is None:
            if event.kind == "snapshot":
                await self._reconcile()
        elif held is not None and lease.id == held.id:
            if event.kind == "revoked" or lease.state == "revoking":
                await self._yield_up(held.id, event.deadline_s)
            elif event.kind == "ended" or lease.state == "ended":
                await self._lose(held.id, "it was ended by the control plane")
            elif lease.sm_count != held.sm_count:
                self.lease = lease
                await self.on_resized(lease)
        elif event.kind == "revoked" and lease.holder == self._holder:
            # The revocation can overtake the answer that grants the lease.
            self._revoked_early[lease.id] = event.deadline_s
        if event.free_ai_partitions > 0:
            self._wake.set()

    async def _reconcile(self) -> None:
        """Compares what we hold with what the control plane says we hold, after a connect."""
        async with self._changing:
            try:
                live = [lease for lease in await self._source.leases() if lease.state != "ended"]
            except RetryableError:
                return
            held = self.lease
            for lease in live:
                if lease.holder == self._holder and (held is None or lease.id != held.id):
                    # Left by an earlier process, or by an answer that never reached us.
                    await self._release(lease.id)
        if held is None:
            return
        if any(lease.id == held.id for lease in live):
            self._confirmed_s = self._clock.monotonic_s()
        else:
            await self._lose(held.id, "the control plane does not know it any more")

    async def _ask(self) -> None:
        """Asks for a lease whenever capacity is offered, and now and then without an offer."""
        while True:
            if self.lease is None and self._wanted:
                await self._try_acquire()
            self._wake.clear()
            try:
                async with asyncio.timeout(_ASK_AGAIN_S):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _try_acquire(self) -> None:
        async with self._changing:
            try:
                lease = await self._source.acquire_lease(self._holder, self._pid)
            except CapacityError:
                return
            except RetryableError as error:
                log.warning("no lease: %s", error)
                return
            self.lease = lease
            self._confirmed_s = self._clock.monotonic_s()
        log.info("lease %s granted: %d SMs", lease.id, lease.sm_count)
        await self.on_granted(lease)
        deadline_s = self._revoked_early.pop(lease.id, None)
        self._revoked_early.clear()
        if deadline_s is not None and self.lease is not None:
            await self._yield_up(lease.id, deadline_s)

    async def _expire(self) -> None:
        """Gives up a lease that could not be confirmed for too long."""
        while True:
            await asyncio.sleep(self._confirm_timeout_s / 10)
            lease = self.lease
            silent_s = self._clock.monotonic_s() - self._confirmed_s
            if lease is not None and silent_s > self._confirm_timeout_s:
                await self._lose(lease.id, f"it could not be confirmed for {silent_s:.0f} s")

    async def _yield_up(self, lease_id: str, deadline_s: float) -> None:
        self.lease = None
        await self.on_revoked(deadline_s)
        await self._release(lease_id)
        self._wake.set()

    async def _lose(self, lease_id: str, reason: str) -> None:
        if self.lease is None or self.lease.id != lease_id:
            return
        log.warning("lease %s is lost: %s", lease_id, reason)
        self.lease = None
        await self.on_revoked(0.0)
        self._wake.set()

    async def _release(self, lease_id: str) -> None:
        try:
            await self._source.release_lease(lease_id)
        except (RetryableError, NotFoundError) as error:
            # The control plane takes it back by itself after the notice.
            log.warning("lease %s could not be released: %s", lease_id, error)


async def _ignore(_: object) -> None:
    return
