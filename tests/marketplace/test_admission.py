"""When a first token will come, as predicted, and who is refused because of it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airan.core.errors import InvalidInputError
from marketplace.billing.desk import rate_limit
from marketplace.billing.limits import QuotaSpec
from marketplace.dispatch.admission import (
    FirstToken,
    SlotForecast,
    TierUnreachableError,
    TtftTargets,
    Work,
    check_admission,
    predict,
)
from marketplace.dispatch.demand import Demand
from marketplace.dispatch.outages import Outages
from marketplace.dispatch.progress import Progress
from marketplace.dispatch.queue import TIERS
from marketplace.dispatch.speeds import DecayedLine, EngineSpeed, Speeds
from marketplace.dispatch.spread import Spread
from marketplace.dispatch.waits import Asker, Before, Waits
from marketplace.engines.base import EngineState
from marketplace.jobs import Job
from tests.marketplace.bench_of_engines import PREFILL_S, TOKEN_S, Bench, bench_of_engines

TARGETS = TtftTargets(priority=1.0, default=3.0, flex=1000.0)


def measured(prefill_s: float = 0.01, token_s: float = 0.1) -> EngineSpeed:
    speed = EngineSpeed()
    speed.prefill.add(100, 100 * prefill_s)
    speed.token.add(1, token_s)
    return speed


# Lines through what was measured


@given(st.floats(0, 5), st.floats(0, 5), st.lists(st.integers(1, 500), min_size=2, unique=True))
def test_a_line_is_found_again(at_zero: float, slope: float, points: list[int]) -> None:
    line = DecayedLine(0.9, proportional=True)
    for x in points:
        line.add(x, at_zero + slope * x)
    for x in (points[0], points[-1]):
        assert line.at(x) == pytest.approx(at_zero + slope * x, rel=1e-3, abs=1e-3)


def test_one_point_makes_a_line_through_zero_or_a_level_one() -> None:
    through_zero, level = DecayedLine(0.9, proportional=True), DecayedLine(0.9, proportional=False)
    assert level.at(1) is None
    for line in (through_zero, level):
        line.add(10, 2.0)
    assert (through_zero.at(20), level.at(20)) == (4.0, 2.0)


def test_a_line_follows_an_engine_that_became_slower() -> None:
    line = DecayedLine(0.9, proportional=True)
    for speed in (1.0, 3.0):
        for x in range(1, 60):
            line.add(x, speed * x)
    assert line.at(10) == pytest.approx(30.0, rel=0.1)


def test_a_speed_belongs_to_the_size_of_the_lease_and_stands_in_for_one_not_measured() -> None:
    speeds = Speeds()
    small, large = (EngineState("e", "m", "ready", sm_count=size) for size in (16, 64))
    other = EngineState("other", "m", "ready", sm_count=16)
    assert speeds.of(small) is None
    speeds.note_first_token(large, 100, 1.0)
    assert speeds.of(small) is speeds.of(large)
    speeds.note_first_token(small, 100, 4.0)
    found = speeds.of(small), speeds.of(large)
    assert [speed.prefill_s(100) for speed in found if speed] == [4.0, 1.0]
    assert speeds.of(other) is speeds.of(small)
    assert speeds.of(EngineState("e", "another model", "ready")) is None


# The prediction


def test_a_free_slot_means_the_time_of_the_prompt() -> None:
    slots = [SlotForecast(0.0, measured(), 1)]
    assert predict(slots, [], Work(50, 9)) == FirstToken(0.0, 0.5)


def test_what_the_slot_holds_of_the_prompt_takes_no_time() -> None:
    slots = [SlotForecast(0.0, measured(), 1), SlotForecast(0.0, measured(), 1, n_held=40)]
    found = predict(slots, [], Work(50, 9))
    assert found is not None
    assert found.total_s == pytest.approx(0.1)


def test_those_ahead_share_the_slots() -> None:
    slots = [SlotForecast(2.0, measured(), 1), SlotForecast(5.0, measured(), 1)]
    # Each takes 1 s for its prompt and 2 s for its answer: 2-5, 5-8 and 5-8; then it is our turn.
    found = predict(slots, [Work(100, 21)] * 3, Work(100, 21))
    assert found is not None
    assert (found.wait_s, found.prefill_s) == pytest.approx((8.0, 1.0))


def test_work_of_higher_tiers_to_come_makes_the_line_slower() -> None:
    demand, end = Demand(), 1500
    for second in range(end):
        demand.note("m", "priority", 1.0, second)
        demand.note("m", "default", 0.5, second)
    found = [demand.slots_taken_above("m", tier, end) for tier in TIERS]
    assert found == pytest.approx([0.0, 1.0, 1.5], rel=0.05)
    assert demand.share_left("m", "flex", 4, end) == pytest.approx(1 - 1.5 / 4, rel=0.05)
    assert demand.share_left("m", "flex", 1, end) == pytest.approx(0.05)
    assert demand.share_left("m", "flex", 4, end + 3000) == pytest.approx(1.0, abs=1e-3)
    slots = [SlotForecast(2.0, measured(), 1)]
    assert predict(slots, [], Work(100, 1), 0.5) == FirstToken(4.0, pytest.approx(1.0))


def test_a_busy_minute_is_soon_over_for_the_default_tier_and_no_load_for_flex() -> None:
    demand = Demand()
    for second in range(60):
        demand.note("m", "priority", 4.0, second)
    assert demand.share_left("m", "default", 4, 60) == pytest.approx(0.05)
    assert demand.share_left("m", "flex", 4, 60) > 0.6
    assert demand.share_left("m", "default", 4, 360) > 0.98


def test_what_gets_done_in_a_slots_time_is_believed_within_a_minute() -> None:
    progress = Progress()
    assert progress.rate("m", 0.0) == 1.0
    for second in range(120):
        # Four slots do half of what was predicted for them.
        progress.took("m", 4.0, second)
        progress.did("m", 2.0, second)
    assert progress.rate("m", 120) == pytest.approx(0.5, abs=0.03)
    assert progress.rate("other", 120) == 1.0
    for second in range(120, 240):
        progress.took("m", 4.0, second)
        progress.did("m", 8.0, second)
    assert progress.rate("m", 240) == 1.0
    assert progress.rate("m", 2000) == pytest.approx(1.0)


def test_an_outage_counts_as_time_where_work_waits() -> None:
    outages = Outages()
    assert outages.note("m", True, 0.0) == 0.0
    assert outages.note("m", False, 10.0) == 0.0
    assert outages.note("m", True, 12.5) == 2.5
    assert outages.note("m", True, 20.0) == 0.0


def test_the_less_even_the_work_the_more_is_kept_free() -> None:
    spread = Spread()
    assert spread.square_s2("m") == 0.0
    for _ in range(200):
        spread.note("m", 2.0, 3.0)
        spread.note("m", 2.0, 1.0)
    assert spread.square_s2("m") == pytest.approx(1.0)
    spread.note("m", 2.0, 8.0)
    assert 1.5 < spread.square_s2("m") < 3.0
    assert spread.square_s2("other") == 0.0


def test_work_of_higher_tiers_varies_by_its_squares_and_the_more_the_less_was_seen() -> None:
    even, uneven = Demand(), Demand()
    for second in range(600):
        even.note("m", "priority", 1.0, second)
        if second % 4 == 0:
            uneven.note("m", "priority", 4.0, second)
    found = [one.variance_above("m", "default", 20.0, 600) for one in (even, uneven)]
    # As much in the mean, in pieces four times as large; a third of a minute on top of a minute.
    assert found == pytest.approx([20.0 * 4 / 3, 80.0 * 4 / 3], rel=0.05)
    young = Demand()
    for second in range(40):
        young.note("m", "priority", 1.0, second)
    assert young.variance_above("m", "default", 20.0, 40) > 1.2 * found[0]
    assert young.variance_above("m", "priority", 20.0, 40) == 0.0


def test_a_wait_that_may_well_be_longer_is_told_so() -> None:
    waits, asker = Waits({}), Asker("m", "default", "a")
    slots = [SlotForecast(1.0, measured(), 1)] * 2
    before = Before([Work(100, 11)] * 16, [])
    found = waits.first_token(asker, Work(100, 11), before, slots, 0.0)
    assert found is not None
    assert (found.wait_s, found.spread_s) == (pytest.approx(1.0 + 16), 0.0)
    for _ in range(100):
        waits.spread.note("m", 2.0, 4.0)
    found = waits.first_token(asker, Work(100, 11), before, slots, 0.0)
    assert found is not None
    # 17 jobs, each 2 s off, before two slots.
    assert found.spread_s == pytest.approx(17**0.5 * 2.0 / 2)


async def test_answers_that_run_to_their_limit_are_predicted_to_do_so(tmp_path: Path) -> None:
    async with bench_of_engines(tmp_path, targets=TtftTargets(1e4, 1e4, 1e4)) as bench:
        await bench.add_engine()
        await bench.submit("measured first", max_tokens=20)
        await bench.run()
        for n_tokens in (20, 5, 60, 10, 120):
            jobs = [await bench.submit("cut off", max_tokens=n_tokens) for _ in range(6)]
            await bench.run()
            wanted = pytest.approx((jobs[-1].ttft_ms or 0) / 1e3, rel=0.08)
            assert jobs[-1].predicted_ttft_s == wanted


async def test_what_slows_the_line_unseen_is_learned_from_what_gets_done(tmp_path: Path) -> None:
    async with bench_of_engines(tmp_path, targets=TtftTargets(1e4, 1e4, 1e4)) as bench:
        await bench.add_engine()
        late: list[float] = []
        for _ in range(8):
            jobs = [await bench.submit("a job", max_tokens=20) for _ in range(8)]
            # The lease is away for half of the time.
            while any(job.outcome is None for job in jobs):
                await bench.run(1.0)
                bench.change(0, phase="no_lease", max_concurrent=0)
                await bench.run(1.0)
                bench.change(0, phase="ready", max_concurrent=1)
                await bench.settle()
            last = jobs[-1]
            late.append(((last.ttft_ms or 0) / 1e3) / (last.predicted_ttft_s or 1))
        assert late[1] > 1.3
        assert max(abs(ratio - 1) for ratio in late[-3:]) < 0.2


def test_nothing_is_predicted_without_a_measurement_or_a_slot() -> None:
    assert predict([], [], Work(1, 1)) is None
    assert predict([SlotForecast(0.0, EngineSpeed(), 1)], [], Work(1, 1)) is None
    assert predict([SlotForecast(0.0, EngineSpeed(), 1)], [Work(1, 1)], Work(1, 1)) is None


def test_a_request_is_told_when_it_would_be_accepted() -> None:
    check_admission("default", FirstToken(2.0, 0.9), 0.1, 3.0)
    with pytest.raises(TierUnreachableError, match=r"within 3 s.* after 7\.6 s") as refused:
        check_admission("default", FirstToken(6.5, 1.0), 0.1, 3.0)
    assert refused.value.retry_after_s == pytest.approx(4.6)
    assert refused.value.headers()["Retry-After"] == "5"


def test_a_prompt_that_takes_too_long_by_itself_is_not_to_be_tried_again() -> None:
    with pytest.raises(TierUnreachableError, match="for the prompt alone") as refused:
        check_admission("priority", FirstToken(0.0, 1.5), 0.0, 1.0)
    assert refused.value.headers() == {"x-should-retry": "false"}


def test_a_target_must_be_a_time() -> None:
    with pytest.raises(InvalidInputError, match=r"ttft_target_s\.flex"):
        TtftTargets(flex=0.0)


def test_an_outage_lasts_as_long_as_they_do_or_as_long_again() -> None:
    outages = Outages()
    outages.note("m", False, 0.0)
    assert outages.wait_s("m", 9.0) is None
    outages.note("m", True, 10.0)
    outages.note("m", False, 20.0)
    assert outages.wait_s("m", 21.0) == 1.0
    outages.note("m", True, 30.0)
    assert outages.wait_s("m", 31.0) is None
    outages.note("m", False, 40.0)
    assert (outages.wait_s("m", 41.0), outages.wait_s("m", 60.0)) == (10.0, 20.0)


# The dispatcher


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with bench_of_engines(tmp_path, targets=TARGETS) as bench:
        await bench.add_engine()
        # What an engine does is known only once it has done something.
        await bench.submit("measured first", max_tokens=20)
        await bench.run()
        yield bench


def refusals(bench: Bench, tier: str) -> float:
    name = "airan_marketplace_requests_refused_total"
    return bench.meter.registry.get_sample_value(name, {"tier": tier}) or 0.0


async def fill(bench: Bench, **parameters: Any) -> tuple[list[Job], TierUnreachableError]:
    """Submits jobs until one is refused."""
    jobs: list[Job] = []
    while len(jobs) < 20:
        try:
            jobs.append(await bench.submit("one of many", **parameters))
        except TierUnreachableError as error:
            return jobs, error
    pytest.fail("nothing was refused")


async def test_before_the_first_measurement_everything_is_accepted(tmp_path: Path) -> None:
    async with bench_of_engines(tmp_path, targets=TARGETS) as bench:
        await bench.add_engine()
        jobs = [await bench.submit("a job", max_tokens=1000) for _ in range(10)]
        assert [job.predicted_ttft_s for job in jobs] == [None] * 10


async def test_a_request_that_would_wait_too_long_is_refused_and_flex_is_not(bench: Bench) -> None:
    jobs, refusal = await fill(bench, max_tokens=20)
    # Each takes 0.96 s: the fourth has its first token after 2.9 s, a fifth would be too late.
    assert len(jobs) == 4
    assert refusal.code == "resource_unavailable"
    assert refusals(bench, "default") == 1
    flex = await bench.submit("flex", max_tokens=20, service_tier="flex")
    await bench.run()
    assert all(job.outcome and job.outcome.state == "completed" for job in [*jobs, flex])


async def test_requests_that_come_at_once_count_each_other(bench: Bench) -> None:
    jobs = [await bench.job("a job", max_tokens=20, kind="async") for _ in range(20)]
    results = await asyncio.gather(
        *(bench.dispatcher.submit(job) for job in jobs), return_exceptions=True
    )
    assert next(result for result in results if result is not None).code == "resource_unavailable"
    assert results.count(None) == 4
    await bench.run()


async def test_a_refusal_says_what_the_quotas_have_left(bench: Bench) -> None:
    who = await bench.principal("limited")
    spec = QuotaSpec("tenant", "", requests_per_minute=50)
    await bench.database.call(bench.database.billing.set_quota, "limited", spec)
    await bench.dispatcher.desk.refresh()
    jobs, _ = await fill(bench, tenant="limited", max_tokens=20)
    shown = rate_limit.get()
    assert shown is not None
    assert (shown.limit_requests, shown.remaining_requests) == (50, 50 - len(jobs))
    left = await bench.database.call(bench.database.billing.quotas_left, who, bench.now_s)
    assert left == shown


async def test_after_the_time_told_the_same_request_is_accepted_and_not_before(
    bench: Bench,
) -> None:
    # Work of known length: the mean answer is what each of them has.
    for _ in range(12):
        await bench.submit("flex", max_tokens=20, service_tier="flex", tenant="b")
    for _ in range(2):
        await bench.submit("a job", max_tokens=20)
    wait_s = (await fill(bench, max_tokens=20))[1].retry_after_s
    assert wait_s is not None
    await bench.run(0.7 * wait_s)
    with pytest.raises(TierUnreachableError):
        await bench.submit("too early", max_tokens=20)
    await bench.run(0.3 * wait_s + 0.1)
    kept = await bench.submit("in time", max_tokens=20)
    await bench.run()
    assert kept.ttft_ms is not None
    assert kept.ttft_ms / 1e3 == pytest.approx(TARGETS.default, abs=0.3)


async def test_priority_work_does_not_count_the_flex_work_it_preempts(bench: Bench) -> None:
    await bench.submit("flex", max_tokens=500, service_tier="flex")
    await bench.settle()
    job = await bench.submit("priority", service_tier="priority")
    assert job.predicted_ttft_s == pytest.approx(len("prompt") * PREFILL_S, rel=0.5)
    assert len((await fill(bench, max_tokens=50))[0]) < 9


async def test_a_long_outage_refuses_what_cannot_wait_for_its_end(bench: Bench) -> None:
    bench.change(0, phase="no_lease", max_concurrent=0)
    await bench.submit("it has just begun")
    await bench.run(10.0)
    with pytest.raises(TierUnreachableError) as refused:
        await bench.submit("too late")
    assert refused.value.retry_after_s == pytest.approx(7.0, abs=1.0)
    await bench.submit("flex", service_tier="flex")
    bench.change(0, phase="ready", max_concurrent=1)
    await bench.submit("again")
    await bench.run()


async def test_the_prediction_is_measured_against_what_came(tmp_path: Path) -> None:
    chance = random.Random(5)
    async with bench_of_engines(tmp_path) as bench:
        await bench.add_engine(n_slots=2)
        await bench.add_engine(n_slots=2, token_s=2 * TOKEN_S)
        jobs = []
        for number in range(80):
            tier = chance.choice(("priority", "default", "flex"))
            prompt = "x" * chance.randint(20, 400)
            n_answer = chance.randint(10, 30)
            who = f"tenant {number % 3}"
            parameters = {"tenant": who, "prompt": prompt, "service_tier": tier}
            jobs.append(await bench.submit(str(number), max_tokens=n_answer, **parameters))
            await bench.run(chance.expovariate(3.2))
        await bench.run()
        predicted = [job for job in jobs if job.predicted_ttft_s is not None]
        assert len(predicted) >= 70
        late = {
            tier: [
                (job.ttft_ms or 0) / 1e3 - (job.predicted_ttft_s or 0)
                for job in predicted
                if job.request.service_tier == tier
            ]
            for tier in TIERS
        }
        errors = sorted(abs(one) for tier in ("priority", "default") for one in late[tier])

        assert errors[len(errors) // 2] < 0.1
        assert all(abs(sum(late[tier]) / len(late[tier])) < 0.3 for tier in ("priority", "default"))
        assert errors[int(0.9 * len(errors))] < 1.0
        name = "airan_marketplace_time_to_first_token_prediction_error_seconds_count"
        counted = [
            bench.meter.registry.get_sample_value(name, {"tier": tier, "side": side}) or 0
            for tier in ("priority", "default", "flex")
            for side in ("early", "late")
        ]
        assert sum(counted) == len(predicted)
