"""What Ray Serve asks its replica: whether the server in it answers."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from airan.core.errors import PortInUseError, UnavailableError
from airan.core.ports import free_ports
from marketplace import replica as replica_module
from marketplace.gateway import GatewaySettings
from tests.marketplace.site import gateway_settings


@pytest.fixture
def go_on(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """While it is not set, the gateway's event loop hangs in whatever is asked."""
    go_on = threading.Event()
    go_on.set()

    async def answer(_: Request) -> Response:
        go_on.wait(30.0)
        return PlainTextResponse("ok")

    def build_app(_: GatewaySettings, own_url: str) -> Starlette:
        async def who(_: Request) -> Response:
            return PlainTextResponse(own_url)

        return Starlette(routes=[Route("/healthz", answer), Route("/who", who)])

    monkeypatch.setattr(replica_module, "build_app", build_app)
    return go_on


def gateway(folder: Path, port: int, **changes: Any) -> replica_module.Gateway:
    return replica_module.Gateway(gateway_settings(folder, port=port, **changes))


def test_a_replica_that_hangs_or_has_ended_is_not_healthy(
    go_on: threading.Event, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = gateway(tmp_path, *free_ports(1))
    replica.check_health()
    go_on.clear()
    with monkeypatch.context() as impatient:
        impatient.setattr(replica_module, "HEALTH_S", 0.2)
        with pytest.raises(httpx.TimeoutException):
            replica.check_health()
    go_on.set()
    replica.check_health()
    replica.__del__()
    with pytest.raises(UnavailableError, match="has ended"):
        replica.check_health()


def test_a_port_that_is_taken_is_named(go_on: threading.Event, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    first = gateway(tmp_path, port)
    first.check_health()
    with pytest.raises(PortInUseError, match=f"port {port} for the gateway"):
        gateway(tmp_path, port)
    first.__del__()


def test_several_replicas_share_the_port_and_each_answers_at_an_address_of_its_own(
    go_on: threading.Event, tmp_path: Path
) -> None:
    (port,) = free_ports(1)
    several = {"gateways": 2, "database_url": "postgresql://airan@db.example/airan"}
    replicas = [gateway(tmp_path, port, **several) for _ in range(2)]
    own_urls = {replica.own_url for replica in replicas}
    assert {httpx.get(f"{url}/who", timeout=30).text for url in own_urls} == own_urls

    def answering(n_asked: int) -> set[str]:
        # A connection each: the kernel gives each to one of those that listen.
        return {httpx.get(f"http://127.0.0.1:{port}/who", timeout=30).text for _ in range(n_asked)}

    assert answering(60) == own_urls
    gone = replicas.pop()
    gone.__del__()
    assert answering(20) == own_urls - {gone.own_url}
    for replica in replicas:
        replica.check_health()
        replica.__del__()
