"""`airan.invocation.v1` of a running site, by a real gRPC client: `market.grpc_port`."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from marketplace.grpc_api import invocation_pb2 as pb
from marketplace.grpc_api import invocation_pb2_grpc as rpc
from tests.e2e.conftest import MODEL, Site, eventually

pytestmark = pytest.mark.e2e

STORY = {"messages": [{"role": "user", "content": "Name three colours."}], "temperature": 0}


def channel_to(site: Site) -> grpc.Channel:
    return grpc.insecure_channel(f"127.0.0.1:{site.body['config']['market']['grpc_port']}")


def bearer(site: Site, key: str | None = None) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {site.key if key is None else key}"),)


def body(max_tokens: int) -> bytes:
    return json.dumps(STORY | {"max_tokens": max_tokens}).encode()


def said(invocation: pb.Invocation) -> str:
    return str(json.loads(invocation.result.body)["choices"][0]["message"]["content"])


def test_unary_and_stream_say_the_same_and_want_a_key(site: Site) -> None:
    with channel_to(site) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        found = health.Check(health_pb2.HealthCheckRequest(), timeout=10, wait_for_ready=True)
        assert found.status == health_pb2.HealthCheckResponse.SERVING
        stub = rpc.InvocationServiceStub(channel)
        asked = pb.InvokeRequest(function_id=MODEL, body=body(24), wait_s=60)
        invocation = stub.Invoke(asked, metadata=bearer(site), timeout=90).invocation
        assert invocation.state == pb.INVOCATION_STATE_COMPLETED
        assert 0 < invocation.usage.output_tokens <= 24
        streamed = pb.InvokeStreamRequest(function_id=MODEL, body=body(24))
        events = list(stub.InvokeStream(streamed, metadata=bearer(site), timeout=90))
        assert "".join(event.text for event in events) == said(invocation)
        assert sum(bool(event.text) for event in events) > 5
        assert events[-1].finished.usage.output_tokens == invocation.usage.output_tokens
        for wrong in ((), bearer(site, "ak-wrong")):
            with pytest.raises(grpc.RpcError) as caught:
                stub.Invoke(asked, metadata=wrong, timeout=10)
            assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.timeout(150)
def test_an_invocation_outlives_the_replica_that_accepted_it(site: Site) -> None:
    eventually(site.ready, "a working site before", 60)
    before = site.stats()["requests"]["completed"]
    with channel_to(site) as channel:
        stub = rpc.InvocationServiceStub(channel)
        asked = pb.InvokeRequest(function_id=MODEL, body=body(120), wait_s=0)
        accepted = stub.Invoke(asked, metadata=bearer(site), timeout=30).invocation
        os.kill(site.pid_of("ServeReplica"), signal.SIGKILL)

        def ended() -> Any:
            wanted = pb.GetInvocationRequest(id=accepted.id, wait_s=5)
            try:
                found = stub.GetInvocation(wanted, metadata=bearer(site), timeout=10).invocation
            except grpc.RpcError as error:
                passing = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
                if error.code() not in passing:
                    raise
                return None
            return found if found.state == pb.INVOCATION_STATE_COMPLETED else None

        eventually(lambda: bool(ended()), "the invocation is done by the next replica", 90)
        assert len(said(ended())) > 20
    assert site.stats()["requests"]["completed"] == before + 1


def test_a_port_for_grpc_that_is_taken_is_named(site: Site) -> None:
    taken = str(site.body["config"]["market"]["grpc_port"])
    second = site.environ | {
        "AIRAN_STATE_DIR": str(site.state_dir.parent / "second"),
        "AIRAN_MARKET__GRPC_PORT": taken,
    }
    other = Site(site.state_dir.parent / "second", site.front, second)
    done = other.airan("up")
    assert done.returncode != 0
    assert f"market.grpc_port: port {taken} " in " ".join((done.stderr + done.stdout).split())
