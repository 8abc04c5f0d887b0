"""Invocations over gRPC, by a real client, with a real engine and containers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import pytest_asyncio
from aiohttp import web
from google.rpc import error_details_pb2 as details
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from airan.core.errors import PortInUseError
from airan.core.ports import free_ports
from marketplace.gateway import build_app
from marketplace.gateway.runtime import Runtime
from marketplace.grpc_api import invocation_pb2 as pb
from marketplace.grpc_api import invocation_pb2_grpc as rpc
from marketplace.grpc_api.server import SERVICE, InvocationServer
from marketplace.meter import Meter
from tests.marketplace.container import Container, running_container
from tests.marketplace.site import (
    MODEL,
    FakeControl,
    admin_get,
    eventually,
    gateway_settings,
    new_key,
    running_agent,
    running_app,
)
from tests.marketplace.tool_engines import CLOCK

pytestmark = pytest.mark.asyncio(loop_scope="module")
# Else channels of one process share a connection, and with it a server.
ALONE = (("grpc.use_local_subchannel_pool", 1),)
STORY = {"messages": [{"role": "user", "content": "Tell me a story."}], "temperature": 0}
# A greedy answer to this does not end by itself before its deadline or its caller has gone.
LONG = {
    "messages": [{"role": "user", "content": "Write a very long story."}],
    "max_tokens": 1900,
}


class Site:
    """A gateway that takes invocations over HTTP and gRPC, and a container it may call."""

    def __init__(self, url: str, channel: grpc.aio.Channel, container: Container) -> None:
        self.url, self.channel, self.container = url, channel, container
        self.stub = rpc.InvocationServiceStub(channel)
        self.key = ""

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.key}"),)

    async def deploy(self, key: str | None = None) -> str:
        headers = {"Authorization": f"Bearer {key or self.key}"}
        body = {"name": "echo", "url": f"http://{self.container.host}"}
        async with httpx.AsyncClient(base_url=self.url, headers=headers, timeout=30) as http:
            made = await http.post("/v2/nvcf/functions", json=body)
        return str(made.json()["function"]["id"])

    async def invoke(self, function_id: str = MODEL, wait_s: float = 30, **extra: Any) -> Any:
        """`extra`: body, and metadata beside the key."""
        body = json.dumps(extra.pop("body", STORY | {"max_tokens": 6})).encode()
        request = pb.InvokeRequest(function_id=function_id, body=body, wait_s=wait_s)
        metadata = self.metadata + tuple(extra.items())
        return (await self.stub.Invoke(request, metadata=metadata)).invocation

    def stream(self, function_id: str = MODEL, **body: Any) -> Any:
        request = pb.InvokeStreamRequest(
            function_id=function_id, body=json.dumps(STORY | body).encode()
        )
        return self.stub.InvokeStream(request, metadata=self.metadata, timeout=60)

    async def get(self, job_id: str, wait_s: float = 30) -> Any:
        request = pb.GetInvocationRequest(id=job_id, wait_s=wait_s)
        return (await self.stub.GetInvocation(request, metadata=self.metadata)).invocation

    async def cancel(self, job_id: str) -> Any:
        request = pb.CancelInvocationRequest(id=job_id)
        return (await self.stub.CancelInvocation(request, metadata=self.metadata)).invocation

    async def stats(self) -> Any:
        return (await admin_get(self.url, "stats"))["requests"]


@asynccontextmanager
async def running_site(folder: Path, agent_url: str) -> AsyncIterator[Site]:
    async with AsyncExitStack() as stack:
        container = await stack.enter_async_context(running_container())
        settings = replace(
            gateway_settings(folder, agent_url), grpc_port=0, function_hosts=(container.host,)
        )
        app = build_app(settings)
        url = await stack.enter_async_context(running_app(app))
        target = f"127.0.0.1:{app.state.grpc_port}"
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(target))
        yield Site(url, channel, container)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    folder = tmp_path_factory.mktemp("grpc")
    async with (
        running_agent(model_path, FakeControl()) as agent_url,
        running_site(folder, agent_url) as site,
    ):
        site.key = await new_key(site.url)
        yield site


@pytest_asyncio.fixture(loop_scope="module")
async def site(shared: Site) -> AsyncIterator[Site]:
    yield shared
    shared.container.go.set()
    shared.container.received.clear()
    shared.container.answers.clear()

    async def idle() -> bool:
        counts = await shared.stats()
        return not counts["running"] and not counts["waiting"]

    # No test leaves anything running at the engine.
    await eventually(idle)


def reason_of(error: grpc.aio.AioRpcError) -> str:
    info = details.ErrorInfo()
    status = rpc_status.from_call(error)
    assert any(detail.Unpack(info) for detail in status.details)
    return info.reason


async def test_a_model_is_invoked_and_its_completion_comes_back(site: Site) -> None:
    done = await site.invoke()
    assert done.state == pb.INVOCATION_STATE_COMPLETED
    answer = json.loads(done.result.body)
    assert answer["usage"]["completion_tokens"] == done.usage.output_tokens == 6
    assert (done.result.http_status, done.result.content_type) == (200, "application/json")
    assert await site.get(done.id) == done


async def test_a_stream_has_the_same_text_as_the_whole_answer(site: Site) -> None:
    whole = json.loads((await site.invoke(body=STORY | {"max_tokens": 12})).result.body)
    events = [event async for event in site.stream(max_tokens=12)]
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds[0] == "accepted"
    assert kinds[-1] == "finished"
    texts = [event.text for event in events if event.WhichOneof("event") == "text"]
    assert len(texts) > 3
    assert "".join(texts) == whole["choices"][0]["message"]["content"]
    finished = events[-1].finished
    assert finished.finish_reason == whole["choices"][0]["finish_reason"]
    assert finished.usage.output_tokens == whole["usage"]["completion_tokens"]


async def test_a_caller_that_cancels_its_stream_stops_the_engine(site: Site) -> None:
    before = await site.stats()
    call = site.stream(**LONG)
    async for event in call:
        if event.WhichOneof("event") == "text":
            break
    call.cancel()

    async def ended() -> bool:
        counts = await site.stats()
        return counts["running"] == 0 and counts["cancelled"] == before["cancelled"] + 1

    # The whole answer would take several times as long.
    await eventually(ended, 15)
    tokens = (await admin_get(site.url, "stats"))["tokens"]["output"]
    # A new answer begins at once: the engine does not work on the old one any more.
    assert (await site.invoke()).state == pb.INVOCATION_STATE_COMPLETED
    assert (await admin_get(site.url, "stats"))["tokens"]["output"] == tokens + 6


async def test_a_deadline_that_passes_stops_the_engine(site: Site) -> None:
    before = await site.stats()
    body = json.dumps(STORY | LONG).encode()
    request = pb.InvokeStreamRequest(function_id=MODEL, body=body)
    # Long enough for the request to be accepted, wherever it runs.
    call = site.stub.InvokeStream(request, metadata=site.metadata, timeout=3.0)
    with pytest.raises(grpc.aio.AioRpcError) as late:
        async for _ in call:
            pass
    assert late.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED

    async def ended() -> bool:
        return (await site.stats())["cancelled"] == before["cancelled"] + 1

    await eventually(ended, 15)


async def test_an_invocation_goes_on_without_its_caller_until_it_is_cancelled(site: Site) -> None:
    started = await site.invoke(wait_s=0, body=STORY | LONG)
    assert started.state in (pb.INVOCATION_STATE_QUEUED, pb.INVOCATION_STATE_RUNNING)

    async def running() -> bool:
        return (await site.get(started.id, 0)).state == pb.INVOCATION_STATE_RUNNING

    await eventually(running)
    cancelled = await site.cancel(started.id)
    assert cancelled.state == pb.INVOCATION_STATE_CANCELLED
    assert (await site.stats())["running"] == 0
    assert (await site.cancel(started.id)).state == pb.INVOCATION_STATE_CANCELLED


async def test_a_container_is_invoked_whole_and_as_a_stream(site: Site) -> None:
    function_id = await site.deploy()
    done = await site.invoke(function_id, body={"x": 1})
    assert json.loads(done.result.body) == {"x": 1}
    large = "x" * 200_000
    events = [event async for event in site.stream(function_id, text=large)]
    pieces = [event.data for event in events if event.WhichOneof("event") == "data"]
    assert len(pieces) > 2
    assert json.loads(b"".join(pieces))["text"] == large
    assert events[-1].finished.content_type.startswith("application/json")


async def test_a_container_whose_caller_leaves_is_not_billed(site: Site) -> None:
    function_id = await site.deploy()
    site.container.go.clear()
    call = site.stream(function_id)
    accepted = (await call.read()).accepted
    await eventually(lambda: site.container.received)
    call.cancel()

    async def cancelled() -> bool:
        return (await site.get(accepted.id, 0)).state == pb.INVOCATION_STATE_CANCELLED

    before = (await admin_get(site.url, "usage"))["total_micro_usd"]
    await eventually(cancelled)
    site.container.go.set()
    assert (await admin_get(site.url, "usage"))["total_micro_usd"] == before


async def test_what_a_container_refuses_is_told(site: Site) -> None:
    function_id = await site.deploy()
    site.container.answers += [web.Response(status=418, text="a teapot") for _ in range(2)]
    failed = await site.invoke(function_id)
    assert failed.state == pb.INVOCATION_STATE_FAILED
    assert failed.failure.code == "function_refused"
    assert "a teapot" in failed.failure.message
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        async for _ in site.stream(function_id):
            pass
    assert reason_of(refused.value) == "FUNCTION_REFUSED"


async def test_a_call_under_a_key_is_accepted_once(site: Site) -> None:
    before = await site.stats()
    calls = [site.invoke(**{"idempotency-key": "a"}) for _ in range(3)]
    made = await asyncio.gather(*calls, return_exceptions=True)
    done = [one for one in made if isinstance(one, pb.Invocation)]
    busy = [one for one in made if isinstance(one, grpc.aio.AioRpcError)]
    assert done
    assert {one.code() for one in busy} <= {grpc.StatusCode.ABORTED}
    again = await site.invoke(**{"idempotency-key": "a"})
    assert {one.id for one in done} == {again.id}
    assert (await site.stats())["received"] == before["received"] + 1
    with pytest.raises(grpc.aio.AioRpcError) as differs:
        await site.invoke(body=STORY | {"max_tokens": 7}, **{"idempotency-key": "a"})
    assert differs.value.code() == grpc.StatusCode.ALREADY_EXISTS


async def test_nobody_is_served_without_a_key(site: Site) -> None:
    for metadata in ((), (("authorization", "Bearer no"),), (("authorization", site.key),)):
        for call in (
            site.stub.Invoke(pb.InvokeRequest(function_id=MODEL), metadata=metadata),
            site.stub.GetInvocation(pb.GetInvocationRequest(id="x"), metadata=metadata),
            site.stub.CancelInvocation(pb.CancelInvocationRequest(id="x"), metadata=metadata),
            site.stub.InvokeStream(pb.InvokeStreamRequest(), metadata=metadata).read(),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call
            assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED


async def test_another_tenants_invocations_and_functions_do_not_exist(site: Site) -> None:
    function_id, mine = await site.deploy(), await site.invoke()
    own_key, site.key = site.key, await new_key(site.url, "umbrella")
    try:
        for call in (site.get(mine.id), site.cancel(mine.id), site.invoke(function_id)):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call
            assert refused.value.code() == grpc.StatusCode.NOT_FOUND
    finally:
        site.key = own_key


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"body": STORY | {"stream": True}}, "stream"),
        ({"body": STORY | {"logprobs": True}}, "logprobs"),
        ({"body": STORY | {"tools": [CLOCK]}}, "tools"),
        ({"body": STORY | {"temperature": 9}}, "temperature"),
        ({"wait_s": 301}, "wait_s"),
        ({"wait_s": float("nan")}, "wait_s"),
        ({"function_id": ""}, "function_id"),
    ],
)
async def test_what_is_wrong_is_named(site: Site, changes: dict[str, Any], field: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await site.invoke(**changes)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    bad = details.BadRequest()
    assert any(one.Unpack(bad) for one in rpc_status.from_call(refused.value).details)
    assert [one.field for one in bad.field_violations] == [field]


async def test_a_stream_offers_no_functions(site: Site) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="not streamed here") as refused:
        await site.stream(tools=[CLOCK]).read()
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_the_service_says_that_it_is_well(site: Site) -> None:
    health = health_pb2_grpc.HealthStub(site.channel)
    answer = await health.Check(health_pb2.HealthCheckRequest(service=SERVICE))
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_an_invocation_outlives_the_gateway(model_path: Path, tmp_path: Path) -> None:
    async with running_site(tmp_path, "http://127.0.0.1:9") as before:
        key = before.key = await new_key(before.url)
        sent = await before.invoke(wait_s=0)
        assert (sent.state, sent.position_in_queue) == (pb.INVOCATION_STATE_QUEUED, 1)
    async with (
        running_agent(model_path, FakeControl()) as agent_url,
        running_site(tmp_path, agent_url) as after,
    ):
        after.key = key
        assert (await after.get(sent.id)).state == pb.INVOCATION_STATE_COMPLETED


def grpc_server(folder: Path, port: int, **changes: Any) -> InvocationServer:
    settings = gateway_settings(folder, grpc_port=port, **changes)
    return InvocationServer(Runtime(settings, CLOCK, Meter()))


async def is_serving(port: int) -> bool:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", ALONE) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=SERVICE), timeout=10)
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


async def test_a_lone_gateway_has_its_grpc_port_for_itself(tmp_path: Path) -> None:
    first = grpc_server(tmp_path, 0)
    port = await first.start()
    for taken in (
        grpc_server(tmp_path, port),
        grpc_server(tmp_path, port, gateways=2, database_url="postgresql://db.example/airan"),
    ):
        with pytest.raises(PortInUseError, match=r"gRPC cannot be had"):
            await taken.start()
        await taken.stop()
    await first.stop()


async def test_several_gateways_share_the_grpc_port(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    several = {"gateways": 2, "database_url": "postgresql://db.example/airan"}
    servers = [grpc_server(tmp_path, port, **several) for _ in range(2)]
    for server in servers:
        assert await server.start() == port
    assert await is_serving(port)
    for server in servers:
        # The one that is left takes all connections.
        assert await is_serving(port)
        await server.stop()
    with pytest.raises(grpc.aio.AioRpcError):
        await is_serving(port)
