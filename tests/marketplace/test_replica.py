"""What Ray Serve asks its replica: whether the server in it answers."""

from __future__ import annotations

import threading
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from airan.core.errors import PortInUseError, UnavailableError
from marketplace import replica as replica_module
from tests.marketplace.site import free_ports, gateway_settings


@pytest.fixture
def go_on(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """While it is not set, the gateway's event loop hangs in whatever is asked."""
    go_on = threading.Event()
    go_on.set()

    async def answer(_: Request) -> Response:
        go_on.wait(30.0)
        return PlainTextResponse("ok")

    app = Starlette(routes=[Route("/healthz", answer)])
    monkeypatch.setattr(replica_module, "build_app", lambda _: app)
    return go_on


def gateway(folder: Path, port: int) -> replica_module.Gateway:
    return replica_module.Gateway(gateway_settings(folder, port=port))


def test_a_replica_that_hangs_or_has_ended_is_not_healthy(
    go_on: threading.Event, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = gateway(tmp_path, *free_ports(1))
    replica.check_health()
    monkeypatch.setattr(replica_module, "HEALTH_S", 0.2)
    go_on.clear()
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
