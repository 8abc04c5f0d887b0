"""The simulation's parts: remembered plans, lateness, engines, queue, sites, histogram."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airan.core.errors import NotFoundError
from marketplace.billing.prices import PriceList
from marketplace.money import Price
from orchestrator.mig import MigGeometry
from orchestrator.plan import plan
from orchestrator.policy import CalendarEntry, Policy
from orchestrator.pool import Demand, Plan
from orchestrator.shares import ShareGeometry
from orchestrator.steps import steps
from sims.fleet import engines, slots
from sims.fleet.desk import Desk
from sims.fleet.histogram import Histogram
from sims.fleet.node import SimulatedGpus
from sims.fleet.planning import RememberingPlanner
from sims.fleet.serving import Serving
from sims.fleet.traffic import Stream, sites_of

POLICIES = (
    Policy(headroom=0.02, min_ran_share=0.1, min_lease_s=60.0),
    Policy(headroom=0.0, min_ran_share=0.2, min_ai_share=0.2, max_ran_share=0.7),
    Policy("static", ran_share=0.6),
    Policy("time_of_day", calendar=(CalendarEntry((), "06:00", 0.8),)),
)
GEOMETRIES = (MigGeometry.load("GH200-96GB"), ShareGeometry("GH200-96GB", "green", 132, 98_304))
SHARES = st.floats(0.0, 1.0, allow_nan=False)


@settings(max_examples=25)
@given(
    policy=st.sampled_from(POLICIES),
    geometry=st.sampled_from(GEOMETRIES),
    needs=st.lists(st.tuples(SHARES, SHARES, SHARES, st.booleans()), min_size=2, max_size=8),
)
def test_a_remembered_plan_is_the_live_planners(policy, geometry, needs):
    remembering = RememberingPlanner()
    for _ in range(2):  # The second time every answer is a remembered one.
        gpus, parent = SimulatedGpus(geometry, 1), None
        for now, soon, later, assumed in needs:
            demand = Demand(now, soon, later, assumed=assumed, scheduled_share=_calendar(policy))
            inventory = gpus.inventory()
            found = remembering(policy, inventory, demand, parent)
            truth = plan(policy, inventory, demand, parent)
            assert found.targets == truth.targets
            assert (found is parent) == (truth is parent)
            assert (found.generation, found.parent) == (truth.generation, truth.parent)
            _apply(gpus, found)
            parent = found


def _calendar(policy: Policy) -> float | None:
    return 0.8 if policy.kind == "time_of_day" else None


def _apply(gpus: SimulatedGpus, found: Plan) -> None:
    for step in steps(found, gpus.inventory()):
        gpus.carry_out(step)
    gpus.check()
    for part in list(gpus.parts.values()):
        if part.role == "ai" and not part.leased:
            gpus.lease(part)


def test_cells_that_get_just_what_they_need_are_on_time_as_published():
    assert slots.late_share(0.5, 0.5, 0.02) == pytest.approx(0.0002, rel=1e-3)


def test_more_is_never_later():
    late = [slots.late_share(held, 0.5, 0.02) for held in np.linspace(0.0, 1.0, 50)]
    assert late == sorted(late, reverse=True)
    assert late[0] == pytest.approx(1.0)
    assert slots.late_share(0.0, 0.0, 0.02) == 0.0


def test_an_engine_is_as_fast_as_was_measured():
    table = engines.table("llama-8b-h100")
    assert table.decode_rate(132) == table.tokens_per_s
    assert table.decode_rate(64) == pytest.approx(0.80 * table.tokens_per_s)
    assert 0.51 < table.decode_rate(40) / table.tokens_per_s < 0.67
    assert table.decode_rate(0) == 0.0


def test_an_unknown_engine_table_is_refused_with_those_there_are():
    with pytest.raises(NotFoundError, match="llama-8b-h100"):
        engines.table("gpt-9")


def test_a_quantile_is_right_to_a_tenth():
    histogram = Histogram()
    for seconds in (0.1, 0.2, 0.4, 5.0):
        histogram.add(seconds, 25.0)
    for quantile, truth in ((0.2, 0.1), (0.5, 0.2), (0.75, 0.4), (0.99, 5.0)):
        found = histogram.quantile(quantile)
        assert found is not None
        assert truth <= found <= 1.1 * truth
    assert Histogram().quantile(0.5) is None


def test_sites_hold_every_cell_once_and_neighbours_together():
    places = np.random.default_rng(3).random((95, 2))
    sites = sites_of(places, 20)
    assert sorted(np.concatenate(sites)) == list(range(95))
    assert [len(site) for site in sites] == [20, 20, 20, 20, 15]
    within = np.mean([places[site].std(axis=0).mean() for site in sites])
    assert within < 0.7 * places.std(axis=0).mean()


def _stream(tier: str, n: int, *, context: int = 1000, made: int = 200, steps: int = 1) -> Stream:
    each = np.full(steps, n, np.int64)
    return Stream(tier, f"{tier}-0", each, each * context, each * made)


def _serving(*streams: Stream) -> Serving:
    book = PriceList([], {"simulated": Price(0, 0)})
    desk = Desk(book, max_waiting=10**6)
    return Serving(engines.table("llama-8b-h100"), streams, 60.0, desk)


def test_an_engine_makes_no_more_tokens_than_its_table_says():
    serving = _serving(_stream("flex", 100_000, context=1))
    serving.arrive(0, 0.0)
    serving.engines([132], 0.0)
    serving.advance(0.0, 60.0)
    made = serving.tiers["flex"].generated_tokens
    assert made == pytest.approx(60.0 * 10_220, rel=0.01)
    assert made <= 60.0 * 10_220


def test_priority_does_not_wait_behind_flex():
    serving = _serving(_stream("flex", 3000, steps=20), _stream("priority", 60, steps=20))
    for step in range(20):
        serving.arrive(step, 60.0 * step)
        serving.engines([64], 0.0)
        serving.advance(60.0 * step, 60.0)
    priority, flex = (serving.waits[tier].quantile(0.95) for tier in ("priority", "flex"))
    assert priority is not None
    assert flex is not None
    assert priority < 1.0 < 60.0 < flex


def test_requests_wait_while_there_is_no_engine():
    serving = _serving(_stream("default", 60, steps=3))
    for step, sms in enumerate(([], [], [64])):
        serving.arrive(step, 60.0 * step)
        serving.engines(sms, 0.0)
        serving.advance(60.0 * step, 60.0)
    assert serving.tiers["default"].completed == 180
    longest = serving.waits["default"].quantile(0.99)
    assert longest is not None
    assert longest >= 90.0


@pytest.mark.parametrize("keeps_cache", [False, True])
def test_a_paused_engine_preempts_what_it_holds_and_loses_none_of_it(keeps_cache):
    serving = _serving(_stream("default", 3000))
    serving.arrive(0, 0.0)
    serving.engines([64], 0.0)
    serving.advance(0.0, 10.0)
    serving.pause(64, keeps_cache=keeps_cache)
    serving.engines([], 0.0)
    assert serving.preempted == engines.table("llama-8b-h100").concurrent(64)
    serving.engines([64], 0.0)
    worked_s = 10.0 + serving.advance(10.0, 3600.0)
    assert serving.tiers["default"].completed == 3000
    alone_s = 3000 * (200 / serving.decode_rate + 1000 / (41_750 * 0.485))
    again_s = 0.0 if keeps_cache else 62 * 1100 / (41_750 * 0.485)
    assert worked_s == pytest.approx(alone_s + again_s)
    # What was read anew took time, and is not sold twice.
    assert serving.tiers["default"].generated_tokens == pytest.approx(3000 * 200)


def test_an_engine_with_little_to_do_preempts_only_that():
    serving = _serving(_stream("default", 3))
    serving.arrive(0, 0.0)
    serving.engines([64], 0.0)
    serving.pause(64, keeps_cache=True)
    assert serving.preempted == 3
