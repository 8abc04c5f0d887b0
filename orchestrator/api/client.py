"""The control plane's client: plain values in and out, our errors, watches that reconnect.

Nobody above the orchestrator imports gRPC; they use this.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Any, TypeVar

import grpc

from airan.core.errors import RetryableError
from orchestrator.api import control_pb2 as pb
from orchestrator.api import control_pb2_grpc as rpc
from orchestrator.api.convert import from_message, to_message
from orchestrator.api.errors import from_rpc
from orchestrator.views import (
    CellView,
    Event,
    Lease,
    LeaseEvent,
    PlanView,
    PolicyChange,
    PolicyView,
    SiteStatus,
    SlotReport,
)

T = TypeVar("T")

_FIRST_RETRY_S = 0.1
_LAST_RETRY_S = 1.0
# A control plane that was killed is back within seconds; gRPC's own back-off of up to two
# minutes would keep the channel dead long after.
_CHANNEL_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.enable_http_proxy", 0),
)


class ControlClient:
    """A client of one site's control plane at `address` ("127.0.0.1:50051").

    Use it within one event loop, as an async context manager or with `aclose()`. Unary calls
    wait at most `timeout_s` and raise our errors: `UnavailableError` when the control plane
    cannot be reached, otherwise what it answered. Iterators reconnect by themselves for ever
    and raise only permanent errors.
    """

    def __init__(self, address: str, *, timeout_s: float = 5.0) -> None:
        self.address = address
        self._timeout_s = timeout_s
        self._channel: grpc.aio.Channel | None = None

    async def __aenter__(self) -> ControlClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes the connection. Idempotent."""
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close(None)

    async def wait_ready(self, timeout_s: float) -> None:
        """Returns as soon as the control plane answers.

        Raises:
            UnavailableError: it did not within `timeout_s`.
        """
        deadline_s = asyncio.get_running_loop().time() + timeout_s
        while True:
            try:
                await self.get_policy()
                return
            except RetryableError:
                if asyncio.get_running_loop().time() >= deadline_s:
                    raise
                await asyncio.sleep(_FIRST_RETRY_S)

    # --- site

    async def status(self) -> SiteStatus:
        """The whole site now."""
        reply = await self._call(self._site().GetStatus, pb.GetStatusRequest())
        return from_message(SiteStatus, reply)

    def watch_status(self, interval_ms: int = 500) -> AsyncIterator[SiteStatus]:
        """The site now and then every `interval_ms`; reconnects."""
        return self._watch(
            lambda: self._site().WatchStatus(pb.WatchStatusRequest(interval_ms=interval_ms)),
            SiteStatus,
        )

    async def events(self, after_seq: int = 0, limit: int = 200) -> list[Event]:
        """Stored events with `seq > after_seq`, oldest first, at most `limit`."""
        request = pb.ListEventsRequest(after_seq=after_seq, limit=limit)
        reply = await self._call(self._site().ListEvents, request)
        return [from_message(Event, event) for event in reply.events]

    async def watch_events(self, after_seq: int = 0) -> AsyncIterator[Event]:
        """Events with `seq > after_seq`, stored ones first, then live; each exactly once."""
        last = after_seq

        def start() -> Any:
            return self._site().WatchEvents(pb.WatchEventsRequest(after_seq=last))

        async for event in self._watch(start, Event):
            last = event.seq
            yield event

    # --- policy

    async def get_policy(self) -> PolicyView:
        """The policy in force."""
        reply = await self._call(self._policy().GetPolicy, pb.GetPolicyRequest())
        return from_message(PolicyView, reply)

    async def set_policy(self, policy: PolicyView, *, dry_run: bool = False) -> PolicyChange:
        """Stores the policy and plans by it; `dry_run` only returns the plan and its moves.

        Raises:
            InvalidInputError: an unknown kind or a value out of range.
        """
        request = pb.SetPolicyRequest(policy=to_message(policy, pb.Policy), dry_run=dry_run)
        reply = await self._call(self._policy().SetPolicy, request)
        return from_message(PolicyChange, reply)

    async def list_plans(self, limit: int = 20) -> list[PlanView]:
        """Stored plans, newest first."""
        reply = await self._call(self._policy().ListPlans, pb.ListPlansRequest(limit=limit))
        return [from_message(PlanView, plan) for plan in reply.plans]

    # --- cells

    async def cells(self) -> list[CellView]:
        """The cells as last reported."""
        reply = await self._call(self._cell().ListCells, pb.ListCellsRequest())
        return [from_message(CellView, cell) for cell in reply.cells]

    async def report_slots(self, reports: AsyncIterator[SlotReport]) -> None:
        """Sends every report until `reports` ends; reconnects.

        A report in flight while the control plane dies may be lost, or be sent again, which the
        server recognises by cell and time.

        Raises:
            InvalidInputError: the control plane refuses a report.
        """
        pending: SlotReport | None = None
        retry_s = _FIRST_RETRY_S
        while True:
            call = self._cell().ReportSlots()
            try:
                while True:
                    if pending is None:
                        pending = await anext(reports, None)
                    if pending is None:
                        await call.done_writing()
                        await call
                        return
                    await call.write(to_message(pending, pb.SlotReport))
                    pending = None
                    retry_s = _FIRST_RETRY_S
            except grpc.aio.AioRpcError as error:
                ours = from_rpc(error, self._peer)
            except asyncio.InvalidStateError:
                # write() on a stream that has ended says only that; the status says why.
                ours = from_rpc(await _status(call), self._peer)
            finally:
                call.cancel()
            if not isinstance(ours, RetryableError):
                raise ours
            await asyncio.sleep(retry_s)
            retry_s = min(_LAST_RETRY_S, retry_s * 2)

    # --- capacity

    async def leases(self, *, include_ended: bool = False) -> list[Lease]:
        """Live leases, on wish also those that ended, newest first."""
        request = pb.ListLeasesRequest(include_ended=include_ended)
        reply = await self._call(self._capacity().ListLeases, request)
        return [from_message(Lease, lease) for lease in reply.leases]

    async def acquire_lease(self, holder: str, pid: int, min_sm: int = 0) -> Lease:
        """Takes the largest AI partition on offer; a holder that has a lease gets it again.

        `pid` is the process that will use the partition and that is killed if it does not
        release in time.

        Raises:
            CapacityError: nothing (large enough) is on offer now; watch and ask again.
            InvalidInputError: no such process, or an empty holder.
        """
        request = pb.AcquireLeaseRequest(holder=holder, pid=pid, min_sm_count=min_sm)
        return from_message(Lease, await self._call(self._capacity().AcquireLease, request))

    async def release_lease(self, lease_id: str) -> Lease:
        """Gives the partition back. Idempotent.

        Raises:
            NotFoundError: there never was such a lease.
        """
        request = pb.ReleaseLeaseRequest(lease_id=lease_id)
        return from_message(Lease, await self._call(self._capacity().ReleaseLease, request))

    async def report_use(self, lease_id: str, interval_s: float, busy_s: float) -> None:
        """Tells for how long of the last `interval_s` the engine was generating.

        Raises:
            NotFoundError: there is no such lease.
            InvalidInputError: the times are negative or `busy_s` exceeds `interval_s`.
        """
        request = pb.ReportUseRequest(lease_id=lease_id, interval_s=interval_s, busy_s=busy_s)
        await self._call(self._capacity().ReportUse, request)

    def watch_leases(self, holder: str) -> AsyncIterator[LeaseEvent]:
        """The holder's leases now, then every change and offer; see `LeaseEvent`.

        An empty holder watches all leases. After a reconnect the snapshot comes again. While a
        named holder has no open watch, its leases end as `holder_lost` after a short grace.
        """
        return self._watch(
            lambda: self._capacity().WatchLeases(pb.WatchLeasesRequest(holder=holder)), LeaseEvent
        )

    # --- plumbing

    @property
    def _peer(self) -> str:
        return f"control plane at {self.address}"

    def _open(self) -> grpc.aio.Channel:
        # Made on first use, because it binds to the running event loop.
        if self._channel is None:
            self._channel = grpc.aio.insecure_channel(self.address, options=_CHANNEL_OPTIONS)
        return self._channel

    def _site(self) -> Any:
        return rpc.SiteServiceStub(self._open())  # type: ignore[no-untyped-call]

    def _policy(self) -> Any:
        return rpc.PolicyServiceStub(self._open())  # type: ignore[no-untyped-call]

    def _cell(self) -> Any:
        return rpc.CellServiceStub(self._open())  # type: ignore[no-untyped-call]

    def _capacity(self) -> Any:
        return rpc.CapacityServiceStub(self._open())  # type: ignore[no-untyped-call]

    async def _call(self, method: Callable[..., Awaitable[Any]], request: Any) -> Any:
        try:
            return await method(request, timeout=self._timeout_s)
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error, self._peer) from error

    async def _watch(self, start: Callable[[], Any], kind: type[T]) -> AsyncIterator[T]:
        retry_s = _FIRST_RETRY_S
        while True:
            call = start()
            try:
                async for message in call:
                    retry_s = _FIRST_RETRY_S
                    yield from_message(kind, message)
            except grpc.aio.AioRpcError as error:
                ours = from_rpc(error, self._peer)
                if not isinstance(ours, RetryableError):
                    raise ours from error
            finally:
                call.cancel()
            await asyncio.sleep(retry_s)
            retry_s = min(_LAST_RETRY_S, retry_s * 2)


async def _status(call: Any) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(
        await call.code(),
        await call.initial_metadata(),
        await call.trailing_metadata(),
        details=await call.details(),
        debug_error_string=None,
    )


def call(
    address: str, action: Callable[[ControlClient], Awaitable[T]], *, timeout_s: float = 5.0
) -> T:
    """Runs one action against the control plane from synchronous code, such as the CLI.

    `call(address, lambda control: control.status())`. Raises what the action raises.
    """

    async def run() -> T:
        async with contextlib.AsyncExitStack() as stack:
            client = await stack.enter_async_context(ControlClient(address, timeout_s=timeout_s))
            return await action(client)

    return asyncio.run(run())
