"""Revocations in the middle of answers: the client sees a pause and nothing else."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest

from marketplace.engines.host import LlamaHost
from tests.marketplace.site import (
    MODEL,
    FakeControl,
    admin_get,
    eventually,
    gateway_settings,
    new_key,
    running_gateway,
)

STORY = [{"role": "user", "content": "Tell me a long story about a fox 🦊 and the sea."}]


@dataclass
class Market:
    url: str
    client: openai.AsyncOpenAI
    control: FakeControl

    async def ask(self, **parameters: Any) -> Any:
        return await self.client.chat.completions.create(
            model=MODEL, messages=STORY, **{"temperature": 0, **parameters}
        )

    async def stats(self) -> dict[str, Any]:
        return await admin_get(self.url, "stats")

    async def kinds(self) -> list[str]:
        return [event["kind"] for event in (await admin_get(self.url, "events"))["data"]]


@pytest.fixture
async def market(agent_url: str, control: FakeControl, tmp_path: Path) -> AsyncIterator[Market]:
    async with running_gateway(gateway_settings(tmp_path, agent_url)) as url:
        key = await new_key(url)
        client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)
        async with client:
            yield Market(url, client, control)


async def read(stream: Any, chunks: list[Any] | None = None) -> tuple[str, Any]:
    """The text and the last chunk; `chunks` gets each as it comes."""
    text, seen = "", [] if chunks is None else chunks
    async for chunk in stream:
        if chunk.choices:
            text += chunk.choices[0].delta.content or ""
            seen.append(chunk)
    return text, seen[-1]


async def test_a_greedy_answer_is_the_same_over_revocations_at_random_moments(
    market: Market,
) -> None:
    whole = (await market.ask(max_tokens=120)).choices[0].message.content
    moments = random.Random(7)
    chunks: list[Any] = []

    async def revoke_now_and_then() -> None:
        for _ in range(4):
            # So many pieces later, however fast they come: sometimes none, amid the prompt.
            n_chunks = len(chunks) + moments.choice((0, 1, 3, 8, 15))
            await eventually(lambda n_chunks=n_chunks: len(chunks) >= n_chunks)
            await asyncio.sleep(moments.uniform(0.0, 0.1))
            await market.control.revoke()
            await asyncio.sleep(moments.uniform(0.0, 0.1))
            market.control.offer()
            await eventually(lambda: market.control.held)

    stream = await market.ask(max_tokens=120, stream=True)
    revoking = asyncio.create_task(revoke_now_and_then())
    text, last = await read(stream, chunks)
    await revoking
    assert text == whole
    n_preempted = last.model_extra["airan"]["preemptions"]
    assert n_preempted >= 2
    stats = await market.stats()
    assert stats["tokens"]["lost"] == 0
    assert stats["requests"]["preempted"] == 1
    assert stats["requests"]["completed"] == 2
    assert all(late_s < 0 for late_s in market.control.released_late_s)
    kinds = await market.kinds()
    assert kinds.count("request.preempted") == kinds.count("request.resumed") == n_preempted


async def test_four_streams_all_outlive_a_revocation(market: Market) -> None:
    async def one() -> tuple[str, Any]:
        return await read(await market.ask(max_tokens=40, stream=True))

    streams = [asyncio.create_task(one()) for _ in range(4)]

    async def all_running() -> bool:
        return (await market.stats())["requests"]["running"] == 4

    await eventually(all_running)
    await market.control.revoke()
    market.control.offer()
    answers = await asyncio.gather(*streams)
    assert all(last.choices[0].finish_reason == "length" for _, last in answers)
    stats = await market.stats()
    assert (stats["tokens"]["output"], stats["tokens"]["lost"]) == (160, 0)


async def test_an_answer_goes_on_when_the_engine_itself_dies(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts: list[LlamaHost] = []
    monkeypatch.setattr(LlamaHost, "running", _remembering(LlamaHost.running, hosts))
    stream = await market.ask(max_tokens=120, stream=True)
    chunks: list[Any] = []
    reading = asyncio.create_task(read(stream, chunks))
    await eventually(lambda: hosts and len(chunks) > 4)
    assert not reading.done()
    await hosts[0].stop()
    await market.control.revoke()
    market.control.offer()
    text, last = await reading
    assert text
    assert last.choices[0].finish_reason == "length"
    assert last.model_extra["airan"]["preemptions"] >= 1
    assert (await market.stats())["tokens"]["lost"] == 0


def _remembering(original: Any, seen: list[Any]) -> Any:
    async def running(host: LlamaHost) -> int:
        seen.append(host)
        return await original(host)

    return running


async def test_a_sampled_answer_says_that_it_was_resumed(market: Market) -> None:
    asking = asyncio.create_task(market.ask(max_tokens=200, temperature=1.0, seed=3))

    async def begun() -> bool:
        return (await market.stats())["tokens"]["output"] > 0

    await eventually(begun)
    await market.control.revoke()
    market.control.offer()
    answer = await asking
    assert answer.usage.model_extra["airan"] == {"preemptions": 1}


async def test_a_request_waits_for_a_lease_and_its_stream_shows_that_it_lives(
    market: Market,
) -> None:
    await market.control.revoke()
    import httpx

    headers = {"Authorization": f"Bearer {market.client.api_key}"}
    body = {"model": MODEL, "messages": STORY, "max_tokens": 3, "stream": True}
    lines: list[str] = []
    async with (
        httpx.AsyncClient(base_url=market.url, headers=headers, timeout=20) as http,
        http.stream("POST", "/v1/chat/completions", json=body) as response,
    ):
        assert response.status_code == 200
        async for line in response.aiter_lines():
            lines.append(line)
            if line == ": waiting" and not market.control.held:
                assert (await market.stats())["requests"]["waiting"] == 1
                market.control.offer()
    assert ": waiting" in lines
    assert "data: [DONE]" in lines


async def test_fewer_sms_carry_fewer_requests(market: Market) -> None:
    market.control.sm_count = 16
    await market.control.revoke()
    market.control.offer()
    await eventually(lambda: market.control.held)
    asking = [asyncio.create_task(market.ask(max_tokens=60)) for _ in range(3)]

    async def counts() -> tuple[int, int]:
        requests = (await market.stats())["requests"]
        return requests["running"], requests["waiting"]

    async def settled() -> bool:
        return await counts() == (1, 2)

    await eventually(settled)
    await asyncio.gather(*asking)
