"""The gRPC servicers of `airan.control.v1`: adapters only, messages to calls and back.

Errors, roles, deadlines and the audit log are `guard.Guard`'s.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc

from airan.core.errors import InvalidInputError, NotFoundError
from orchestrator import render
from orchestrator.api import control_pb2 as pb
from orchestrator.api import control_pb2_grpc as rpc
from orchestrator.api.convert import from_message, to_message
from orchestrator.api.paging import page
from orchestrator.api.security import CALLER
from orchestrator.control import ControlPlane
from orchestrator.policy import Policy
from orchestrator.store import StoredPlan
from orchestrator.views import AuditEntry, CellView, Event, Lease, SlotReport

_MIN_WATCH_MS = 50

Context = Any  # grpc.aio.ServicerContext; its type stubs know no trailing metadata of bytes


class SiteServicer(rpc.SiteServiceServicer):
    """`SiteService`."""

    def __init__(self, control: ControlPlane) -> None:
        self._control = control

    async def GetStatus(
        self, request: pb.GetStatusRequest, context: Context
    ) -> pb.GetStatusResponse:
        status = to_message(await self._control.status(), pb.SiteStatus)
        return pb.GetStatusResponse(status=status)

    async def WatchStatus(
        self, request: pb.WatchStatusRequest, context: Context
    ) -> AsyncIterator[pb.WatchStatusResponse]:
        interval_s = max(_MIN_WATCH_MS, request.interval_ms or 500) / 1000.0
        async for status in self._control.watch_status(interval_s):
            yield pb.WatchStatusResponse(status=to_message(status, pb.SiteStatus))

    async def ListEvents(
        self, request: pb.ListEventsRequest, context: Context
    ) -> pb.ListEventsResponse:
        def read(after_seq: int | None, limit: int) -> Sequence[Event]:
            return self._control.store.events(
                request.after_seq if after_seq is None else after_seq, limit
            )

        events, token = page(request, int, read, lambda event: event.seq)
        messages = [to_message(event, pb.Event) for event in events]
        return pb.ListEventsResponse(events=messages, next_page_token=token)

    async def WatchEvents(
        self, request: pb.WatchEventsRequest, context: Context
    ) -> AsyncIterator[pb.WatchEventsResponse]:
        async for event in self._control.log.watch(request.after_seq):
            yield pb.WatchEventsResponse(event=to_message(event, pb.Event))

    async def ListAudit(
        self, request: pb.ListAuditRequest, context: Context
    ) -> pb.ListAuditResponse:
        def read(after_seq: int | None, limit: int) -> Sequence[AuditEntry]:
            return self._control.store.audit(
                request.after_seq if after_seq is None else after_seq,
                limit,
                actor=request.actor,
                method=request.method,
            )

        entries, token = page(request, int, read, lambda entry: entry.seq)
        messages = [to_message(entry, pb.AuditEntry) for entry in entries]
        return pb.ListAuditResponse(entries=messages, next_page_token=token)

    async def ListNodes(
        self, request: pb.ListNodesRequest, context: Context
    ) -> pb.ListNodesResponse:
        nodes = render.node_views(await self._control.gpus())
        return pb.ListNodesResponse(nodes=[to_message(node, pb.Node) for node in nodes])

    async def ListGpus(self, request: pb.ListGpusRequest, context: Context) -> pb.ListGpusResponse:
        gpus = [gpu for gpu in await self._control.gpus() if request.node in ("", gpu.node)]
        return pb.ListGpusResponse(gpus=[to_message(gpu, pb.Gpu) for gpu in gpus])

    async def SetMaintenance(
        self, request: pb.SetMaintenanceRequest, context: Context
    ) -> pb.SetMaintenanceResponse:
        uuid = request.gpu_uuid
        await self._control.set_maintenance(uuid, request.reason, on=request.on)
        gpu = next(gpu for gpu in await self._control.gpus() if gpu.uuid == uuid)
        return pb.SetMaintenanceResponse(gpu=to_message(gpu, pb.Gpu))


class PolicyServicer(rpc.PolicyServiceServicer):
    """`PolicyService`."""

    def __init__(self, control: ControlPlane) -> None:
        self._control = control

    async def GetPolicy(
        self, request: pb.GetPolicyRequest, context: Context
    ) -> pb.GetPolicyResponse:
        return pb.GetPolicyResponse(policy=to_message(self._control.policy, pb.Policy))

    async def SetPolicy(
        self, request: pb.SetPolicyRequest, context: Context
    ) -> pb.SetPolicyResponse:
        if not request.HasField("policy"):
            raise InvalidInputError("policy", "must be given", remedy="read it, change it, set it")
        policy = from_message(Policy, request.policy)
        change = await self._control.set_policy(policy, dry_run=request.dry_run)
        return to_message(change, pb.SetPolicyResponse)

    async def ListPlans(
        self, request: pb.ListPlansRequest, context: Context
    ) -> pb.ListPlansResponse:
        def read(before: int | None, limit: int) -> Sequence[StoredPlan]:
            return self._control.store.plans(limit, before)

        plans, token = page(request, int, read, lambda stored: stored.plan.generation)
        messages = [to_message(render.stored_view(one), pb.Plan) for one in plans]
        return pb.ListPlansResponse(plans=messages, next_page_token=token)

    async def GetPlan(self, request: pb.GetPlanRequest, context: Context) -> pb.GetPlanResponse:
        store = self._control.store
        stored = store.plan(request.generation) if request.generation else store.newest_plan()
        if stored is None:
            which = f"plan {request.generation}" if request.generation else "plan yet"
            raise NotFoundError(f"there is no {which}", remedy="see `airan plan list`")
        return pb.GetPlanResponse(plan=to_message(render.stored_view(stored), pb.Plan))


class CellServicer(rpc.CellServiceServicer):
    """`CellService`."""

    def __init__(self, control: ControlPlane) -> None:
        self._control = control

    async def ListCells(
        self, request: pb.ListCellsRequest, context: Context
    ) -> pb.ListCellsResponse:
        def read(after_id: str | None, limit: int) -> Sequence[CellView]:
            cells = sorted(self._control.cells(), key=lambda cell: cell.id)
            return [cell for cell in cells if after_id is None or cell.id > after_id][:limit]

        cells, token = page(request, str, read, lambda cell: cell.id)
        messages = [to_message(cell, pb.Cell) for cell in cells]
        return pb.ListCellsResponse(cells=messages, next_page_token=token)

    async def ReportSlots(
        self, request: AsyncIterator[pb.ReportSlotsRequest], context: Context
    ) -> pb.ReportSlotsResponse:
        async for one in request:
            await self._control.take_report(from_message(SlotReport, one.report))
        return pb.ReportSlotsResponse()


class CapacityServicer(rpc.CapacityServiceServicer):
    """`CapacityService`."""

    def __init__(self, control: ControlPlane) -> None:
        self._control = control

    async def ListLeases(
        self, request: pb.ListLeasesRequest, context: Context
    ) -> pb.ListLeasesResponse:
        def read(before: list[Any] | None, limit: int) -> Sequence[Lease]:
            stored = self._control.store.leases(
                include_ended=request.include_ended,
                limit=limit,
                before=None if before is None else (before[0], before[1]),
            )
            return [lease for lease, _ in stored]

        leases, token = page(request, list, read, lambda lease: [lease.granted_s, lease.id])
        messages = [to_message(lease, pb.Lease) for lease in leases]
        return pb.ListLeasesResponse(leases=messages, next_page_token=token)

    async def AcquireLease(
        self, request: pb.AcquireLeaseRequest, context: Context
    ) -> pb.AcquireLeaseResponse:
        notice_ms = self._control.policy.notice_ms
        lease = await self._control.leases.acquire(
            request.holder, request.pid, request.min_sm_count, notice_ms, request.tenant
        )
        return pb.AcquireLeaseResponse(lease=to_message(lease, pb.Lease))

    async def ReleaseLease(
        self, request: pb.ReleaseLeaseRequest, context: Context
    ) -> pb.ReleaseLeaseResponse:
        lease = await self._control.leases.release(request.lease_id)
        return pb.ReleaseLeaseResponse(lease=to_message(lease, pb.Lease))

    async def RevokeLease(
        self, request: pb.RevokeLeaseRequest, context: Context
    ) -> pb.RevokeLeaseResponse:
        reason = request.reason and f"{request.reason} ({CALLER.get().actor})"
        lease = self._control.leases.revoke(request.lease_id, reason)
        return pb.RevokeLeaseResponse(lease=to_message(lease, pb.Lease))

    async def ReportUse(
        self, request: pb.ReportUseRequest, context: Context
    ) -> pb.ReportUseResponse:
        self._control.report_use(request.lease_id, request.interval_s, request.busy_s)
        return pb.ReportUseResponse()

    async def WatchLeases(
        self, request: pb.WatchLeasesRequest, context: Context
    ) -> AsyncIterator[pb.WatchLeasesResponse]:
        if request.holder:
            # A holder's watch keeps its leases alive; who only looks watches all of them.
            CALLER.get().require("operator", "WatchLeases as a holder")
        async for event in self._control.leases.watch(request.holder, request.after_seq):
            yield pb.WatchLeasesResponse(event=to_message(event, pb.LeaseEvent))


def add_servicers(control: ControlPlane, server: grpc.aio.Server) -> tuple[str, ...]:
    """Adds all services to the server and returns their full names."""
    rpc.add_SiteServiceServicer_to_server(SiteServicer(control), server)  # type: ignore[no-untyped-call]
    rpc.add_PolicyServiceServicer_to_server(PolicyServicer(control), server)  # type: ignore[no-untyped-call]
    rpc.add_CellServiceServicer_to_server(CellServicer(control), server)  # type: ignore[no-untyped-call]
    rpc.add_CapacityServiceServicer_to_server(CapacityServicer(control), server)  # type: ignore[no-untyped-call]
    return tuple(service.full_name for service in pb.DESCRIPTOR.services_by_name.values())
