"""Whose turn it is, over a dispatcher with simulated engines."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from airan.core.errors import CapacityError
from marketplace.jobs import Job
from tests.marketplace.bench_of_engines import Bench, bench_of_engines


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with bench_of_engines(tmp_path) as bench:
        yield bench


def finished(bench: Bench, jobs: list[Job]) -> list[str]:
    """Names in the order in which the jobs got their first token."""
    assert all(job.outcome is not None and job.outcome.state == "completed" for job in jobs)
    order = sorted(jobs, key=lambda job: job.started_s + (job.ttft_ms or 0.0) / 1e3)
    return [bench.names[job.id] for job in order]


async def test_a_tenant_with_a_hundred_jobs_does_not_hold_up_another(bench: Bench) -> None:
    many = [await bench.submit(f"many {n}", tenant="many") for n in range(100)]
    one = await bench.submit("one", tenant="other")
    await bench.add_engine()
    await bench.run()
    assert "one" in finished(bench, [*many, one])[:3]


async def test_two_tenants_get_the_same_number_of_tokens_while_both_wait(bench: Bench) -> None:
    short = [await bench.submit("short", tenant="short", max_tokens=5) for _ in range(60)]
    long = [await bench.submit("long", tenant="long", max_tokens=45) for _ in range(60)]
    await bench.add_engine()
    # Served are 11 tokens (6 of the prompt) of the one against 51 of the other.
    await bench.run(30.0)
    tokens = {"short": 0, "long": 0}
    for job in short + long:
        if job.outcome is not None:
            tokens[bench.names[job.id]] += len(job.prompt_ids or ()) + job.n_output
    assert not all(job.outcome for job in short + long)
    assert abs(tokens["short"] - tokens["long"]) <= 3 * 51
    assert tokens["short"] > 200


async def test_tiers_go_in_order_and_age_decides_within_a_tenant(bench: Bench) -> None:
    tiers = ("flex", "default", "priority", "flex", "default", "priority")
    jobs = [await bench.submit(f"{tier} {n}", service_tier=tier) for n, tier in enumerate(tiers)]
    await bench.add_engine()
    await bench.run()
    expected = ["priority 2", "priority 5", "default 1", "default 4", "flex 0", "flex 3"]
    assert finished(bench, jobs) == expected


async def test_flex_work_is_passed_over_a_bounded_number_of_times(bench: Bench) -> None:
    flex = await bench.submit("flex", tenant="f", service_tier="flex")
    others = [await bench.submit(f"default {n}") for n in range(60)]
    await bench.add_engine()
    await bench.run()
    assert finished(bench, [flex, *others]).index("flex") == 32


async def test_a_full_line_refuses_its_tenant_and_nobody_else(tmp_path: Path) -> None:
    async with bench_of_engines(tmp_path, max_waiting=2) as bench:
        for _ in range(2):
            await bench.submit("a job")
        with pytest.raises(CapacityError, match="2 requests of tenant"):
            await bench.submit("one too many")
        await bench.submit("another's", tenant="b")
        recovered = await bench.job("recovered", kind="async")
        bench.dispatcher.enqueue(recovered)
        assert len(bench.dispatcher.waiting) == 4


async def test_a_job_cancelled_in_line_leaves_it_and_is_not_billed(bench: Bench) -> None:
    gone, stays = await bench.submit("gone"), await bench.submit("stays")
    await bench.dispatcher.cancel(gone)
    assert bench.dispatcher.waiting == [stays]
    assert gone.outcome is not None
    assert gone.outcome.state == "cancelled"
    await bench.add_engine()
    await bench.run()
    assert finished(bench, [stays]) == ["stays"]


async def test_the_lowest_tier_makes_room_on_a_smaller_lease(bench: Bench) -> None:
    await bench.add_engine(n_slots=3)
    for tier in ("flex", "default", "priority"):
        await bench.submit(tier, service_tier=tier)
    await bench.settle()
    bench.change(0, max_concurrent=2)
    await bench.settle()
    assert bench.running() == {"default", "priority"}
    assert [bench.names[job.id] for job in bench.dispatcher.waiting] == ["flex"]
