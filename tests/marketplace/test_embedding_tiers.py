"""Embeddings by tier: who goes first, who makes room, who is refused, and what is billed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from marketplace.billing.desk import rate_limit
from marketplace.billing.limits import QuotaSpec
from marketplace.dispatch import ModelOffer, TierUnreachableError, TtftTargets
from marketplace.dispatch.embedder import EmbeddingWork
from marketplace.dispatch.queue import Tier
from marketplace.money import Price
from tests.marketplace.bench_of_engines import MODEL, Bench, SimulatedEngine, bench_of_engines

TARGETS = TtftTargets(priority=1.0, default=3.0, flex=1000.0)
OFFER = ModelOffer(MODEL, 4096, Price(1000, 0), "embeddings")
INPUT_S = 0.1
"""Simulated seconds for an input of 100 tokens."""


class Embeddings:
    """Asks a bench for embeddings; each input begins with a number of its request's."""

    def __init__(self, bench: Bench, engine: SimulatedEngine) -> None:
        self.bench, self.engine = bench, engine
        self._names: dict[int, str] = {}

    async def ask(
        self, name: str, tier: Tier = "default", *, n_inputs: int = 1, tenant: str = "a"
    ) -> asyncio.Task[tuple[list[list[float]], int]]:
        """A request in line, at work, or refused already."""
        number = 1000 * (1 + len(self._names))
        self._names[number] = name
        inputs = [[number + n, *[1] * 99] for n in range(n_inputs)]
        work = EmbeddingWork(
            await self.bench.principal(tenant), OFFER, inputs, timeout_s=5.0, tier=tier
        )
        task = asyncio.create_task(self.bench.dispatcher.embedder.embed(work))
        await self.bench.settle()
        return task

    def order(self) -> list[str]:
        """Whose inputs the engine was given, one after the other."""
        return [self._names[tokens[0] - tokens[0] % 1000] for tokens in self.engine.served]


@pytest.fixture
async def embeddings(tmp_path: Path) -> AsyncIterator[Embeddings]:
    async with bench_of_engines(tmp_path, targets=TARGETS) as bench:
        made = Embeddings(bench, await bench.add_engine())
        # What an engine does is known only once it has done something.
        first = await made.ask("first")
        await bench.run()
        await first
        made.engine.served.clear()
        yield made


async def test_higher_tiers_go_first_and_within_a_tier_the_older(embeddings: Embeddings) -> None:
    busy = [await embeddings.ask("busy") for _ in range(2)]
    tiers: tuple[Tier, ...] = ("flex", "default", "priority", "default", "priority", "flex")
    asked = [await embeddings.ask(f"{tier} {n}", tier) for n, tier in enumerate(tiers)]
    await embeddings.bench.run()
    await asyncio.gather(*busy, *asked)
    wanted = ["priority 2", "priority 4", "default 1", "default 3", "flex 0", "flex 5"]
    assert embeddings.order() == ["busy", "busy", *wanted]


async def test_a_tenant_with_many_requests_does_not_hold_up_another(embeddings: Embeddings) -> None:
    many = [await embeddings.ask("many") for _ in range(12)]
    one = await embeddings.ask("one", tenant="b")
    await embeddings.bench.run()
    await asyncio.gather(*many, one)
    # Two are at work when it comes, and a turn of the other tenant may come before its own.
    assert embeddings.order().index("one") <= 4


async def test_flex_makes_room_between_two_inputs_and_goes_on_where_it_was(
    embeddings: Embeddings,
) -> None:
    flex = [await embeddings.ask(f"flex {n}", "flex", n_inputs=10) for n in range(2)]
    await embeddings.bench.run(2.5 * INPUT_S)
    urgent = await embeddings.ask("urgent", "priority")
    await embeddings.bench.run(1.6 * INPUT_S)
    assert urgent.done()
    await embeddings.bench.run()
    vectors = [(await task)[0] for task in flex]
    assert [[round(vector[0]) % 1000 for vector in one] for one in vectors] == [[*range(10)]] * 2
    # Nothing was made twice.
    assert len(embeddings.engine.served) == 21


