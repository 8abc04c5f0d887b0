"""Two gateways before one llama.cpp, which tell each other what they have under way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest

from marketplace.dispatch import Dispatcher
from marketplace.gateway import build_app
from marketplace.siblings.sibling import Report, Sibling
from tests.marketplace.site import (
    MODEL,
    FakeControl,
    eventually,
    gateway_settings,
    new_key,
    running_app,
)

STORY = [{"role": "user", "content": "Tell me a long story about a fox and the sea."}]
BEAT_S = 0.05
"""Between two reports."""


@dataclass
class Gateway:
    dispatcher: Dispatcher
    client: openai.AsyncOpenAI
    most_running: int = 0

    async def ask(self, **parameters: Any) -> Any:
        return await self.client.chat.completions.create(
            model=MODEL, messages=STORY, **{"temperature": 0, **parameters}
        )

    def begin(self, n: int, **parameters: Any) -> list[asyncio.Task[Any]]:
        return [asyncio.create_task(self.ask(**parameters)) for _ in range(n)]

    @property
    def n_running(self) -> int:
        return len(self.dispatcher.running)

    @property
    def n_waiting(self) -> int:
        return len(self.dispatcher.waiting)


@dataclass
class Pair:
    """Both, and what their engine had to do at any beat."""

    gateways: list[Gateway]
    control: FakeControl
    seen: list[int]
    """How many ran on the engine, at each beat."""

    def exchange(self) -> None:
        reports = [one.dispatcher.report() for one in self.gateways]
        self.seen.append(sum(sum(use.running) for one in reports for use in one.engines.values()))
        # As it goes over the database.
        told = [Report.from_dict(one.to_dict()) for one in reports]
        for seat, gateway in enumerate(self.gateways):
            others = [Sibling(f"life-{n}", n, "", told[n]) for n in range(len(told)) if n != seat]
            gateway.dispatcher.meet(others, seat)

    async def beat(self) -> None:
        while True:
            self.exchange()
            await asyncio.sleep(BEAT_S)


@pytest.fixture
async def pair(agent_url: str, control: FakeControl, tmp_path: Path) -> AsyncIterator[Pair]:
    async with AsyncExitStack() as stack:
        gateways = []
        for name in ("a", "b"):
            app = build_app(gateway_settings(tmp_path / name, agent_url))
            url = await stack.enter_async_context(running_app(app))
            client = openai.AsyncOpenAI(
                base_url=f"{url}/v1", api_key=await new_key(url), max_retries=0
            )
            await stack.enter_async_context(client)
            gateways.append(Gateway(app.state.runtime.dispatcher, client))
        found = Pair(gateways, control, [])
        await eventually(
            lambda: all(
                engine.state.phase == "ready"
                for one in gateways
                for engine in one.dispatcher.pool.engines
            )
        )
        beating = asyncio.create_task(found.beat())
        yield found
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)


def tokens_of(answers: list[Any]) -> int:
    return sum(answer.usage.completion_tokens for answer in answers)


async def test_a_busy_gateway_has_all_places_until_the_other_needs_some(pair: Pair) -> None:
    busy, other = pair.gateways
    first = busy.begin(8, max_tokens=60)
    await eventually(lambda: (busy.n_running, busy.n_waiting) == (4, 4))
    await eventually(lambda: len(pair.seen) > 2)
    second = other.begin(8, max_tokens=60)
    await eventually(lambda: (busy.n_running, other.n_running) == (2, 2))
    answers = await asyncio.gather(*first, *second)
    assert tokens_of(answers) == 16 * 60
    assert max(pair.seen) == 4


async def test_priority_work_has_a_place_from_flex_work_at_the_other_gateway(pair: Pair) -> None:
    busy, other = pair.gateways
    (whole,) = await asyncio.gather(*other.begin(1, max_tokens=150))
    flex = busy.begin(4, max_tokens=150, service_tier="flex")
    await eventually(lambda: busy.n_running == 4)
    await eventually(lambda: all(job.token_ids for job in busy.dispatcher.running))
    urgent = await other.ask(max_tokens=5, service_tier="priority")
    assert urgent.usage.completion_tokens == 5
    # It did not wait until one of them had ended.
    assert busy.n_running + busy.n_waiting == 4
    answers = await asyncio.gather(*flex)
    assert [answer.choices[0].message.content for answer in answers] == (
        [whole.choices[0].message.content] * 4
    )
    n_cuts = sum(
        answer.usage.model_extra.get("airan", {}).get("preemptions", 0) for answer in answers
    )
    assert n_cuts >= 1
    assert max(pair.seen) == 4


async def test_both_go_on_after_a_revocation(pair: Pair) -> None:
    tasks = [task for one in pair.gateways for task in one.begin(3, max_tokens=60)]
    await eventually(lambda: sum(one.n_running for one in pair.gateways) == 4)
    await pair.control.revoke()
    pair.control.offer()
    answers = await asyncio.gather(*tasks)
    assert tokens_of(answers) == 6 * 60
    assert all(late_s < 0 for late_s in pair.control.released_late_s)


async def test_a_smaller_lease_carries_the_shares_of_both(pair: Pair) -> None:
    tasks = [task for one in pair.gateways for task in one.begin(4, max_tokens=100)]
    await eventually(lambda: [one.n_running for one in pair.gateways] == [2, 2])
    pair.control.resize(32)
    await eventually(lambda: [one.n_running for one in pair.gateways] == [1, 1])
    answers = await asyncio.gather(*tasks)
    assert tokens_of(answers) == 8 * 100


async def test_they_use_slots_apart_and_price_alike(pair: Pair) -> None:
    tasks = [task for one in pair.gateways for task in one.begin(2, max_tokens=60)]
    await eventually(lambda: [one.n_running for one in pair.gateways] == [2, 2])
    pair.exchange()
    (used_a,), (used_b,) = (one.dispatcher.report().engines.values() for one in pair.gateways)
    assert (used_a.slots, used_b.slots) == ((0, 2), (1, 3))
    assert [one.dispatcher.free_share() for one in pair.gateways] == [0.0, 0.0]
    assert [one.dispatcher.load(MODEL) for one in pair.gateways] == [4, 4]
    await asyncio.gather(*tasks)
