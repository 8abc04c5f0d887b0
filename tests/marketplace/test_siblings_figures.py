"""Whichever gateway is asked, it gives the figures of all that share its port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from airan.core.ports import free_ports
from marketplace.asgi import bind
from marketplace.gateway import GatewaySettings, build_app
from marketplace.meter import Meter
from marketplace.siblings import asking
from marketplace.siblings.figures import joined
from marketplace.siblings.metrics import merged
from marketplace.store.database import Database
from marketplace.store.ledger import Outcome
from tests.marketplace.site import (
    MODEL,
    admin_get,
    eventually,
    gateway_settings,
    new_key,
    running_app,
    running_gateway,
)

COMPLETED = "airan_marketplace_requests_total"
READY = "airan_marketplace_engines_ready"
UNHEARD = "airan_marketplace_gateways_unheard_total"


def figures(n_completed: int) -> str:
    meter = Meter()
    for _ in range(n_completed):
        meter.finished(Outcome("completed", 3, 5, ttft_ms=20.0))
        meter.first_token(20.0)
    return meter.text().decode()


def sampled(text: str, name: str) -> dict[tuple[tuple[str, str], ...], float]:
    """Values by labels."""
    return {
        tuple(sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    }


def test_each_sample_says_whose_it_is_and_none_is_lost() -> None:
    texts = {0: figures(2), 3: figures(7)}
    text = merged(texts).decode()
    assert sampled(text, COMPLETED) == {
        (("gateway", "0"), ("state", "completed")): 2.0,
        (("gateway", "3"), ("state", "completed")): 7.0,
    }
    seconds = "airan_marketplace_time_to_first_token_seconds"
    assert len(sampled(text, f"{seconds}_bucket")) == 2 * len(
        sampled(texts[0], f"{seconds}_bucket")
    )
    assert sampled(text, f"{seconds}_count")[(("gateway", "3"),)] == 7.0
    # A scraper refuses a family that is there twice.
    heads = [line for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(heads) == len(set(heads)) > 10
    kinds = {family.name: family.type for family in text_string_to_metric_families(text)}
    assert kinds == {one.name: one.type for one in text_string_to_metric_families(texts[0])}


@asynccontextmanager
async def probed(hung: asyncio.Event | None = None) -> AsyncIterator[str]:
    """Another gateway as far as its probes; its address."""

    async def answer(request: Request) -> Response:
        if hung is not None:
            await hung.wait()
        assert request.url.path == "/healthz" or request.query_params["own"] == "true"
        return PlainTextResponse(figures(7))

    async with running_app(
        Starlette(routes=[Route("/metrics", answer), Route("/healthz", answer)])
    ) as url:
        yield url


@asynccontextmanager
async def served(settings: GatewaySettings) -> AsyncIterator[str]:
    """A gateway that knows its own address."""
    listener = bind("127.0.0.1", 0, "the gateway", "port")
    own_url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    async with running_app(build_app(settings, own_url=own_url), listener) as url:
        yield url


@asynccontextmanager
async def seated(url: str, database_url: str) -> AsyncIterator[int]:
    """Another gateway's seat, as long as it has it; the number."""
    db = Database(database_url)
    seats = db.seats(f"gw-at-{url}", url, [])
    await asyncio.to_thread(seats.take, 0.0)
    try:
        yield seats.number
    finally:
        await asyncio.to_thread(seats.leave)
        db.close()