async def test_default_work_is_not_interrupted(embeddings: Embeddings) -> None:
    long = [await embeddings.ask("long", n_inputs=8) for _ in range(2)]
    await embeddings.bench.run(0.5 * INPUT_S)
    urgent = await embeddings.ask("urgent", "priority")
    await embeddings.bench.run()
    await asyncio.gather(*long, urgent)
    assert embeddings.order() == ["long"] * 16 + ["urgent"]


async def test_who_cannot_be_served_in_time_is_told_when_to_come_again(
    embeddings: Embeddings,
) -> None:
    bench = embeddings.bench
    asked = [await embeddings.ask("long", n_inputs=10) for _ in range(9)]
    refused = [task for task in asked if task.done()]
    # Each takes 1 s of one of two places: six begin within 2 s, the others after 3 s or more.
    assert 6 <= len(asked) - len(refused) <= 8
    error = refused[0].exception()
    assert isinstance(error, TierUnreachableError)
    assert (error.code, error.retry_after_s is not None) == ("resource_unavailable", True)
    name = "airan_marketplace_requests_refused_total"
    counted = bench.meter.registry.get_sample_value(name, {"tier": "default"})
    assert counted == len(refused)
    flex = await embeddings.ask("flex", "flex")
    assert not flex.done()
    await bench.run((error.retry_after_s or 0.0) + 0.05)
    again = await embeddings.ask("long", n_inputs=10)
    await bench.run()
    accepted = [task for task in asked if task not in refused]
    await asyncio.gather(*accepted, flex, again)


async def test_priority_does_not_count_the_flex_work_that_makes_room(
    embeddings: Embeddings,
) -> None:
    flex = [await embeddings.ask("flex", "flex", n_inputs=40) for _ in range(2)]
    await embeddings.bench.run(0.5 * INPUT_S)
    urgent = await embeddings.ask("urgent", "priority")
    await embeddings.bench.run()
    await asyncio.gather(*flex, urgent)


async def test_a_refusal_says_what_the_quotas_have_left(embeddings: Embeddings) -> None:
    bench = embeddings.bench
    who = await bench.principal("limited")
    spec = QuotaSpec("tenant", "", requests_per_minute=50)
    await bench.database.call(bench.database.billing.set_quota, "limited", spec)
    await bench.dispatcher.desk.refresh()
    busy = [await embeddings.ask("busy", n_inputs=40) for _ in range(2)]
    inputs = [[7] * 100]
    with pytest.raises(TierUnreachableError):
        await bench.dispatcher.embedder.embed(EmbeddingWork(who, OFFER, inputs, timeout_s=5.0))
    shown = rate_limit.get()
    assert shown is not None
    assert (shown.limit_requests, shown.remaining_requests) == (50, 50)
    await bench.run()
    await asyncio.gather(*busy)


async def test_a_lease_that_goes_interrupts_and_nobody_begins_without_one(
    embeddings: Embeddings,
) -> None:
    bench = embeddings.bench
    flex = await embeddings.ask("flex", "flex", n_inputs=3)
    await bench.run(0.5 * INPUT_S)
    bench.change(0, phase="no_lease", max_concurrent=0)
    urgent = await embeddings.ask("urgent", "priority")
    await bench.run(2.0)
    # The input at work ends; the next is not begun.
    assert embeddings.order() == ["flex"]
    bench.change(0, phase="ready", max_concurrent=1)
    await bench.run()
    assert [len((await task)[0]) for task in (flex, urgent)] == [3, 1]
    assert embeddings.order()[1] == "urgent"


async def test_a_client_that_leaves_frees_its_place(embeddings: Embeddings) -> None:
    left = [await embeddings.ask("left", n_inputs=20) for _ in range(3)]
    await embeddings.bench.run(0.5 * INPUT_S)
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    stays = await embeddings.ask("stays", "priority")
    await embeddings.bench.run()
    assert (await stays)[1] == 100
    assert embeddings.order() == ["left", "left", "stays"]
