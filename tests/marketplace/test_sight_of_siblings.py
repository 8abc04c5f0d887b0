"""What a gateway predicts, prices and chooses when others use its engines too, simulated ones."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from marketplace.dispatch import TierUnreachableError, TtftTargets
from marketplace.siblings.sibling import NONE, EngineUse, Report, Sibling, TierCounts
from tests.marketplace.bench_of_engines import MODEL, PREFILL_S, TOKEN_S, Bench, bench_of_engines
from tests.marketplace.test_tiers import teach

URL = "http://0"


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with bench_of_engines(tmp_path, targets=TtftTargets(5.0, 30.0, 1e4)) as bench:
        yield bench


def sibling(
    running: TierCounts = NONE, slots: tuple[int, ...] = (), waiting: TierCounts = NONE
) -> Sibling:
    """Another gateway, on the next seat."""
    report = Report({MODEL: waiting}, {URL: EngineUse(running, slots)})
    return Sibling("another life", 1, "", report)


async def test_an_engine_is_measured_with_all_that_runs_on_it(bench: Bench) -> None:
    await bench.add_engine(n_slots=8)
    bench.dispatcher.meet([sibling((0, 3, 0), (1, 3, 5))], 0)
    await bench.submit("job", max_tokens=10)
    await bench.run()
    (engine,) = bench.dispatcher.pool.engines
    speed = bench.dispatcher._foresight.speeds.of(engine.state)
    assert speed is not None
    # One answer of ours and three of theirs.
    assert speed.token._x / speed.token._n == pytest.approx(4.0)


async def test_only_our_share_is_waited_for(bench: Bench) -> None:
    await bench.add_engine(n_slots=4)
    await teach(bench, 20)
    alone = [await bench.submit("alone", max_tokens=20) for _ in range(8)]
    await bench.run()
    bench.dispatcher.meet([sibling((0, 2, 0), (1, 3), (0, 9, 0))], 0)
    shared = [await bench.submit("shared", max_tokens=20) for _ in range(8)]
    one_s = PREFILL_S * 6 + TOKEN_S * 19
    for jobs, rounds in ((alone, 1), (shared, 3)):
        assert jobs[-1].predicted_wait_s == pytest.approx(rounds * one_s, rel=0.15)
    await bench.run()
    waited_s = [(job.ttft_ms or 0.0) / 1e3 for job in (alone[-1], shared[-1])]
    assert waited_s == pytest.approx([one_s, 3 * one_s], rel=0.15)


async def accepted(bench: Bench) -> int:
    """How many jobs get in until the first is refused."""
    for number in range(60):
        try:
            await bench.submit("job", max_tokens=100)
        except TierUnreachableError:
            return number
    pytest.fail("everything is accepted")


async def test_a_tier_is_kept_or_refused_by_our_share(bench: Bench) -> None:
    await bench.add_engine(n_slots=4)
    await teach(bench, 100)
    bench.dispatcher.meet([sibling((0, 3, 0), (1, 2, 3), (0, 99, 0))], 0)
    n_shared = await accepted(bench)
    bench.dispatcher.meet([], 0)
    await bench.run()
    assert await accepted(bench) > n_shared + 4


async def test_work_that_never_had_a_place_is_predicted_all_the_same(bench: Bench) -> None:
    await bench.add_engine(n_slots=2)
    await teach(bench, 20)
    bench.dispatcher.meet([sibling((2, 0, 0), (0, 1), (9, 0, 0))], 0)
    job = await bench.submit("job", max_tokens=20)
    assert not bench.running()
    assert job.predicted_wait_s > 0.0


async def test_places_of_others_are_not_free(bench: Bench) -> None:
    await bench.add_engine(n_slots=4)
    assert bench.dispatcher.free_share() == 1.0
    bench.dispatcher.meet([sibling((0, 1, 1), (1, 3), (0, 1, 0))], 0)
    assert bench.dispatcher.free_share() == 0.25
    assert bench.dispatcher.load(MODEL) == 3
    bench.dispatcher.meet([], 0)
    assert (bench.dispatcher.free_share(), bench.dispatcher.load(MODEL)) == (1.0, 0)


@pytest.mark.parametrize(("number", "slots"), [(0, (0, 2)), (2, (1, 3))])
async def test_each_gateway_begins_with_slots_of_its_own(
    bench: Bench, number: int, slots: tuple[int, ...]
) -> None:
    await bench.add_engine(n_slots=4)
    bench.dispatcher.meet([sibling()], number)
    for _ in range(2):
        await bench.submit("job")
    assert bench.dispatcher.report().engines[URL] == EngineUse((0, 2, 0), slots)


async def test_a_slot_that_another_gateway_is_on_is_not_taken(bench: Bench) -> None:
    await bench.add_engine(n_slots=4)
    bench.dispatcher.meet([sibling((0, 1, 0), (0,))], 0)
    for _ in range(3):
        await bench.submit("job")
    assert bench.dispatcher.report().engines[URL].slots == (1, 2, 3)


@pytest.mark.parametrize(("number", "patient_s"), [(2, 1.0), (0, 3.0)])
async def test_work_on_a_slot_that_two_took_goes_to_another(
    bench: Bench, number: int, patient_s: float
) -> None:
    await bench.add_engine(n_slots=3)
    bench.dispatcher.meet([sibling()], number)
    job = await bench.submit("job", prompt="x" * 4000)
    (slot,) = bench.dispatcher.report().engines[URL].slots
    for passed_s, moves in ((patient_s - 0.1, False), (0.2, True)):
        await bench.run(passed_s)
        bench.dispatcher.meet([sibling((0, 1, 0), (slot,))], number)
        await bench.settle()
        assert (bench.dispatcher.report().engines[URL].slots != (slot,)) is moves
    await bench.run()
    assert (job.n_output, job.preemptions) == (4, 1)


async def test_slots_of_vllm_are_everybodys_own_numbers(bench: Bench) -> None:
    await bench.add_engine(n_slots=4, driver="vllm")
    bench.dispatcher.meet([sibling((0, 2, 0), (0, 2))], 0)
    for _ in range(3):
        await bench.submit("job")
    assert bench.dispatcher.report().engines[URL].slots == (0, 2)
    assert bench.dispatcher.report().waiting == {MODEL: (0, 1, 0)}


async def test_what_another_gateway_wrote_over_is_not_gone_on_from(bench: Bench) -> None:
    await bench.add_engine(n_slots=1)
    prompt = "a story " * 20
    await bench.submit("first", prompt=prompt)
    await bench.run()
    prefixes = bench.dispatcher._foresight.prefixes
    assert prefixes._of(URL).held[0]
    bench.dispatcher.meet([sibling((0, 1, 0), (0,))], 0)
    assert not prefixes._of(URL).held[0]


async def test_flex_work_that_yields_to_another_gateway_loses_nothing(bench: Bench) -> None:
    await bench.add_engine(n_slots=2)
    whole = await bench.submit("undisturbed", max_tokens=30)
    await bench.run()
    flex = [await bench.submit("flex", max_tokens=30, service_tier="flex") for _ in range(2)]
    await bench.run(0.5)
    bench.dispatcher.meet([sibling(waiting=(1, 0, 0))], 0)
    await bench.settle()
    bench.timeline.clock.advance(5.0)
    bench.dispatcher.meet([sibling(waiting=(1, 0, 0))], 0)
    await bench.settle()
    assert bench.dispatcher.report().engines[URL].running == (0, 0, 1)
    assert bench.dispatcher.report().waiting == {MODEL: (0, 0, 1)}
    bench.dispatcher.meet([sibling((1, 0, 0), (1,))], 0)
    await bench.run(0.5)
    assert bench.dispatcher.report().engines[URL].running == (0, 0, 1)
    bench.dispatcher.meet([sibling()], 0)
    await bench.run()
    assert [job.text for job in flex] == [whole.text] * 2
    assert sum(job.preemptions for job in flex) == 1


async def test_a_report_is_the_same_after_its_way_through_json(bench: Bench) -> None:
    await bench.add_engine(n_slots=1)
    for tier in ("flex", "priority", "default"):
        await bench.submit("job", service_tier=tier)
    report = bench.dispatcher.report()
    assert report.waiting == {MODEL: (1, 1, 0)}
    assert report.engines == {URL: EngineUse((0, 0, 1), (0,))}
    assert Report.from_dict(report.to_dict()) == report
