"""Priority work takes engines from flex work, which loses nothing but time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest

from marketplace.dispatch import TtftTargets
from marketplace.jobs import Job
from tests.marketplace.bench_of_engines import Bench, bench_of_engines
from tests.marketplace.site import (
    MODEL,
    admin_get,
    eventually,
    gateway_settings,
    new_key,
    running_gateway,
)

STORY = [{"role": "user", "content": "Tell me a long story about a fox and the sea."}]


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with bench_of_engines(tmp_path, targets=TtftTargets(5.0, 1e4, 1e4)) as bench:
        yield bench


def text_of(job: Job) -> str:
    assert job.outcome is not None
    assert job.outcome.state == "completed"
    assert job.outcome.tokens_lost == 0
    return job.text


async def test_flex_work_goes_on_where_it_was_when_the_priority_work_is_done(bench: Bench) -> None:
    engine = await bench.add_engine()
    whole = await bench.submit("undisturbed", max_tokens=30)
    await bench.run()
    flex = await bench.submit("flex", max_tokens=30, service_tier="flex")
    await bench.run(0.4)
    n_before = len(flex.token_ids)
    assert n_before > 3
    priority = await bench.submit("priority", prompt="urgent", service_tier="priority")
    await bench.run()
    assert priority.ttft_ms is not None
    assert priority.ttft_ms < 20
    assert text_of(flex) == text_of(whole)
    assert (flex.preemptions, priority.preemptions) == (1, 0)
    assert [len(prompt) for prompt in engine.served[1:]] == [6, 6, 6 + n_before]


async def teach(bench: Bench, n_tokens: int) -> None:
    """The site learns how fast its engine is, and that answers have so many tokens."""
    for _ in range(8):
        await bench.submit("lesson", max_tokens=n_tokens, service_tier="flex")
    await bench.run()


async def test_priority_waits_for_a_place_that_is_free_in_a_moment(bench: Bench) -> None:
    engine = await bench.add_engine(n_slots=8)
    await teach(bench, 20)
    running = []
    for _ in range(16):
        running.append(await bench.submit("flex", max_tokens=20, service_tier="flex"))
        await bench.run(0.125)
    n_before = engine.prefilled_tokens
    urgent = await bench.submit("urgent", prompt="urgent", service_tier="priority")
    await bench.run()
    assert [job.preemptions for job in running] == [0] * 16
    assert urgent.ttft_ms is not None
    assert urgent.ttft_ms <= 160
    # Nothing was read anew.
    assert engine.prefilled_tokens - n_before <= 16 * 6


async def test_patience_with_an_engine_that_stands_still_is_over_before_the_promise(
    bench: Bench,
) -> None:
    await bench.add_engine()
    await teach(bench, 10)
    flex = await bench.submit("flex", max_tokens=10, service_tier="flex")
    await bench.run(0.43)
    assert len(flex.token_ids) == 9
    urgent = await bench.submit("urgent", service_tier="priority")
    await bench.settle()
    # The answer should be over with its next token.
    assert bench.running() == {"flex"}
    bench.timeline.clock.advance(5.0)
    async with asyncio.timeout(20):
        while bench.running() != {"urgent"}:
            await bench.settle()
    await bench.run()
    assert (flex.preemptions, urgent.preemptions) == (1, 0)
    assert text_of(flex)


async def test_default_work_neither_preempts_nor_is_preempted(bench: Bench) -> None:
    await bench.add_engine(n_slots=2)
    jobs = [await bench.submit("running", service_tier=tier) for tier in ("default", "flex")]
    await bench.run(0.05)
    waiting = await bench.submit("default")
    await bench.settle()
    assert bench.dispatcher.waiting == [waiting]
    await bench.submit("priority", service_tier="priority")
    await bench.submit("priority too", service_tier="priority")
    await bench.run(0.01)
    assert [job.preemptions for job in jobs] == [0, 1]
    assert bench.running() == {"running", "priority"}


async def test_only_as_much_flex_work_makes_room_as_is_needed(bench: Bench) -> None:
    await bench.add_engine(n_slots=4)
    jobs = [
        await bench.submit("flex", prompt="x" * (10 * n + 10), max_tokens=50, service_tier="flex")
        for n in range(4)
    ]
    await bench.run(1.0)
    await bench.submit("priority", service_tier="priority")
    await bench.settle()
    # The one with the fewest tokens is the cheapest to resume.
    assert [job.preemptions for job in jobs] == [1, 0, 0, 0]


@pytest.fixture
async def patient(tmp_path: Path) -> AsyncIterator[Bench]:
    """Its tier of priority promises less, and lets a longer line in."""
    async with bench_of_engines(tmp_path, targets=TtftTargets(20.0, 1e4, 1e4)) as bench:
        yield bench


async def test_the_preempted_go_first_in_their_tier_and_are_never_starved(patient: Bench) -> None:
    bench = patient
    await bench.add_engine()
    first = await bench.submit("first", max_tokens=40, service_tier="flex")
    second = await bench.submit("second", max_tokens=40, service_tier="flex")
    urgent = []
    for number in range(80):
        urgent.append(await bench.submit(f"urgent {number}", service_tier="priority"))
        await bench.run(0.1)
    # An endless row of priority work passes the flex job over 32 times; then it runs to its end.
    assert first.outcome is not None
    assert second.token_ids == []
    assert text_of(first)
    await bench.run()
    assert all(map(text_of, [second, *urgent]))


async def test_every_job_is_billed_once_for_what_it_got(bench: Bench) -> None:
    await bench.add_engine(n_slots=2)
    jobs = []
    for number in range(12):
        tier = "priority" if number % 3 == 2 else "flex"
        tenant, kind = f"tenant {number % 2}", "async" if number % 2 else "sync"
        parameters = {"tenant": tenant, "kind": kind, "max_tokens": 20}
        jobs.append(await bench.submit(str(number), service_tier=tier, **parameters))
        await bench.run(0.15)
    await bench.run()
    assert all(map(text_of, jobs))
    assert sum(job.preemptions for job in jobs) >= 2
    totals = await bench.database.call(bench.database.ledger.totals)
    assert totals["states"] == {"completed": 12}
    assert (totals["input_tokens"], totals["output_tokens"]) == (12 * 6, 12 * 20)
    checked = await bench.database.call(bench.database.books.check)
    assert checked["problems"] == []


# With the real engine


@pytest.fixture
async def market(agent_url: str, tmp_path: Path) -> AsyncIterator[openai.AsyncOpenAI]:
    async with running_gateway(gateway_settings(tmp_path, agent_url)) as url:
        key = await new_key(url)
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client:
            yield client


def root(client: openai.AsyncOpenAI) -> str:
    return str(client.base_url).removesuffix("/v1/")


async def ask(client: openai.AsyncOpenAI, **parameters: Any) -> Any:
    defaults: dict[str, Any] = {"model": MODEL, "messages": STORY, "temperature": 0}
    return await client.chat.completions.create(**(defaults | parameters))


async def read(stream: Any) -> tuple[str, int]:
    text, preemptions = "", 0
    async for chunk in stream:
        if chunk.choices:
            text += chunk.choices[0].delta.content or ""
            preemptions = (chunk.model_extra.get("airan") or {}).get("preemptions", 0)
    return text, preemptions


async def test_a_priority_request_interrupts_flex_streams_that_then_go_on(
    market: openai.AsyncOpenAI,
) -> None:
    whole = (await ask(market, max_tokens=60)).choices[0].message.content
    streams = [
        asyncio.create_task(
            read(await ask(market, max_tokens=60, stream=True, service_tier="flex"))
        )
        for _ in range(4)
    ]

    async def all_running() -> bool:
        stats = await admin_get(root(market), "stats")
        return bool(stats["requests"]["running"] == 4 and stats["tokens"]["output"] > 64)

    await eventually(all_running)
    urgent = await ask(market, max_tokens=4, service_tier="priority")
    assert urgent.service_tier == "priority"
    assert not all(stream.done() for stream in streams)
    answers = await asyncio.gather(*streams)
    assert [text for text, _ in answers] == [whole] * 4
    assert sum(preemptions for _, preemptions in answers) == 1
    stats = await admin_get(root(market), "stats")
    assert stats["tokens"]["output"] == 5 * 60 + 4
    assert stats["tokens"]["lost"] == 0
    events = (await admin_get(root(market), "events"))["data"]
    assert sum("is for priority work" in event["message"] for event in events) == 1


async def test_a_tier_that_cannot_be_kept_is_refused_with_a_time_to_come_back(
    agent_url: str, tmp_path: Path
) -> None:
    targets = TtftTargets(priority=2.0, default=1.5, flex=600.0)
    settings = gateway_settings(tmp_path, agent_url, ttft_targets=targets)
    async with running_gateway(settings) as url:
        key = await new_key(url)
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client:
            # The site learns how fast its engine is, and how long answers are.
            learned = await ask(client, max_tokens=600, service_tier="flex")
            assert learned.usage.completion_tokens == 600
            streams = [
                await ask(client, max_tokens=1000, stream=True, service_tier="flex")
                for _ in range(4)
            ]

            async def all_running() -> bool:
                return bool((await admin_get(url, "stats"))["requests"]["running"] == 4)

            await eventually(all_running)
            with pytest.raises(openai.RateLimitError) as refused:
                await ask(client, max_tokens=4)
            streams.append(await ask(client, max_tokens=4, stream=True, service_tier="flex"))
            for stream in streams:
                await stream.close()
    assert refused.value.code == "resource_unavailable"
    assert int(refused.value.response.headers["Retry-After"]) >= 1
