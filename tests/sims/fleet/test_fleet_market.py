"""The simulated market: the live admission, preemption, routing, federation and prices at work."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airan.core.errors import ConfigError
from marketplace.billing.prices import PriceList
from marketplace.dispatch import admission as live_admission
from marketplace.dispatch import foresight as live_foresight
from marketplace.dispatch import making_room as live_room
from marketplace.dispatch import overflow as live_overflow
from marketplace.dispatch.admission import (
    FirstToken,
    SlotForecast,
    TierUnreachableError,
    TtftTargets,
    Work,
    check_admission,
    predict,
)
from marketplace.dispatch.queue import TIERS
from marketplace.federation.policy import parse_policy
from marketplace.money import Price
from sims.fleet import admission, engines, federation, preemption, routing, runner
from sims.fleet.account import Account
from sims.fleet.admission import Admission, Asked, Engines, speed_of
from sims.fleet.cohort import Refused
from sims.fleet.desk import Desk
from sims.fleet.pricing import price_at, price_book
from sims.fleet.routing import Router
from sims.fleet.scenario import Scenario, load
from sims.fleet.serving import Serving
from sims.fleet.traffic import Stream

HERE = runner.in_processes(1)
TABLE = engines.table("llama-8b-h100")
PRICES = {
    "priority": {"input_usd_per_1k": 0.0002, "output_usd_per_1k": 0.0008},
    "default": {"input_usd_per_1k": 0.0001, "output_usd_per_1k": 0.0004},
    "flex": {"input_usd_per_1k": 0.00005, "output_usd_per_1k": 0.0002},
}


def _stream(tier: str, *requests: int, context: int = 1000, made: int = 200) -> Stream:
    each = np.array(requests, np.int64)
    return Stream(tier, f"{tier}-0", each, each * context, each * made)


def _desk(gate: Admission | None = None, *, max_waiting: int = 512, **changes: Any) -> Desk:
    book = price_book(load("site-day", {"prices": PRICES, **changes}))
    return Desk(book, gate, max_waiting=max_waiting)


def test_the_decisions_are_the_live_codes_own():
    assert admission.check_admission is live_admission.check_admission
    assert admission.Waits is live_foresight.Waits
    assert preemption.chosen_to_yield is live_room.chosen_to_yield
    assert preemption.patience_s is live_room.patience_s
    assert federation.ways_out is live_overflow.ways_out
    assert routing.choose_place.__module__ == "marketplace.dispatch.places"


def _one_by_one(
    asked: Asked, ahead: Work, rates: tuple[float, float], targets: TtftTargets, step_s: float
) -> int:
    """The live code, asked for each request as it comes."""
    speed, let = speed_of(*rates), 0
    for number in range(asked.n):
        at_s = step_s * number / asked.n
        slot = SlotForecast(0.0, speed, 1)
        found = predict([slot], [ahead, asked.first(let)], asked.each)
        assert found is not None
        now = FirstToken(max(0.0, found.wait_s - at_s), found.prefill_s)
        try:
            check_admission(asked.tier, now, 0.0, targets.of(asked.tier))
        except TierUnreachableError:
            continue
        let += 1
    return let


@settings(max_examples=60)
@given(
    tier=st.sampled_from(TIERS),
    n=st.integers(1, 300),
    context=st.integers(1, 3000),
    made=st.integers(1, 500),
    ahead=st.tuples(st.integers(0, 2_000_000), st.integers(0, 400_000)),
    rates=st.tuples(st.floats(500.0, 10_000.0), st.floats(3_000.0, 40_000.0)),
)
def test_as_many_get_in_as_the_live_code_lets_in_one_by_one(tier, n, context, made, ahead, rates):
    targets, asked = TtftTargets(5.0, 30.0, 120.0), Asked(tier, n, n * context, n * made)
    gate = Admission(targets, 60.0)
    gate.engines(Engines(*rates), 0.0)
    let = gate.let(asked, Work(*ahead), 0.0).n
    truth = _one_by_one(asked, Work(*ahead), rates, targets, 60.0)
    # The last of a step comes at its end here, and a moment before it there.
    request_s = context / rates[1] + made / rates[0]
    assert abs(let - truth) <= 2 + 60.0 / n / request_s


@pytest.mark.parametrize("tier", TIERS)
def test_what_is_refused_is_what_the_live_check_refuses(tier):
    gate, targets = Admission(TtftTargets(), 60.0), TtftTargets()
    gate.engines(Engines(5000.0, 20_000.0), 0.0)
    asked, ahead = Asked(tier, 5000, 5_000_000, 1_000_000), Work(60_000_000, 5_000_000)
    let = gate.let(asked, ahead, 0.0)
    assert let.n < asked.n
    found = predict([SlotForecast(0.0, speed_of(5000.0, 20_000.0), 1)], [ahead], asked.each)
    assert found is not None
    last = FirstToken(found.wait_s - 60.0, found.prefill_s)
    with pytest.raises(TierUnreachableError) as refused:
        check_admission(tier, last, 0.0, targets.of(tier))
    if not let.n:
        assert let.retry_after_s == pytest.approx(refused.value.retry_after_s, abs=1.0)


def test_nobody_is_refused_before_anything_was_measured():
    gate = Admission(TtftTargets(), 60.0)
    assert gate.let(Asked("priority", 10**6, 10**9, 10**9), Work(0, 0), 0.0).n == 10**6


def test_without_engines_priority_is_refused_when_the_outage_outlasts_its_promise():
    gate = Admission(TtftTargets(), 60.0)
    gate.engines(Engines(5000.0, 20_000.0), 0.0)
    gate.engines(Engines(), 60.0)
    let = gate.let(Asked("priority", 600, 600, 600), Work(0, 0), 60.0)
    # In the first five seconds the outage may still end in time.
    assert let.n == pytest.approx(50, abs=2)
    assert gate.let(Asked("priority", 600, 600, 600), Work(0, 0), 120.0).n == 0
    assert gate.let(Asked("flex", 600, 600, 600), Work(0, 0), 120.0).n == 600


def _busy_site(flex: Stream, priority: Stream) -> Serving:
    serving = Serving(TABLE, (flex, priority), 60.0, _desk(max_waiting=10**6))
    serving.engines([64], 0.0)
    for step in range(3):
        serving.arrive(step, 60.0 * step)
        serving.advance(60.0 * step, 60.0)
    return serving


def test_a_burst_of_priority_cuts_off_flex_that_goes_on_for_long_and_no_token_is_lost():
    # A place becomes free every 25 s.
    serving = _busy_site(_stream("flex", 100, 0, 0, made=200_000), _stream("priority", 0, 100, 0))
    flex, priority = serving.tiers["flex"], serving.tiers["priority"]
    assert (flex.preempted, priority.preempted) == (100, 0)
    assert priority.completed == 100
    assert serving.waits["priority"].quantile(0.99) < 1.0  # type: ignore[operator]
    worked_s = 180.0 + serving.advance(180.0, 36_000.0)
    assert flex.completed == 100
    assert flex.generated_tokens == pytest.approx(100 * 200_000)
    assert flex.context_tokens == pytest.approx(100 * 1000)
    # Those cut off, the cheapest to resume, had their prompt read anew; it is not sold twice.
    decode, prefill = serving.rates
    alone_s = (100 * 200_000 + 100 * 200) / decode + 200 * 1000 / prefill
    assert worked_s == pytest.approx(alone_s + 100 * (1000 + 200_000 / 32) / prefill)
    assert flex.micro_usd == _price("flex").amount_micro_usd(100 * 1000, 100 * 200_000)


def test_priority_waits_for_places_that_free_themselves_in_a_moment():
    # One every 74 ms.
    serving = _busy_site(_stream("flex", 6000, 0, 0), _stream("priority", 0, 100, 0))
    assert serving.tiers["flex"].preempted == 0
    assert serving.tiers["priority"].completed == 100
    assert serving.waits["priority"].quantile(0.99) < 0.3  # type: ignore[operator]
    alone_s = 6100 * (200 / serving.rates[0] + 1000 / serving.rates[1])
    assert 180.0 + serving.advance(180.0, 36_000.0) == pytest.approx(alone_s)


def test_what_comes_faster_than_places_free_themselves_has_the_rest_made():
    # Half as many places free themselves as come; the line is as long as patience is.
    serving = _busy_site(_stream("flex", 400, 0, 0, made=1700), _stream("priority", 0, 400, 0))
    free_s = 1700 / serving.rates[0] + 1000 / serving.rates[1]
    assert serving.tiers["flex"].preempted == 400 - int(60.0 / free_s)
    assert 0.3 < serving.waits["priority"].quantile(0.5) < 0.7  # type: ignore[operator]


def _price(tier: str) -> Price:
    return price_at(_desk().book, tier)


@pytest.mark.parametrize("others", ["default", "priority"])
def test_nothing_but_flex_makes_room(others):
    serving = Serving(TABLE, (_stream(others, 6000, 0), _stream("priority", 0, 50)), 60.0, _desk())
    serving.engines([64], 0.0)
    for step in range(2):
        serving.arrive(step, 60.0 * step)
        serving.advance(60.0 * step, 60.0)
    assert sum(one.preempted for one in serving.tiers.values()) == 0


def test_nobody_is_cut_off_while_places_are_free():
    serving = Serving(TABLE, (_stream("flex", 20, 20), _stream("priority", 5, 5)), 60.0, _desk())
    serving.engines([132], 0.0)
    for step in range(2):
        serving.arrive(step, 60.0 * step)
        serving.advance(60.0 * step, 60.0)
    assert serving.tiers["flex"].preempted == 0


def test_requests_begin_on_the_faster_engine_until_it_is_loaded():
    router = Router(TABLE)
    router.engines([32, 132])
    # The larger part reads a prompt four times as fast; each of few answers is no slower.
    first = [router.choose(Work(10_000, 1), 10.0) for _ in range(3)]
    assert first == [1, 1, 1]
    seen = {router.choose(Work(10_000, 1), 10.0) for _ in range(40)}
    assert seen == {0, 1, None}
    router.begin_step()
    assert router.choose(Work(10_000, 1), 1.0) == 1


def test_a_prompt_that_is_half_held_is_read_in_half_the_time_and_sold_whole():
    scenario = load("site-day", {"llm": {"held_prompt_share": 0.5}})
    held = engines.of(scenario)
    assert held.prefill_rate(64) == pytest.approx(2.0 * TABLE.prefill_rate(64))
    assert held.decode_rate(64) == TABLE.decode_rate(64)
    worked_s = []
    for table in (TABLE, held):
        serving = Serving(table, (_stream("default", 100),), 60.0, _desk())
        serving.engines([64], 0.0)
        serving.arrive(0, 0.0)
        worked_s.append(serving.advance(0.0, 60.0))
        assert serving.tiers["default"].context_tokens == pytest.approx(100_000)
        assert serving.tiers["default"].micro_usd == 18_000
    assert worked_s[0] - worked_s[1] == pytest.approx(50_000 / TABLE.prefill_rate(64))


# --- prices


def test_revenue_by_tier_is_the_ledgers_arithmetic():
    streams = tuple(_stream(tier, 7, 3, context=333, made=77) for tier in TIERS)
    serving = Serving(TABLE, streams, 60.0, _desk())
    serving.engines([132], 0.0)
    for step in range(2):
        serving.arrive(step, 60.0 * step)
        serving.advance(60.0 * step, 60.0)
    for tier in TIERS:
        usd = PRICES[tier]
        price = Price.from_usd(usd["input_usd_per_1k"], usd["output_usd_per_1k"])
        owed = sum(price.amount_micro_usd(n * 333, n * 77) for n in (7, 3))
        assert serving.totals()[tier]["micro_usd"] == owed


def test_a_tier_without_a_price_costs_as_default_and_spot_moves_flex_alone():
    book = price_book(load("site-day", {"prices": {"default": PRICES["default"]}}))
    assert price_at(book, "priority") == price_at(book, "flex") == Price(100, 400)
    spot = PRICES | {"flex": PRICES["flex"] | {"spot_floor": 0.4}}
    book = price_book(load("site-day", {"prices": spot}))
    assert price_at(book, "flex", 0) == Price(20, 80)
    assert price_at(book, "flex", 1000) == Price(50, 200)
    assert price_at(book, "default", 0) == Price(100, 400)


def test_the_report_adds_up_by_tier():
    report = runner.run(load("site-day", {"step_s": 900, "warmup_days": 2}), ["demand"], HERE)
    found = report["policies"][0]
    by_tier = [one["revenue_usd"] for one in found["ai"]["tiers"].values()]
    assert sum(round(usd * 1e6) for usd in by_tier) == round(found["revenue_usd"] * 1e6)
    assert found["revenue_usd"] > 0.0


# --- federation


def _region(name: str, sites: int, usd: float, **policies: str) -> dict[str, Any]:
    price = {"input_usd_per_1k": usd, "output_usd_per_1k": usd}
    return {"name": name, "sites": sites, "price": price, "policies": policies}


def _federated(*regions: dict[str, Any], clouds: Any = (), most: int = 64) -> Scenario:
    spec = {"regions": regions, "clouds": clouds, "max_concurrent": most}
    changes = {"cells": 5 * sum(one["sites"] for one in regions), "cells_per_site": 5}
    return load("site-day", {**changes, "federation": spec, "step_s": 60})


def _site(refused: Refused | None = None, idle_s: float = 0.0) -> Account:
    spare = [idle_s, idle_s * 5000.0, idle_s * 20_000.0, idle_s * 64.0]
    zero = dict.fromkeys(Serving(TABLE, (), 60.0, _desk()).tiers, 0.0)
    names = "arrived refused refused_late refused_full retry_after_s preempted moved completed "
    names += "generated_tokens context_tokens micro_usd"
    tiers = {tier: zero | dict.fromkeys(names.split(), 0) for tier in TIERS}
    rows = []
    if refused is not None:
        tiers[refused.tier].update(
            arrived=refused.n, refused=refused.n, refused_late=refused.n, retry_after_s=refused.n
        )
        one = refused
        rows = [[0, one.tier, one.n, one.context_tokens, one.generated_tokens, one.micro_usd]]
    waits = {tier: [0.0] * 200 for tier in TIERS}
    daily = [[0.0] * 3]
    return Account(tiers=tiers, waits=waits, daily=daily, refused=rows, spare=[spare])


ASKED = Refused(0, "default", 40, 40_000, 8_000, 7_200)


def test_an_overloaded_site_sends_to_the_cheapest_permitted_peer():
    scenario = _federated(
        _region("eu", 2, 0.0003, default="regions=eu,uk"),
        _region("uk", 1, 0.0002),
        _region("us", 1, 0.0001),
    )
    sites = [_site(ASKED), _site(idle_s=30.0), _site(idle_s=30.0), _site(idle_s=30.0)]
    after = federation.settled(scenario, sites)
    assert [site.ai_worked > 0.0 for site in after] == [False, False, True, False]
    counts = after[0].tiers["default"]
    assert (counts["moved"], counts["refused"], counts["completed"]) == (40, 0, 40)
    # Its tenants pay it by its own price; it pays the peer by the peer's.
    assert counts["micro_usd"] == 7_200
    cost = Price.from_usd(0.0002, 0.0002).amount_micro_usd(40_000, 8_000)
    assert after[0].overflow == {"to_sites": 40, "sites_micro_usd": cost}
    # What they were before is as it was.
    assert sites[0].tiers["default"]["moved"] == 0


def test_what_the_cheapest_cannot_take_goes_to_the_next_and_to_clouds():
    cloud = {"name": "big", "region": "eu", "max_concurrent": 1000}
    cloud["price"] = {"input_usd_per_1k": 0.01, "output_usd_per_1k": 0.01}
    scenario = _federated(
        _region("eu", 2, 0.0003, default="regions=eu,uk"), _region("uk", 1, 0.0002), clouds=[cloud]
    )
    sites = [_site(ASKED), _site(idle_s=1.0), _site(idle_s=1.0)]
    after = federation.settled(scenario, sites)
    # 90 ms of an engine each: 11 to a second.
    assert after[0].overflow["to_sites"] == 22
    assert after[0].overflow["to_clouds"] == 18
    assert after[0].tiers["default"]["moved"] == 40
    assert federation.Histogram(after[0].waits["default"]).quantile(0.9) > 0.5  # type: ignore[operator]


def test_peers_take_no_more_at_once_than_they_promise():
    one = _federated(_region("eu", 2, 0.0, default="regions=eu"), most=1)
    after = federation.settled(one, [_site(ASKED), _site(idle_s=60.0)])
    assert 0 < after[0].tiers["default"]["moved"] < 40


NAMES = ("eu", "uk", "us")


@settings(max_examples=60)
@given(
    policies=st.lists(
        st.one_of(st.just("stay"), st.sets(st.sampled_from(NAMES), min_size=1)), min_size=3
    ),
    idle=st.lists(st.floats(0.0, 60.0), min_size=6, max_size=6),
    usd=st.lists(st.sampled_from([0.0001, 0.0002, 0.0003]), min_size=3, max_size=3),
    n=st.integers(1, 3000),
)
def test_no_prompt_crosses_a_residency_border(policies, idle, usd, n):
    texts = [one if one == "stay" else "regions=" + ",".join(sorted(one)) for one in policies[:3]]
    regions = [
        _region(name, 2, price, default=text)
        for name, price, text in zip(NAMES, usd, texts, strict=True)
    ]
    for home in range(3):
        asked = Refused(0, "default", n, n * 1000, n * 200, n)
        sites = [_site(idle_s=one) for one in idle]
        sites[2 * home] = _site(asked)
        after = federation.settled(_federated(*regions), sites)
        moved = after[2 * home].tiers["default"]["moved"]
        assert 0 <= moved <= n
        allowed = parse_policy(texts[home]).regions
        for number, site in enumerate(after):
            if site.ai_worked > 0.0:
                assert NAMES[number // 2] in allowed
                assert site.ai_worked <= 64.0 * idle[number] + 1e-6
            # Nobody to whom a peer could pass it on has room: its own site has asked them all.
            if moved < n and NAMES[number // 2] in allowed and number != 2 * home:
                assert site.ai_worked >= 64.0 * (idle[number] - 0.1)
        assert moved == after[2 * home].overflow.get("to_sites", 0)


def _busy(**changes: Any) -> Scenario:
    """Three sites of different regions, of which none has flex work to fill it."""
    tiers = [{"tier": "default", "requests_per_s": 12.0}]
    clouds = [
        {"name": "big", "region": "eu", "price": PRICES["priority"], "max_concurrent": 400},
        {"name": "far", "region": "us", "price": PRICES["flex"], "max_concurrent": 400},
    ]
    spec = {
        "regions": [
            _region("eu", 2, 0.0001, default="regions=eu"),
            _region("us", 1, 0.0001),
        ],
        "clouds": clouds,
    }
    base = {"cells": 60, "cells_per_site": 20, "step_s": 300, "warmup_days": 3}
    return load("site-day", base | {"llm": {"tiers": tiers}, "federation": spec} | changes)


def test_a_federation_serves_what_its_sites_would_refuse():
    alone = runner.run(_busy(federation=None), ["demand"], HERE)["policies"][0]
    together = runner.run(_busy(), ["demand"], HERE)["policies"][0]
    assert alone["ai"]["moved"] == 0
    assert together["ai"]["moved"] > 0
    before, after = (one["ai"]["tiers"]["default"] for one in (alone, together))
    assert before["arrived"] == after["arrived"]
    assert before["refused"] == after["refused"] + after["moved"]
    assert after["revenue_usd"] > before["revenue_usd"]
    assert together["overflow"]["clouds_cost_usd"] > 0.0
    assert sum(together["overflow"][name] for name in ("to_sites", "to_clouds")) == after["moved"]


def test_a_federation_is_the_same_to_the_bit_in_processes_and_resumed(tmp_path):
    scenario, kept = _busy(), tmp_path / "kept.jsonl"
    alone = json.dumps(runner.run(scenario, ["demand"], HERE, resume=kept))
    assert json.dumps(runner.run(scenario, ["demand"], runner.in_processes(2))) == alone
    lines = kept.read_text().splitlines(keepends=True)
    kept.write_text("".join(lines[:2]))
    assert json.dumps(runner.run(scenario, ["demand"], HERE, resume=kept)) == alone


@pytest.mark.parametrize(
    ("text", "line", "field"),
    [
        ("{name: EU, sites: 1, price: {input_usd_per_1k: 0, output_usd_per_1k: 0}}", 5, "name"),
        ("{name: eu, sites: 0, price: {input_usd_per_1k: 0, output_usd_per_1k: 0}}", 5, "sites"),
        ("{name: eu, sites: 1, price: {input_usd_per_1k: -1, output_usd_per_1k: 0}}", 5, "price"),
        (
            "{name: eu, sites: 1, policies: {flex: everywhere},"
            " price: {input_usd_per_1k: 0, output_usd_per_1k: 0}}",
            5,
            "policies",
        ),
    ],
)
def test_a_bad_federation_names_file_line_and_field(tmp_path, text, line, field):
    path = tmp_path / "mine.yaml"
    path.write_text(
        f"policies: {{demand: {{}}}}\ncells: 20\nfederation:\n  regions:\n    - {text}\n"
    )
    with pytest.raises(ConfigError, match=rf"mine\.yaml line {line}.*{field}"):
        load(str(path))


def test_regions_with_too_few_sites_are_refused(tmp_path):
    path = tmp_path / "mine.yaml"
    region = "{name: eu, sites: 2, price: {input_usd_per_1k: 0, output_usd_per_1k: 0}}"
    path.write_text(f"policies: {{demand: {{}}}}\nfederation: {{regions: [{region}]}}\n")
    with pytest.raises(ConfigError, match="regions have 2 sites, the scenario has 1"):
        load(str(path))


def test_an_unknown_promise_of_a_tier_is_refused(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("policies: {demand: {}}\nttft_target_s: {priority: 0}\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml line 2, field ttft_target_s\.priority"):
        load(str(path))


def test_an_empty_price_list_asks_nothing():
    assert price_at(PriceList([], {"simulated": Price(0, 0)}), "flex") == Price(0, 0)


@pytest.mark.parametrize("step_s", [10.0, 60.0, 300.0, 900.0])
def test_higher_tiers_take_the_share_that_they_have_however_long_a_step_is(step_s):
    gate = Admission(TtftTargets(flex=1000.0), step_s)
    gate.engines(Engines(5000.0, 20_000.0), 0.0)
    # A request of priority every second takes half of it.
    n = round(step_s)
    priority = Asked("priority", n, n * 2_000, n * 2_000)
    steps = round(3600 / step_s)
    for step in range(steps):
        assert gate.let(priority, Work(0, 0), step * step_s).n == n
    flex = Asked("flex", 100_000, 200_000_000, 200_000_000)
    let = gate.let(flex, Work(0, 0), steps * step_s).n
    # Half a second each, of half of the time; and what priority may well take more is kept free.
    assert 140.0 < 1000.0 + step_s - let < 190.0
