"""A client of the control plane. It returns the protocol's messages and raises our errors.

Watch methods reconnect by themselves and never end on their own; everything else fails at once
with a RetryableError when the control plane is away.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, TypeVar

import grpc

from airan.core.errors import RetryableError
from orchestrator.api import control_pb2 as pb
from orchestrator.api import control_pb2_grpc as rpc
from orchestrator.api.errors import from_rpc

TIMEOUT_S = 5.0
RECONNECT_S = 0.25
# A restarted control plane must be found again within a fraction of a second.
CHANNEL_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.enable_http_proxy", 0),
)

Answer = TypeVar("Answer")


class ControlClient:
    """Calls the control plane at `address` ("127.0.0.1:50051"). Use inside one event loop."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._channel = grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
        self._site: Any = rpc.SiteServiceStub(self._channel)
        self._policy: Any = rpc.PolicyServiceStub(self._channel)
        self._cell: Any = rpc.CellServiceStub(self._channel)
        self._capacity: Any = rpc.CapacityServiceStub(self._channel)

    async def __aenter__(self) -> ControlClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection; running watches end with an error."""
        await self._channel.close()

    async def status(self) -> pb.SiteStatus:
        """The site as the orchestrator sees it now."""
        return await self._call(self._site.GetStatus(pb.GetStatusRequest(), timeout=TIMEOUT_S))

    async def events(self, after_seq: int = 0, limit: int = 1000) -> Sequence[pb.Event]:
        """Stored events with seq > `after_seq`, oldest first."""
        request = pb.ListEventsRequest(after_seq=after_seq, limit=limit)
        answer: pb.ListEventsResponse = await self._call(
            self._site.ListEvents(request, timeout=TIMEOUT_S)
        )
        return list(answer.events)

    async def watch_events(self, after_seq: int = 0) -> AsyncIterator[pb.Event]:
        """Stored events with seq > `after_seq`, then live ones; resumes after an interruption."""
        while True:
            request = pb.WatchEventsRequest(after_seq=after_seq)
            async for event in self._stream(lambda r=request: self._site.WatchEvents(r)):
                after_seq = event.seq
                yield event
            await asyncio.sleep(RECONNECT_S)

    async def policy(self) -> pb.Policy:
        """The policy in force."""
        return await self._call(self._policy.GetPolicy(pb.GetPolicyRequest(), timeout=TIMEOUT_S))

    async def set_policy(self, policy: pb.Policy, *, dry_run: bool) -> pb.SetPolicyResponse:
        """Puts a policy in force, or with `dry_run` only says what it would lead to.

        Raises:
            InvalidInputError: a value is out of range; names the field.
        """
        request = pb.SetPolicyRequest(policy=policy, dry_run=dry_run)
        return await self._call(self._policy.SetPolicy(request, timeout=TIMEOUT_S))

    async def plans(self, limit: int = 20) -> Sequence[pb.Plan]:
        """The newest plans, newest first."""
        answer: pb.ListPlansResponse = await self._call(
            self._policy.ListPlans(pb.ListPlansRequest(limit=limit), timeout=TIMEOUT_S)
        )
        return list(answer.plans)

    async def cells(self) -> Sequence[pb.Cell]:
        """The cells of the site with their load."""
        answer: pb.ListCellsResponse = await self._call(
            self._cell.ListCells(pb.ListCellsRequest(), timeout=TIMEOUT_S)
        )
        return list(answer.cells)

    async def report_slots(self, report: pb.SlotReport) -> None:
        """Sends one slot report."""

        async def one() -> AsyncIterator[pb.SlotReport]:
            yield report

        await self._call(self._cell.ReportSlots(one(), timeout=TIMEOUT_S))

    async def list_leases(self, *, include_ended: bool = False) -> Sequence[pb.Lease]:
        """Live leases, or with `include_ended` all that are stored."""
        request = pb.ListLeasesRequest(include_ended=include_ended)
        answer: pb.ListLeasesResponse = await self._call(
            self._capacity.ListLeases(request, timeout=TIMEOUT_S)
        )
        return list(answer.leases)

    async def acquire_lease(self, holder: str, pid: int, min_sm_count: int = 0) -> pb.Lease:
        """Takes a free AI partition on lease for the process `pid`.

        Raises:
            CapacityError: none is free; watch the leases for an offer.
        """
        request = pb.AcquireLeaseRequest(holder=holder, pid=pid, min_sm_count=min_sm_count)
        return await self._call(self._capacity.AcquireLease(request, timeout=TIMEOUT_S))

    async def release_lease(self, lease_id: str) -> pb.Lease:
        """Gives a lease back. Idempotent.

        Raises:
            NotFoundError: no lease has this id.
        """
        request = pb.ReleaseLeaseRequest(lease_id=lease_id)
        return await self._call(self._capacity.ReleaseLease(request, timeout=TIMEOUT_S))

    async def report_use(self, lease_id: str, interval_s: float, busy_s: float) -> None:
        """Says for how much of the last `interval_s` seconds the engine was generating.

        Raises:
            NotFoundError: the lease is not live any more.
        """
        request = pb.ReportUseRequest(lease_id=lease_id, interval_s=interval_s, busy_s=busy_s)
        await self._call(self._capacity.ReportUse(request, timeout=TIMEOUT_S))

    async def watch_leases(self, holder: str = "") -> AsyncIterator[pb.LeaseEvent]:
        """A snapshot of every live lease, then every change; a new snapshot after a reconnect."""
        while True:
            request = pb.WatchLeasesRequest(holder=holder)
            async for event in self._stream(lambda r=request: self._capacity.WatchLeases(r)):
                yield event
            await asyncio.sleep(RECONNECT_S)

    async def _stream(self, call: Callable[[], Any]) -> AsyncIterator[Any]:
        """The messages of one streaming call; ends quietly when the control plane goes away."""
        try:
            async for message in call():
                yield message
        except grpc.aio.AioRpcError as error:
            ours = from_rpc(error, self.address)
            if not isinstance(ours, RetryableError):
                raise ours from error

    async def _call(self, call: Awaitable[Answer]) -> Answer:
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error, self.address) from error