async def test_who_does_not_answer_in_time_is_left_out_and_counted(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three others one answers, one hangs and one is not there."""
    monkeypatch.setattr(asking, "ANSWER_S", 0.5)
    settings = gateway_settings(tmp_path, database_url=postgres_url, gateways=4)
    hung = asyncio.Event()
    (port,) = free_ports(1)
    async with (
        running_gateway(settings) as url,
        httpx.AsyncClient(base_url=url, timeout=30) as http,
        probed() as well,
        probed(hung) as silent,
        seated(well, postgres_url),
        seated(silent, postgres_url),
        seated(f"http://127.0.0.1:{port}", postgres_url) as last,
    ):
        assert last == 3

        async def unheard() -> float:
            own = (await http.get("/metrics", params={"own": True})).text
            return sampled(own, UNHEARD)[()]

        async def all_known() -> str:
            before = await unheard()
            text = (await http.get("/metrics")).text
            return text if await unheard() == before + 2 else ""

        text = await eventually(all_known)
        assert sampled(text, COMPLETED) == {(("gateway", "1"), ("state", "completed")): 7.0}
        assert {dict(labels)["gateway"] for labels in sampled(text, UNHEARD)} == {"0", "1"}
        assert (await http.get("/readyz")).json()["gateways"] == 2
        hung.set()


async def test_two_gateways_give_the_same_figures_whichever_is_asked(
    postgres_url: str, tmp_path: Path
) -> None:
    settings = gateway_settings(tmp_path, database_url=postgres_url, gateways=2)
    async with served(settings) as one, served(settings) as two:

        async def numbers(url: str) -> set[str]:
            async with httpx.AsyncClient(base_url=url, timeout=30) as http:
                text = (await http.get("/metrics")).text
                assert (await http.get("/readyz")).json()["gateways"] <= 2
            return {dict(labels)["gateway"] for labels in sampled(text, READY)}

        for url in (one, two):

            async def both(url: str = url) -> bool:
                return await numbers(url) == {"0", "1"}

            await eventually(both)


def test_what_each_gateway_has_under_way_adds_up() -> None:
    def live(n_running: int, ttft_ms: float) -> dict[str, Any]:
        engine = {"name": "engine-0", "url": "http://engine", "running": n_running}
        busy = {"waiting": 1, "running": n_running, "output_tokens": 9, "tokens_per_s": 0.5}
        shown = {"engines": [engine], "time_to_first_token_ms": {"p50": ttft_ms, "p99": ttft_ms}}
        return {**busy, **shown}

    own, there = live(1, 10.0), live(2, 30.0)
    elsewhere = live(4, 30.0) | {"engines": [{"name": "e", "url": "http://other", "running": 4}]}
    found = joined(own, [there, {}, elsewhere], [10.0, 20.0, 30.0])
    assert (found["waiting"], found["running"], found["tokens_per_s"]) == (3, 7, 1.5)
    assert found["engines"] == [{"name": "engine-0", "url": "http://engine", "running": 3}]
    assert found["time_to_first_token_ms"] == {"p50": 20.0, "p99": 30.0}
    assert set(found) == set(own)


async def test_whichever_gateway_is_asked_tells_of_the_requests_of_both(
    postgres_url: str, tmp_path: Path
) -> None:
    settings = gateway_settings(tmp_path, database_url=postgres_url, gateways=2, engine_wait_s=0.1)
    async with served(settings) as one, served(settings) as two:
        key = await new_key(one)
        headers = {"Authorization": f"Bearer {key}", "NVCF-POLL-SECONDS": "0"}
        body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
        path = f"/v2/nvcf/pexec/functions/{MODEL}"
        for url in (one, two, two):
            async with httpx.AsyncClient(base_url=url, headers=headers, timeout=30) as http:
                assert (await http.post(path, json=body)).status_code == 202
        for url in (one, two):

            async def all_wait(url: str = url) -> bool:
                requests = (await admin_get(url, "stats"))["requests"]
                return bool(requests["received"] == requests["waiting"] == 3)

            await eventually(all_wait)


async def test_a_lone_gateway_gives_its_own_figures(tmp_path: Path) -> None:
    async with (
        running_gateway(gateway_settings(tmp_path)) as url,
        httpx.AsyncClient(base_url=url, timeout=30) as http,
    ):
        text = (await http.get("/metrics")).text
        assert sampled(text, READY) == {(): 0.0}
        assert "gateways" not in (await http.get("/readyz")).json()
