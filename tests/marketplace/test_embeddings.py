"""Embeddings by the official client: a second model beside the first, on the same lease."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from marketplace import models
from marketplace.catalogue.cache import ModelCache
from marketplace.catalogue.records import FileSource
from marketplace.dispatch import TtftTargets
from marketplace.engines.agent import EngineAgentSettings
from marketplace.engines.shelf import FurtherModel, run_shelf
from marketplace.gateway import GatewaySettings, ModelOffer, Price
from tests.marketplace.site import (
    ADMIN_KEY,
    MODEL,
    FakeControl,
    admin_get,
    eventually,
    new_key,
    running_gateway,
)

WORDS = "words"
N_CTX = 64


@asynccontextmanager
async def running_shelf(
    model_path: Path, control: FakeControl, folder: Path, both: dict[str, float] | None = None
) -> AsyncIterator[str]:
    """SmolLM2 for answers and, a second time, for embeddings; gives the first's address."""
    settings = EngineAgentSettings(
        name="engine-0", model=MODEL, model_path=model_path, port=0, background=False
    )
    cache = ModelCache(folder / "cache", folder / "state")
    source = FileSource(WORDS, models.CATALOGUE[MODEL].sha256, path=model_path)
    await asyncio.to_thread(cache.fetch, source)
    settings = replace(settings, **(both or {}))
    words = replace(settings, model=WORDS, n_ctx=N_CTX, embeddings=True, pooling="mean")
    further = [FurtherModel(words, source)]
    stop, port = asyncio.Event(), asyncio.get_running_loop().create_future()
    task = asyncio.create_task(
        run_shelf(settings, further, cache, stop, source=control, on_port=port.set_result)
    )
    try:
        await asyncio.wait({port, task}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
        yield f"http://127.0.0.1:{port.result()}"
    finally:
        stop.set()
        await task


@dataclass(frozen=True)
class Market:
    url: str
    client: openai.AsyncOpenAI
    agents: tuple[str, str]

    async def states(self, value: str) -> list[Any]:
        async with httpx.AsyncClient(timeout=30) as http:
            return [(await http.get(f"{url}/state")).json()[value] for url in self.agents]

    async def phases(self) -> list[str]:
        return await self.states("phase")


@asynccontextmanager
async def running_market(
    agents: tuple[str, str], folder: Path, targets: TtftTargets | None = None
) -> AsyncIterator[Market]:
    """A gateway before both, and a client with a key."""
    settings = GatewaySettings(
        models=(
            ModelOffer(MODEL, 2048, Price.from_usd(0.01, 0.03)),
            ModelOffer(WORDS, N_CTX, Price.from_usd(0.01, 0.0), "embeddings"),
        ),
        engine_urls=agents,
        state_dir=folder / "gateway",
        admin_key=ADMIN_KEY,
        engine_wait_s=5.0,
        ttft_targets=targets or TtftTargets(),
    )
    async with running_gateway(settings) as url:
        key = await new_key(url)
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client:
            yield Market(url, client, agents)


@pytest.fixture
async def market(model_path: Path, control: FakeControl, tmp_path: Path) -> AsyncIterator[Market]:
    async with (
        running_shelf(model_path, control, tmp_path) as shelf,
        running_market((shelf, f"{shelf}/models/{WORDS}"), tmp_path) as market,
    ):

        async def both_ready() -> bool:
            return await market.phases() == ["ready", "ready"]

        await eventually(both_ready, 30)
        yield market


def cosine(a: Sequence[float], b: Sequence[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


async def usage_of(market: Market, model: str) -> dict:
    rows = (await admin_get(market.url, "usage"))["data"]
    return next((row for row in rows if row["model"] == model), {})


async def test_texts_become_vectors_of_length_one_that_are_metered_and_billed(
    market: Market,
) -> None:
    texts = ["A cell of a radio network.", "One cell of the radio network.", "Butter melts."]
    answer = await market.client.embeddings.create(model=WORDS, input=texts)
    vectors = [one.embedding for one in answer.data]
    assert [one.index for one in answer.data] == [0, 1, 2]
    assert [math.sqrt(cosine(one, one)) for one in vectors] == pytest.approx([1.0] * 3, abs=1e-3)
    assert cosine(vectors[0], vectors[1]) > cosine(vectors[0], vectors[2])
    again = await market.client.embeddings.create(model=WORDS, input=texts[0])
    assert cosine(again.data[0].embedding, vectors[0]) > 0.999
    n_tokens = answer.usage.prompt_tokens + again.usage.prompt_tokens
    row = await usage_of(market, WORDS)
    assert (row["requests"], row["input_tokens"], row["output_tokens"]) == (2, n_tokens, 0)
    # 10 micro-USD a token.
    assert row["amount_micro_usd"] == 10 * n_tokens


async def test_each_tier_has_its_price(market: Market) -> None:
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
    dearer = {"model": WORDS, "tier": "priority", "input_micro_usd_per_1k": 30_000}
    cheaper = {"model": WORDS, "tier": "flex", "input_micro_usd_per_1k": 5_000}
    async with httpx.AsyncClient(base_url=market.url, headers=headers, timeout=30) as http:
        for price in (dearer, cheaper):
            body = price | {"output_micro_usd_per_1k": 0}
            (await http.post("/admin/v1/prices", json=body)).raise_for_status()
    due = 0
    for tier, micro_usd_a_token in (("priority", 30), ("auto", 10), ("default", 10), ("flex", 5)):
        made = await market.client.embeddings.create(
            model=WORDS, input=["Hi", "How are you?"], extra_body={"service_tier": tier}
        )
        due += made.usage.prompt_tokens * micro_usd_a_token
        assert (await usage_of(market, WORDS))["amount_micro_usd"] == due
    with pytest.raises(openai.BadRequestError, match="service_tier"):
        await market.client.embeddings.create(
            model=WORDS, input="Hi", extra_body={"service_tier": "best"}
        )


async def test_a_tier_that_cannot_be_kept_is_refused_at_once(
    model_path: Path, control: FakeControl, tmp_path: Path
) -> None:
    targets = TtftTargets(priority=1e-6)
    async with (
        running_shelf(model_path, control, tmp_path) as shelf,
        running_market((shelf, f"{shelf}/models/{WORDS}"), tmp_path, targets) as market,
    ):
        # A minute is over every now and then while a test runs; a day hardly ever.
        body = {"tenant": "acme", "requests_per_day": 50}
        headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
        async with httpx.AsyncClient(base_url=market.url, headers=headers, timeout=30) as http:
            (await http.put("/admin/v1/quotas", json=body)).raise_for_status()
        await market.client.embeddings.create(model=WORDS, input="Hi")
        with pytest.raises(openai.RateLimitError, match="tier priority") as refused:
            await market.client.embeddings.create(
                model=WORDS, input="Hi", extra_body={"service_tier": "priority"}
            )
        assert refused.value.code == "resource_unavailable"
        # Its text alone takes longer than that: to come again would not help.
        assert refused.value.response.headers["x-should-retry"] == "false"
        assert refused.value.response.headers["x-ratelimit-remaining-requests"] == "49"
        row = await usage_of(market, WORDS)
        assert row["requests"] == 1


async def test_the_chat_model_answers_beside_it(market: Market) -> None:
    answer = await market.client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "Hi"}], max_tokens=4
    )
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 0


