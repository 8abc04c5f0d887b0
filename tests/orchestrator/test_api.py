"""The gRPC control plane over a real socket, through the client everyone else uses."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from airan.core.errors import (
    CapacityError,
    InvalidInputError,
    NotFoundError,
    PortInUseError,
    UnavailableError,
)
from airan.core.ports import free_ports
from orchestrator import views
from orchestrator.api import control_pb2, control_pb2_grpc
from orchestrator.api.client import ControlClient
from orchestrator.api.convert import to_message
from orchestrator.control import ControlPlane
from orchestrator.policy import Policy
from orchestrator.service import running, serve
from orchestrator.views import Event, LeaseEvent, SlotReport
from tests.orchestrator.control_plane import quiet_ran, settings, until

Start = Callable[[], "subprocess.Popen[bytes]"]


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[tuple[ControlPlane, ControlClient]]:
    async with (
        running(settings(tmp_path)) as (control, port),
        ControlClient(f"127.0.0.1:{port}") as control_client,
    ):
        yield control, control_client


def channel_of(control_client: ControlClient) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(control_client.address)


async def test_health_and_reflection_are_on(site: tuple[ControlPlane, ControlClient]) -> None:
    _, control_client = site
    async with channel_of(control_client) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        for name in ("", "airan.control.v1.CapacityService"):
            reply = await stub.Check(health_pb2.HealthCheckRequest(service=name))
            assert reply.status == health_pb2.HealthCheckResponse.SERVING

    def reflect() -> set[str]:
        with grpc.insecure_channel(control_client.address) as channel:
            return set(ProtoReflectionDescriptorDatabase(channel).get_services())

    found = await asyncio.to_thread(reflect)
    services = ("SiteService", "PolicyService", "CellService", "CapacityService")
    assert {f"airan.control.v1.{name}" for name in services} <= found


async def test_a_lease_from_offer_to_eviction_over_the_wire(
    site: tuple[ControlPlane, ControlClient], start_process: Start
) -> None:
    control, control_client = site
    reports = asyncio.create_task(control_client.report_slots(quiet_ran()))
    child = start_process()
    seen: list[LeaseEvent] = []

    async def engine() -> None:
        async for event in control_client.watch_leases("engine"):
            seen.append(event)
            if event.lease is None and event.free_ai_partitions:
                await control_client.acquire_lease("engine", child.pid)

    watching = asyncio.create_task(engine())
    (lease,) = await until(control_client.leases)
    assert (lease.holder, lease.profile, lease.pid) == ("engine", "4g.48gb", child.pid)
    await control_client.report_use(lease.id, 1.0, 0.5)
    status = await control_client.status()
    assert status.simulated
    assert status.gpus[0].simulated
    (leased,) = [part for part in status.gpus[0].partitions if part.lease_id]
    assert (leased.lease_id, leased.pids, leased.role) == (lease.id, (child.pid,), "ai")
    assert status.leases == (lease,)
    assert [cell.id for cell in await control_client.cells()] == ["cell-1", "cell-2"]
    assert status.slots.slots > 0
    assert status.slots.slowdown == 40.0

    change = await control_client.set_policy(Policy("static", ran_share=0.9, notice_ms=200))
    assert any(move.startswith("revoke the lease") for move in change.moves)
    assert await asyncio.to_thread(child.wait, 10) == -9
    await until(lambda: ended_reason(control_client, lease.id))
    assert await ended_reason(control_client, lease.id) == "evicted"
    kinds = [event.kind for event in seen]
    assert kinds.index("granted") < kinds.index("revoked") < kinds.index("ended")
    plans = await control_client.list_plans(limit=1)
    assert plans[0].generation == change.plan.generation
    stored = [event.kind for event in await control_client.events()]
    assert {"plan.stored", "plan.applied", "lease.granted", "lease.evicted"} <= set(stored)
    for task in (reports, watching):
        task.cancel()
    assert control.policy.kind == "static"


async def ended_reason(control_client: ControlClient, lease_id: str) -> str:
    leases = await control_client.leases(include_ended=True)
    return next((one.end_reason for one in leases if one.id == lease_id), "")


async def test_errors_name_the_thing_and_the_remedy_across_the_wire(
    site: tuple[ControlPlane, ControlClient],
) -> None:
    _, control_client = site
    with pytest.raises(NotFoundError, match="lease-none"):
        await control_client.release_lease("lease-none")
    with pytest.raises(InvalidInputError, match="no process") as caught:
        await control_client.acquire_lease("engine", 2**30)
    assert caught.value.field == "pid"
    with pytest.raises(CapacityError, match="watch the leases"):
        await control_client.acquire_lease("engine", os.getpid(), min_sm=500)
    broken = to_message(Policy(), control_pb2.Policy)
    broken.kind = "greedy"
    async with channel_of(control_client) as channel:
        call = channel.unary_unary(
            "/airan.control.v1.PolicyService/SetPolicy",
            request_serializer=control_pb2.SetPolicyRequest.SerializeToString,
            response_deserializer=control_pb2.SetPolicyResponse.FromString,
        )
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(control_pb2.SetPolicyRequest(policy=broken))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "use `static`, `time_of_day`, `demand`" in (refused.value.details() or "")


async def test_a_report_that_contradicts_itself_is_refused_over_the_wire(
    site: tuple[ControlPlane, ControlClient],
) -> None:
    _, control_client = site

    async def reports() -> AsyncIterator[SlotReport]:
        while True:
            yield SlotReport("cell-1", time.time(), slots=1, slots_late=5)
            await asyncio.sleep(0.01)

    with pytest.raises(InvalidInputError, match="slots"):
        await asyncio.wait_for(control_client.report_slots(reports()), 10)


async def test_events_are_watched_from_where_one_left_off(
    site: tuple[ControlPlane, ControlClient],
) -> None:
    control, control_client = site
    await until(control_client.events)
    first = (await control_client.events(limit=1))[0]
    live: list[Event] = []
    async for event in control_client.watch_events(after_seq=first.seq):
        live.append(event)
        if event.kind == "test.last":
            break
        if len(live) == 1:
            control.log.record("test.last", "the end")
    assert [event.seq for event in live] == list(range(first.seq + 1, live[-1].seq + 1))


async def test_lists_come_in_pages_that_miss_nothing(
    site: tuple[ControlPlane, ControlClient],
) -> None:
    control, control_client = site
    for share in (0.2, 0.5, 0.8):
        await control_client.set_policy(Policy("static", ran_share=share))
    for number in range(5):
        control.log.record("test.page", str(number))
        lease = views.Lease(id=f"lease-{number}", state="ended", granted_s=float(number // 2))
        control.store.put_lease(lease, 0.0)
    async with channel_of(control_client) as channel:
        site_stub: Any = control_pb2_grpc.SiteServiceStub(channel)
        capacity: Any = control_pb2_grpc.CapacityServiceStub(channel)
        policy: Any = control_pb2_grpc.PolicyServiceStub(channel)
        pages = {
            "leases": (capacity.ListLeases, control_pb2.ListLeasesRequest(include_ended=True)),
            "plans": (policy.ListPlans, control_pb2.ListPlansRequest()),
            "events": (site_stub.ListEvents, control_pb2.ListEventsRequest()),
            "entries": (site_stub.ListAudit, control_pb2.ListAuditRequest()),
        }
        for name, (method, request) in pages.items():
            whole = list(getattr(await method(request), name))
            request.page_size = 2
            found: list[Any] = []
            while True:
                reply = await method(request)
                items = getattr(reply, name)
                assert len(items) <= 2
                found += items
                request.page_token = reply.next_page_token
                if not request.page_token:
                    break
            assert len(found) >= 3, name
            # Newer ones may have come meanwhile, and a plan may have got another state.
            seen = [_name_of(one) for one in found]
            assert [one for one in seen if one in map(_name_of, whole)] == [
                _name_of(one) for one in whole
            ], name


def _name_of(item: Any) -> Any:
    """What tells an item of a list from all others."""
    names = ("id", "seq", "generation")
    return next(getattr(item, name) for name in names if hasattr(item, name))


@pytest.mark.parametrize(
    "token",
    ["nonsense", "bm9uc2Vuc2U=", "äö", "WyJMaXN0UGxhbnNSZXF1ZXN0IiwgIjciXQ==", "another list's"],
)
async def test_a_page_token_that_is_not_ours_is_refused(
    site: tuple[ControlPlane, ControlClient], token: str
) -> None:
    control, control_client = site
    async with channel_of(control_client) as channel:
        stub: Any = control_pb2_grpc.PolicyServiceStub(channel)
        if token == "another list's":
            for _ in range(2):
                control.log.record("test.page", "one")
            events: Any = control_pb2_grpc.SiteServiceStub(channel)
            token = (
                await events.ListEvents(control_pb2.ListEventsRequest(page_size=1))
            ).next_page_token
            assert token
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.ListPlans(control_pb2.ListPlansRequest(page_token=token))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "page_token" in (refused.value.details() or "")


async def test_the_client_reads_every_page_up_to_its_limit(
    site: tuple[ControlPlane, ControlClient],
) -> None:
    control, control_client = site
    for number in range(1200):
        control.log.record("test.page", str(number))
    found = await control_client.events(limit=1100)
    assert len(found) == 1100
    assert [event.seq for event in found] == sorted({event.seq for event in found})
    assert len(await control_client.events(limit=5000)) >= 1200


async def test_a_lease_watch_goes_on_where_it_left_off(
    site: tuple[ControlPlane, ControlClient], start_process: Start
) -> None:
    control, control_client = site
    reports = asyncio.create_task(control_client.report_slots(quiet_ran()))
    await until(lambda: asyncio.sleep(0, control.leases.free()))
    snapshot = await anext(control_client.watch_leases(""))
    assert (snapshot.kind, snapshot.lease) == ("snapshot", None)
    lease = await control_client.acquire_lease("engine", start_process().pid, tenant="acme")
    assert lease.tenant == "acme"
    await control_client.revoke_lease(lease.id, "a test")
    await control_client.release_lease(lease.id)
    missed = control_client.watch_leases("", after_seq=snapshot.seq)
    told = [await anext(missed) for _ in range(3)]
    assert [event.kind for event in told] == ["granted", "revoked", "ended"]
    assert [event.seq for event in told] == [snapshot.seq + step for step in (1, 2, 3)]
    assert await control_client.revoke_lease(lease.id, "again") == told[2].lease
    reports.cancel()


async def test_a_watch_from_too_long_ago_starts_with_a_snapshot(
    site: tuple[ControlPlane, ControlClient],
) -> None:
    _, control_client = site
    event = await anext(control_client.watch_leases("", after_seq=7))
    assert event.kind == "snapshot"
    async with channel_of(control_client) as channel:
        stub: Any = control_pb2_grpc.CapacityServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            async for _ in stub.WatchLeases(control_pb2.WatchLeasesRequest(after_seq=7)):
                pass
    assert refused.value.code() is grpc.StatusCode.OUT_OF_RANGE


async def test_a_gpu_is_drained_and_taken_back(
    site: tuple[ControlPlane, ControlClient],
) -> None:
    _, control_client = site
    (gpu,) = await control_client.gpus()
    assert (gpu.maintenance, gpu.lost, gpu.mig_mode) == (False, False, "enabled")
    drained = await control_client.set_maintenance(gpu.uuid, on=True, reason="new fans")
    assert (drained.maintenance, drained.maintenance_reason) == (True, "new fans")
    (node,) = await control_client.nodes()
    assert (node.name, node.gpus, node.gpus_in_maintenance, node.simulated) == (
        gpu.node,
        1,
        1,
        True,
    )
    assert not (await control_client.set_maintenance(gpu.uuid, on=False)).maintenance
    with pytest.raises(NotFoundError, match="GPU-none"):
        await control_client.set_maintenance("GPU-none", on=True, reason="why not")
    with pytest.raises(InvalidInputError, match="reason"):
        await control_client.set_maintenance(gpu.uuid, on=True)
    assert await control_client.gpus(node="elsewhere") == []


async def test_plans_are_shown_one_by_one(site: tuple[ControlPlane, ControlClient]) -> None:
    _, control_client = site
    change = await control_client.set_policy(Policy("static", ran_share=0.9))
    shown = await control_client.plan(change.plan.generation)
    assert (shown.generation, shown.reason) == (change.plan.generation, change.plan.reason)
    assert (await control_client.plan()).generation >= shown.generation
    with pytest.raises(NotFoundError, match="plan 9999"):
        await control_client.plan(9999)


async def test_status_is_watched_at_the_interval_asked_for(
    site: tuple[ControlPlane, ControlClient],
) -> None:
    _, control_client = site
    times = []
    async for status in control_client.watch_status(interval_ms=60):
        times.append(status.time_s)
        if len(times) == 3:
            break
    assert times[2] - times[0] >= 0.12


async def test_a_control_plane_that_is_away_is_named(tmp_path: Path) -> None:
    async with ControlClient("127.0.0.1:1", timeout_s=1.0) as nobody:
        with pytest.raises(UnavailableError, match=r"127\.0\.0\.1:1"):
            await nobody.status()
        with pytest.raises(UnavailableError):
            await nobody.wait_ready(0.2)


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        wanted = settings(tmp_path, port=port)
        with pytest.raises(PortInUseError, match=str(port)):
            asyncio.run(serve(wanted, asyncio.Event()))


async def test_metrics_are_served_over_http_on_wish(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    async with running(settings(tmp_path, metrics_port=port)):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
        body = await reader.read()
        writer.close()
    assert b"airan_orchestrator_partition_sms" in body
