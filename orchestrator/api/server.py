"""The gRPC servicers of `airan.control.v1`: adapters only, messages to calls and back."""

from __future__ import annotations

import functools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from airan.core.errors import AiranError
from orchestrator import render
from orchestrator.api import control_pb2 as pb
from orchestrator.api import control_pb2_grpc as rpc
from orchestrator.api.convert import from_message, to_message
from orchestrator.api.errors import status_of
from orchestrator.control import ControlPlane
from orchestrator.policy import Policy
from orchestrator.views import SlotReport

_LOG = logging.getLogger("airan.orchestrator")
_MAX_PAGE = 1000
_MIN_WATCH_MS = 50

Context = Any  # grpc.aio.ServicerContext; its type stubs know no trailing metadata of bytes


def _unary(method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Answers our errors as statuses; any other error is a bug, logged and reported as such."""

    @functools.wraps(method)
    async def answer(self: Any, request: Any, context: Context) -> Any:
        try:
            return await method(self, request)
        except AiranError as error:
            return await _abort(context, error)

    return answer


def _stream(method: Callable[..., AsyncIterator[Any]]) -> Callable[..., AsyncIterator[Any]]:
    @functools.wraps(method)
    async def answer(self: Any, request: Any, context: Context) -> AsyncIterator[Any]:
        try:
            async for message in method(self, request):
                yield message
        except AiranError as error:
            await _abort(context, error)

    return answer


async def _abort(context: Context, error: AiranError) -> None:
    code, text, metadata = status_of(error)
    await context.abort(code, text, metadata)


class SiteServicer(rpc.SiteServiceServicer):
    """`SiteService`."""

    def __init__(self, control: ControlPlane) -> None:
        self._control = control

    @_unary
    async def GetStatus(self, request: pb.GetStatusRequest) -> pb.SiteStatus:  # noqa: N802, ARG002
        return to_message(await self._control.status(), pb.SiteStatus)

    @_stream
    async def WatchStatus(  # noqa: N802
        self, request: pb.WatchStatusRequest
    ) -> AsyncIterator[pb.SiteStatus]:
        interval_s = max(_MIN_WATCH_MS, request.interval_ms or 500) / 1000.0
        async for status in self._control.watch_status(interval_s):
            yield to_message(status, pb.SiteStatus)

    @_unary
    async def ListEvents(self, request: pb.ListEventsRequest) -> pb.ListEventsResponse:  # noqa: N802
        events = self._control.store.events(request.after_seq, _page(request.limit))
        return pb.ListEventsResponse(events=[to_message(event, pb.Event) for event in events])

    @_stream
    async def WatchEvents(self, request: pb.WatchEventsRequest) -> AsyncIterator[pb.Event]:  # noqa: N802
        async for event in self._control.log.watch(request.after_seq):
            yield to_message(event, pb.Event)


class PolicyServicer(rpc.PolicyServiceServicer):
    """`PolicyService`."""

    def __init__(self, control: ControlPlane) -> None:
        self._control = control

    @_unary
    async def GetPolicy(self, request: pb.GetPolicyRequest) -> pb.Policy:  # noqa: N802, ARG002
        return to_message(self._control.policy, pb.Policy)

    @_unary
    async def SetPolicy(self, request: pb.SetPolicyRequest) -> pb.SetPolicyResponse:  # noqa: N802
        policy = from_message(Policy, request.policy)
        change = await self._control.set_policy(policy, dry_run=request.dry_run)
        return to_message(change, pb.SetPolicyResponse)

    @_unary
    async def ListPlans(self, request: pb.ListPlansRequest) -> pb.ListPlansResponse:  # noqa: N802
        plans = self._control.store.plans(_page(request.limit))
        views = [to_message(render.stored_view(one), pb.Plan) for one in plans]
        return pb.ListPlansResponse(plans=views)


class CellServicer(rpc.CellServiceServicer):
    """`CellService`."""

    def __init__(self, control: ControlPlane) -> None:
        self._control = control

    @_unary
    async def ListCells(self, request: pb.ListCellsRequest) -> pb.ListCellsResponse:  # noqa: N802, ARG002
        cells = [to_message(cell, pb.Cell) for cell in self._control.ran.cells()]
        return pb.ListCellsResponse(cells=cells)

    @_unary
    async def ReportSlots(  # noqa: N802
        self, request: AsyncIterator[pb.SlotReport]
    ) -> pb.ReportSlotsResponse:
        async for report in request:
            await self._control.take_report(from_message(SlotReport, report))
        return pb.ReportSlotsResponse()


class CapacityServicer(rpc.CapacityServiceServicer):
    """`CapacityService`."""

    def __init__(self, control: ControlPlane) -> None:
        self._control = control

    @_unary
    async def ListLeases(self, request: pb.ListLeasesRequest) -> pb.ListLeasesResponse:  # noqa: N802
        stored = self._control.store.leases(include_ended=request.include_ended)
        return pb.ListLeasesResponse(leases=[to_message(one, pb.Lease) for one, _ in stored])

    @_unary
    async def AcquireLease(self, request: pb.AcquireLeaseRequest) -> pb.Lease:  # noqa: N802
        notice_ms = self._control.policy.notice_ms
        lease = await self._control.leases.acquire(
            request.holder, request.pid, request.min_sm_count, notice_ms
        )
        return to_message(lease, pb.Lease)

    @_unary
    async def ReleaseLease(self, request: pb.ReleaseLeaseRequest) -> pb.Lease:  # noqa: N802
        return to_message(await self._control.leases.release(request.lease_id), pb.Lease)

    @_unary
    async def ReportUse(self, request: pb.ReportUseRequest) -> pb.ReportUseResponse:  # noqa: N802
        self._control.report_use(request.lease_id, request.interval_s, request.busy_s)
        return pb.ReportUseResponse()

    @_stream
    async def WatchLeases(self, request: pb.WatchLeasesRequest) -> AsyncIterator[pb.LeaseEvent]:  # noqa: N802
        async for event in self._control.leases.watch(request.holder):
            yield to_message(event, pb.LeaseEvent)


def add_servicers(control: ControlPlane, server: grpc.aio.Server) -> tuple[str, ...]:
    """Adds all services to the server and returns their full names."""
    rpc.add_SiteServiceServicer_to_server(SiteServicer(control), server)  # type: ignore[no-untyped-call]
    rpc.add_PolicyServiceServicer_to_server(PolicyServicer(control), server)  # type: ignore[no-untyped-call]
    rpc.add_CellServiceServicer_to_server(CellServicer(control), server)  # type: ignore[no-untyped-call]
    rpc.add_CapacityServiceServicer_to_server(CapacityServicer(control), server)  # type: ignore[no-untyped-call]
    return tuple(service.full_name for service in pb.DESCRIPTOR.services_by_name.values())


def _page(limit: int) -> int:
    return min(limit or 200, _MAX_PAGE)
