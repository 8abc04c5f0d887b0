"""The dashboard's web server."""

import asyncio
import json
import socket

import httpx
import pytest

from airan.core.errors import PortInUseError
from airan.dashboard.app import serve
from airan.site.snapshot import SiteEvent, SiteSnapshot
from tests.dashboard.conftest import RunningDashboard, settings_for
from tests.dashboard.scripted_site import ScriptedSite


@pytest.fixture
async def client(dashboard: RunningDashboard):
    async with httpx.AsyncClient(base_url=dashboard.url, trust_env=False) as client:
        yield client


async def test_the_stream_sends_history_then_snapshots(client: httpx.AsyncClient) -> None:
    names: list[str] = []
    async with client.stream("GET", "/events") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        async for line in response.aiter_lines():
            if line.startswith("event: "):
                names.append(line.removeprefix("event: "))
            if line.startswith("data: "):
                json.loads(line.removeprefix("data: "))
            if names.count("snapshot") == 3:
                break
    assert names[0] == "history"
    assert set(names[1:]) <= {"snapshot", "event"}


async def test_the_page_may_load_nothing_from_elsewhere(client: httpx.AsyncClient) -> None:
    response = await client.get("/")
    assert response.status_code == 200
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["x-frame-options"] == "DENY"
    assert "http://" not in response.text
    assert "https://" not in response.text


async def test_a_foreign_host_name_is_refused(client: httpx.AsyncClient) -> None:
    response = await client.get("/", headers={"Host": "attacker.example:8090"})
    assert response.status_code == 421
    assert "attacker.example" in response.text


async def test_health_is_told(client: httpx.AsyncClient) -> None:
    response = await client.get("/healthz")
    assert response.status_code == 200
    assert response.json() == {"status": "ok"}


@pytest.mark.parametrize("path", ["/docs", "/openapi.json", "/static/../app.py", "/nothing"])
async def test_nothing_else_is_served(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.get(path)).status_code == 404


@pytest.mark.parametrize("path", ["uplot/LICENSE", "inter/LICENSE", "VENDORED.md"])
async def test_vendored_libraries_carry_their_licences(
    client: httpx.AsyncClient, path: str
) -> None:
    assert (await client.get(f"/static/vendor/{path}")).status_code == 200


async def test_a_taken_port_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PortInUseError, match=str(port)):
            await serve(settings_for(ScriptedSite(), port), asyncio.Event())


async def test_stopping_does_not_wait_for_open_pages(dashboard: RunningDashboard) -> None:
    async with (
        httpx.AsyncClient(base_url=dashboard.url, trust_env=False) as client,
        client.stream("GET", "/events") as response,
    ):
        lines = response.aiter_lines()
        await anext(lines)
        await asyncio.wait_for(dashboard.stop(), 20)
        assert [line async for line in lines][-1] == ""


class BrokenSource:
    async def snapshot(self) -> SiteSnapshot:
        raise RuntimeError("a defect in the poller")

    async def new_events(self) -> list[SiteEvent]:
        return []


async def test_a_defect_in_the_poller_ends_the_process_instead_of_freezing_the_page() -> None:
    settings = settings_for(ScriptedSite())
    with pytest.raises(RuntimeError, match="a defect in the poller"):
        await asyncio.wait_for(serve(settings, asyncio.Event(), source=BrokenSource()), 30)
