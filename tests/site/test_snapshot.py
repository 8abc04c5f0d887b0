"""Assembly of a snapshot from the orchestrator and the marketplace, also when they are away."""

import json
from collections.abc import AsyncIterator

import httpx
import pytest

from airan.core.errors import AuthError, UnavailableError
from airan.site.market_reader import HttpMarketReader, parse_stats
from airan.site.snapshot import describe, format_time_of_day
from airan.site.snapshot_source import MarketEvent
from tests.dashboard.scripted_site import BUDGET_US, SM_COUNT, START_S, ScriptedSite


@pytest.fixture
def site() -> ScriptedSite:
    site = ScriptedSite()
    for _ in range(20):
        site.advance(1.0)
    return site


async def test_a_snapshot_shows_the_gpu_the_slots_and_the_market(site: ScriptedSite) -> None:
    snapshot = await site.source().snapshot()
    assert snapshot.control is not None
    assert snapshot.market is not None
    assert snapshot.problems == ()
    partitions = snapshot.control.gpus[0].partitions
    assert [(p.role, p.start, p.size) for p in partitions] == [
        ("ai", 0, 4),
        ("ran", 4, 2),
        ("free", 6, 2),
    ]
    assert partitions[0].lease_holder == "engine-0"
    assert snapshot.control.shares.ran_held == pytest.approx(32 / SM_COUNT)
    assert snapshot.control.shares.ai_leased == pytest.approx(64 / SM_COUNT)
    assert snapshot.slots is not None
    assert snapshot.slots.budget_us == BUDGET_US
    assert snapshot.market.engines[0].phase == "ready"


async def test_every_snapshot_names_what_is_simulated(site: ScriptedSite) -> None:
    snapshot = await site.source().snapshot()
    assert snapshot.simulated is True
    assert snapshot.label == "SIMULATED GH200-96GB · slot clock slowed 40x"


async def test_site_time_runs_on_the_day_clock(site: ScriptedSite) -> None:
    snapshot = await site.source().snapshot()
    assert snapshot.time_s == START_S + 20
    assert snapshot.site_time_s == 20 * 480
    assert snapshot.to_dict()["site_time_of_day"] == "02:40"


async def test_a_snapshot_becomes_json(site: ScriptedSite) -> None:
    values = json.loads(json.dumps((await site.source().snapshot()).to_dict()))
    assert values["control"]["gpus"][0]["partitions"][0]["profile"] == "4g.48gb"
    assert values["market"]["requests"]["completed"] == 20


async def test_busy_share_is_that_of_the_last_seconds_not_of_the_whole_run(
    site: ScriptedSite,
) -> None:
    source = site.source()
    first = await source.snapshot()
    assert first.control is not None
    assert first.control.shares.ai_busy is None
    before = site.ai_busy_integral_s
    site.advance(1.0)
    second = await source.snapshot()
    assert second.control is not None
    assert second.control.shares.ai_busy == pytest.approx(site.ai_busy_integral_s - before)


async def test_nothing_is_busy_without_a_lease(site: ScriptedSite) -> None:
    source = site.source()
    while site.ai_share:
        site.advance(0.5)
        snapshot = await source.snapshot()
    assert snapshot.control is not None
    assert snapshot.control.shares.ai_leased == 0
    assert snapshot.control.shares.ai_busy == 0


async def test_an_orchestrator_that_is_away_is_named_and_its_figures_vanish(
    site: ScriptedSite,
) -> None:
    source = site.source()
    await source.snapshot()
    site.control_away = "cannot be reached"
    site.advance(1.0)
    away = await source.snapshot()
    assert away.control is None
    assert away.slots is None
    assert away.market is not None
    assert [(p.service, p.message) for p in away.problems] == [("control", "cannot be reached")]
    assert away.label.startswith("SIMULATED")


async def test_a_problem_keeps_the_time_it_was_first_noticed(site: ScriptedSite) -> None:
    source = site.source()
    site.market_away = "cannot be reached"
    noticed_s = site.clock.now_s()
    await source.snapshot()
    site.advance(5.0)
    assert [p.since_s for p in (await source.snapshot()).problems] == [noticed_s]
    site.market_away = None
    assert (await source.snapshot()).problems == ()


