"""A scrape of one gateway gives the figures of all that share its port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from marketplace.asgi import bind
from marketplace.gateway import GatewaySettings, build_app
from marketplace.meter import Meter
from marketplace.siblings import asking
from marketplace.siblings.metrics import merged
from marketplace.store.database import Database
from marketplace.store.ledger import Outcome
from tests.marketplace.site import (
    eventually,
    free_ports,
    gateway_settings,
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
        httpx.AsyncClient(base_url=url) as http,
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
            async with httpx.AsyncClient(base_url=url) as http:
                text = (await http.get("/metrics")).text
                assert (await http.get("/readyz")).json()["gateways"] <= 2
            return {dict(labels)["gateway"] for labels in sampled(text, READY)}

        for url in (one, two):

            async def both(url: str = url) -> bool:
                return await numbers(url) == {"0", "1"}

            await eventually(both)


async def test_a_lone_gateway_gives_its_own_figures(tmp_path: Path) -> None:
    async with (
        running_gateway(gateway_settings(tmp_path)) as url,
        httpx.AsyncClient(base_url=url) as http,
    ):
        text = (await http.get("/metrics")).text
        assert sampled(text, READY) == {(): 0.0}
        assert "gateways" not in (await http.get("/readyz")).json()
