"""The control plane's client: plain values in and out, our errors, watches that reconnect.

Nobody above the orchestrator imports gRPC; they use this.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import grpc

from airan.core.errors import OutOfRangeError, RetryableError
from orchestrator.api import control_pb2 as pb
from orchestrator.api.connection import FIRST_RETRY_S, LAST_RETRY_S, Connection
from orchestrator.api.convert import from_message, to_message
from orchestrator.api.errors import from_rpc
from orchestrator.api.security import TlsFiles
from orchestrator.views import (
    AuditEntry,
    CellView,
    Event,
    GpuView,
    Lease,
    LeaseEvent,
    NodeView,
    PlanView,
    PolicyChange,
    PolicyView,
    SiteStatus,
    SlotReport,
)

__all__ = ["ControlClient", "TlsFiles", "call"]

T = TypeVar("T")


class ControlClient(Connection):
    """A client of one site's control plane at `address` ("127.0.0.1:50051").

    Use it within one event loop, as an async context manager or with `aclose()`. With `tls` it
    shows a certificate, without it calls as `local`. Unary calls wait at most `timeout_s` and
    raise our errors: `UnavailableError` when the control plane cannot be reached,
    `ForbiddenError` when the role does not allow the call, otherwise what it answered. Iterators
    reconnect by themselves for ever and raise only permanent errors. Lists read every page.
    """

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
                await asyncio.sleep(FIRST_RETRY_S)

    # --- site

    async def status(self) -> SiteStatus:
        """The whole site now."""
        reply = await self._call(self._site().GetStatus, pb.GetStatusRequest())
        return from_message(SiteStatus, reply.status)

    def watch_status(self, interval_ms: int = 500) -> AsyncIterator[SiteStatus]:
        """The site now and then every `interval_ms`; reconnects."""
        return self._watch(
            lambda: self._site().WatchStatus(pb.WatchStatusRequest(interval_ms=interval_ms)),
            "status",
            SiteStatus,
        )

    async def events(self, after_seq: int = 0, limit: int = 200) -> list[Event]:
        """Stored events with `seq > after_seq`, oldest first, at most `limit`."""
        request = pb.ListEventsRequest(after_seq=after_seq)
        return await self._list(self._site().ListEvents, request, Event, limit)

    async def watch_events(self, after_seq: int = 0) -> AsyncIterator[Event]:
        """Events with `seq > after_seq`, stored ones first, then live; each exactly once."""
        last = after_seq

        def start() -> Any:
            return self._site().WatchEvents(pb.WatchEventsRequest(after_seq=last))

        async for event in self._watch(start, "event", Event):
            last = event.seq
            yield event

    async def audit(
        self, after_seq: int = 0, limit: int = 200, *, actor: str = "", method: str = ""
    ) -> list[AuditEntry]:
        """Who changed what, with `seq > after_seq`, oldest first; of one actor or method.

        Raises:
            ForbiddenError: the caller is no admin.
        """
        request = pb.ListAuditRequest(after_seq=after_seq, actor=actor, method=method)
        return await self._list(self._site().ListAudit, request, AuditEntry, limit)

    async def nodes(self) -> list[NodeView]:
        """The hosts with GPUs, by name."""
        reply = await self._call(self._site().ListNodes, pb.ListNodesRequest())
        return [from_message(NodeView, node) for node in reply.nodes]

    async def gpus(self, node: str = "") -> list[GpuView]:
        """Every GPU (of one host) with its partitions and its health, lost ones too."""
        reply = await self._call(self._site().ListGpus, pb.ListGpusRequest(node=node))
        return [from_message(GpuView, gpu) for gpu in reply.gpus]

    async def set_maintenance(self, gpu_uuid: str, *, on: bool, reason: str = "") -> GpuView:
        """Drains a GPU, or takes it back into use; the GPU as it is then. Idempotent.

        Raises:
            NotFoundError: there is no such GPU.
            InvalidInputError: it goes into maintenance without a reason.
        """
        request = pb.SetMaintenanceRequest(gpu_uuid=gpu_uuid, on=on, reason=reason)
        reply = await self._call(self._site().SetMaintenance, request)
        return from_message(GpuView, reply.gpu)

    # --- policy

    async def get_policy(self) -> PolicyView:
        """The policy in force."""
        reply = await self._call(self._policy().GetPolicy, pb.GetPolicyRequest())
        return from_message(PolicyView, reply.policy)

    async def set_policy(self, policy: PolicyView, *, dry_run: bool = False) -> PolicyChange:
        """Stores the policy and plans by it; `dry_run` only returns the plan, its moves and the
        expected loss.

        Raises:
            InvalidInputError: an unknown kind or a value out of range.
        """
        request = pb.SetPolicyRequest(policy=to_message(policy, pb.Policy), dry_run=dry_run)
        reply = await self._call(self._policy().SetPolicy, request)
        return from_message(PolicyChange, reply)

    async def list_plans(self, limit: int = 20) -> list[PlanView]:
        """Stored plans, newest first."""
        return await self._list(self._policy().ListPlans, pb.ListPlansRequest(), PlanView, limit)

    async def plan(self, generation: int = 0) -> PlanView:
        """The plan of that generation; 0: the newest.

        Raises:
            NotFoundError: there is none.
        """
        reply = await self._call(self._policy().GetPlan, pb.GetPlanRequest(generation=generation))
        return from_message(PlanView, reply.plan)

    # --- cells

    async def cells(self) -> list[CellView]:
        """The cells as last reported, by id."""
        return await self._list(self._cell().ListCells, pb.ListCellsRequest(), CellView)

    async def report_slots(self, reports: AsyncIterator[SlotReport]) -> None:
        """Sends every report until `reports` ends; reconnects.

        A report in flight while the control plane dies may be lost, or be sent again, which the
        server recognises by cell and time.

        Raises:
            InvalidInputError: the control plane refuses a report.
        """
        pending: SlotReport | None = None
        retry_s = FIRST_RETRY_S
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
                    report = to_message(pending, pb.SlotReport)
                    await call.write(pb.ReportSlotsRequest(report=report))
                    pending = None
                    retry_s = FIRST_RETRY_S
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
            retry_s = min(LAST_RETRY_S, retry_s * 2)

    # --- capacity

    async def leases(self, *, include_ended: bool = False) -> list[Lease]:
        """Live leases, on wish also those that ended, newest first."""
        request = pb.ListLeasesRequest(include_ended=include_ended)
        return await self._list(self._capacity().ListLeases, request, Lease)

    async def acquire_lease(
        self, holder: str, pid: int, min_sm: int = 0, *, tenant: str = ""
    ) -> Lease:
        """Takes the largest AI partition on offer; a holder that has a lease gets it again.

        `pid` is the process that will use the partition and that is killed if it does not
        release in time.

        Raises:
            CapacityError: nothing (large enough) is on offer now; watch and ask again.
            InvalidInputError: no such process, or an empty holder.
        """
        request = pb.AcquireLeaseRequest(holder=holder, pid=pid, min_sm_count=min_sm, tenant=tenant)
        reply = await self._call(self._capacity().AcquireLease, request)
        return from_message(Lease, reply.lease)

    async def release_lease(self, lease_id: str) -> Lease:
        """Gives the partition back. Idempotent.

        Raises:
            NotFoundError: there never was such a lease.
        """
        request = pb.ReleaseLeaseRequest(lease_id=lease_id)
        reply = await self._call(self._capacity().ReleaseLease, request)
        return from_message(Lease, reply.lease)

    async def revoke_lease(self, lease_id: str, reason: str) -> Lease:
        """An operator takes the partition back, with the lease's notice. Idempotent.

        Raises:
            NotFoundError: there never was such a lease.
            InvalidInputError: no reason is given.
        """
        request = pb.RevokeLeaseRequest(lease_id=lease_id, reason=reason)
        reply = await self._call(self._capacity().RevokeLease, request)
        return from_message(Lease, reply.lease)

    async def report_use(self, lease_id: str, interval_s: float, busy_s: float) -> None:
        """Tells for how long of the last `interval_s` the engine was generating.

        Raises:
            NotFoundError: there is no such lease.
            InvalidInputError: the times are negative or `busy_s` exceeds `interval_s`.
        """
        request = pb.ReportUseRequest(lease_id=lease_id, interval_s=interval_s, busy_s=busy_s)
        await self._call(self._capacity().ReportUse, request)

    async def watch_leases(self, holder: str, after_seq: int = 0) -> AsyncIterator[LeaseEvent]:
        """The holder's leases now, then every change and offer; see `LeaseEvent`.

        An empty holder watches all leases. A reconnect, or a start with `after_seq`, goes on
        with what came after it; where that is no longer known, as after a restart of the control
        plane, the snapshot comes again. While a named holder has no open watch, its leases end
        as `holder_lost` after a short grace.
        """
        last = after_seq

        def start() -> Any:
            request = pb.WatchLeasesRequest(holder=holder, after_seq=last)
            return self._capacity().WatchLeases(request)

        while True:
            try:
                async for event in self._watch(start, "event", LeaseEvent):
                    # A snapshot that breaks off must come again as a whole.
                    if event.kind != "snapshot" or event.lease is None:
                        last = event.seq
                    yield event
            except OutOfRangeError:
                last = 0


async def _status(call: Any) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(
        await call.code(),
        await call.initial_metadata(),
        await call.trailing_metadata(),
        details=await call.details(),
        debug_error_string=None,
    )


def call(
    address: str,
    action: Callable[[ControlClient], Awaitable[T]],
    *,
    timeout_s: float = 5.0,
    tls: TlsFiles | None = None,
) -> T:
    """Runs one action against the control plane from synchronous code, such as the CLI.

    `call(address, lambda control: control.status())`. Raises what the action raises.
    """

    async def run() -> T:
        async with contextlib.AsyncExitStack() as stack:
            client = await stack.enter_async_context(
                ControlClient(address, timeout_s=timeout_s, tls=tls)
            )
            return await action(client)

    return asyncio.run(run())