async def test_chat_on_it_is_refused_with_where_to_go(market: Market) -> None:
    create = market.client.chat.completions.create
    with pytest.raises(openai.BadRequestError, match="/v1/embeddings") as caught:
        await create(model=WORDS, messages=[{"role": "user", "content": "Hi"}])
    assert caught.value.param == "model"
    with pytest.raises(openai.BadRequestError, match="/v1/embeddings"):
        await market.client.completions.create(model=WORDS, prompt="Hi")
    with pytest.raises(openai.BadRequestError, match="/v1/embeddings"):
        await market.client.responses.create(model=WORDS, input="Hi")
    with pytest.raises(openai.BadRequestError, match="does not support embeddings"):
        await market.client.embeddings.create(model=MODEL, input="Hi")


async def test_a_text_longer_than_the_context_is_refused_and_not_billed(market: Market) -> None:
    with pytest.raises(openai.BadRequestError, match="this model takes 1 to 64"):
        await market.client.embeddings.create(model=WORDS, input=["short", "word " * 100])
    full = await market.client.embeddings.create(model=WORDS, input=[list(range(100, 164))])
    assert full.usage.prompt_tokens == N_CTX
    assert (await usage_of(market, WORDS))["requests"] == 1


async def test_without_a_lease_nothing_is_made_and_with_the_next_it_goes_on(
    market: Market, control: FakeControl
) -> None:
    await control.revoke()
    assert await market.phases() == ["no_lease", "no_lease"]
    waiting = asyncio.create_task(market.client.embeddings.create(model=WORDS, input="Hi"))
    done, _ = await asyncio.wait({waiting}, timeout=0.5)
    assert not done
    control.offer()
    assert (await waiting).usage.prompt_tokens > 0