async def test_a_silent_layer_1_leaves_counters_but_no_live_figures(site: ScriptedSite) -> None:
    site.layer1_silent_since_s = site.clock.now_s()
    site.advance(4.0)
    snapshot = await site.source().snapshot()
    assert [(p.service, p.message) for p in snapshot.problems] == [("l1", "reports no slots")]
    assert snapshot.time_s - snapshot.problems[0].since_s == pytest.approx(4.0)
    assert snapshot.slots is not None
    assert snapshot.slots.slots > 0
    assert snapshot.slots.p99_us is None
    assert snapshot.control is not None
    assert snapshot.control.shares.ran_demand is None
    assert {cell.load for cell in snapshot.control.cells} == {None}


async def test_an_engine_the_gateway_lost_is_named(site: ScriptedSite) -> None:
    site.engine_phase = "lost"
    snapshot = await site.source().snapshot()
    assert [(p.service, p.message) for p in snapshot.problems] == [
        ("engine", "does not answer the gateway")
    ]


async def test_events_of_both_services_come_once_and_in_order_of_time(site: ScriptedSite) -> None:
    for _ in range(60):
        site.advance(1.0)
    source = site.source()
    events = await source.new_events()
    assert {event.source for event in events} == {"control", "gateway"}
    assert [e.time_s for e in events] == sorted(e.time_s for e in events)
    assert await source.new_events() == []


async def test_events_missed_while_a_service_was_away_come_later(site: ScriptedSite) -> None:
    source = site.source()
    site.control_away = "cannot be reached"
    for _ in range(60):
        site.advance(1.0)
    assert {event.source for event in await source.new_events()} == {"gateway"}
    site.control_away = None
    assert {event.source for event in await source.new_events()} == {"control"}


def market_reader(handler: httpx.MockTransport) -> HttpMarketReader:
    reader = HttpMarketReader("http://gateway", "admin-key")
    reader._client._transport = handler
    return reader


@pytest.fixture
async def closing() -> AsyncIterator[list[HttpMarketReader]]:
    readers: list[HttpMarketReader] = []
    yield readers
    for reader in readers:
        await reader.aclose()


async def test_the_market_is_read_with_the_admin_key(
    site: ScriptedSite, closing: list[HttpMarketReader]
) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert request.headers["Authorization"] == "Bearer admin-key"
        assert request.url.path == "/admin/v1/stats"
        return httpx.Response(200, json=site.stats())

    reader = market_reader(httpx.MockTransport(answer))
    closing.append(reader)
    assert await reader.stats() == parse_stats(site.stats())


async def test_market_events_are_read_after_a_number(closing: list[HttpMarketReader]) -> None:
    row = {
        "time_s": 2.0,
        "severity": "info",
        "kind": "engine.ready",
        "message": "m",
        "job_id": None,
    }

    def answer(request: httpx.Request) -> httpx.Response:
        assert request.url.params["after"] == "6"
        return httpx.Response(200, json={"data": [{"seq": 7} | row]})

    reader = market_reader(httpx.MockTransport(answer))
    closing.append(reader)
    assert await reader.events(6) == [MarketEvent(7, 2.0, "info", "engine.ready", "m")]


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (httpx.Response(401), AuthError),
        (httpx.Response(503), UnavailableError),
        (httpx.Response(200, text="<html>"), UnavailableError),
        (httpx.Response(200, json={"requests": {}}), UnavailableError),
    ],
)
async def test_an_answer_that_is_none_becomes_one_of_our_errors(
    response: httpx.Response, expected: type[Exception], closing: list[HttpMarketReader]
) -> None:
    reader = market_reader(httpx.MockTransport(lambda request: response))
    closing.append(reader)
    with pytest.raises(expected):
        await reader.stats()


async def test_a_gateway_that_does_not_listen_cannot_be_reached(
    closing: list[HttpMarketReader],
) -> None:
    reader = HttpMarketReader("http://127.0.0.1:9", "admin-key")
    closing.append(reader)
    with pytest.raises(UnavailableError, match="cannot be reached"):
        await reader.events(0)


def test_the_label_of_a_real_gpu_at_radio_speed_claims_nothing_simulated() -> None:
    assert describe(False, "GH200-96GB", 1.0) == "GH200-96GB"


def test_time_of_day_wraps_at_midnight() -> None:
    assert format_time_of_day(86400 + 90 * 60) == "01:30"