async def test_many_at_once_outlive_revocations_and_are_billed_once(
    market: Market, control: FakeControl
) -> None:
    async def one(number: int) -> int:
        made = await market.client.embeddings.create(model=WORDS, input=f"text {number} " * 8)
        return made.usage.prompt_tokens

    asked = [asyncio.create_task(one(number)) for number in range(40)]
    for _ in range(2):
        await asyncio.sleep(0.05)
        await control.revoke()
        control.offer()
    n_tokens = sum(await asyncio.gather(*asked))
    row = await usage_of(market, WORDS)
    assert (row["requests"], row["input_tokens"]) == (40, n_tokens)
    # Given back in time, both.
    assert max(control.released_late_s) <= 0.0


async def test_the_site_s_own_model_has_what_the_other_does_not(
    market: Market, control: FakeControl
) -> None:
    async def parts() -> list[int]:
        async with httpx.AsyncClient(timeout=30) as http:
            return [(await http.get(f"{url}/state")).json()["sm_count"] for url in market.agents]

    assert await parts() == [48, 16]
    control.resize(24)

    async def first_only() -> bool:
        return await parts() == [24, 0]

    await eventually(first_only)
    control.resize(64)

    async def shared() -> bool:
        return await parts() == [48, 16]

    await eventually(shared)


async def test_a_batch_of_embeddings_is_answered_and_billed(market: Market) -> None:
    lines = [
        {
            "custom_id": f"n{number}",
            "method": "POST",
            "url": "/v1/embeddings",
            "body": {"model": WORDS, "input": f"text {number}"},
        }
        for number in range(3)
    ]
    text = "\n".join(map(json.dumps, lines)).encode()
    made = await market.client.files.create(file=("b.jsonl", text), purpose="batch")
    batch = await market.client.batches.create(
        input_file_id=made.id, endpoint="/v1/embeddings", completion_window="24h"
    )

    async def completed() -> bool:
        return (await market.client.batches.retrieve(batch.id)).status == "completed"

    await eventually(completed, 20)
    found = await market.client.batches.retrieve(batch.id)
    assert found.output_file_id is not None
    content = (await market.client.files.content(found.output_file_id)).text
    answers = [json.loads(line)["response"]["body"] for line in content.splitlines()]
    row = await usage_of(market, WORDS)
    assert row["requests"] == 3
    assert row["input_tokens"] == sum(one["usage"]["prompt_tokens"] for one in answers)


async def test_a_quota_on_tokens_counts_embeddings(market: Market) -> None:
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
    async with httpx.AsyncClient(base_url=market.url, headers=headers, timeout=30) as http:
        body = {"tenant": "acme", "tokens_per_minute": 10}
        answer = await http.put("/admin/v1/quotas", json=body)
        assert answer.status_code < 300, answer.text
    await market.client.embeddings.create(model=WORDS, input="Hi")
    with pytest.raises(openai.RateLimitError):
        await market.client.embeddings.create(model=WORDS, input=[list(range(100, 120))])


async def test_both_models_go_cold_the_lease_goes_back_and_each_comes_when_it_is_wanted(
    model_path: Path, control: FakeControl, tmp_path: Path
) -> None:
    async with running_shelf(model_path, control, tmp_path, {"idle_s": 1.0}) as shelf:
        agents = (shelf, f"{shelf}/models/{WORDS}")
        async with running_market(agents, tmp_path) as market:

            async def cold() -> bool:
                return await market.phases() == ["cold", "cold"] and not control.held

            await eventually(cold, 30)
            control.offer()
            answer = await market.client.embeddings.create(model=WORDS, input="Hi")
            assert len(answer.data[0].embedding) > 100
            assert await market.states("n_cold_starts") == [0, 1]
            await eventually(cold, 30)
            control.offer()
            chat = await market.client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": "Hi"}], max_tokens=3
            )
            assert chat.usage is not None
            assert await market.states("n_cold_starts") == [1, 1]
            for engine in (await admin_get(market.url, "stats"))["engines"]:
                assert engine["cold_starts"] == 1
                assert 0 < engine["cold_start_s"] < 60
