"""The poller and its stream of server-sent events."""

import json
import math
from typing import Any

import pytest

from airan.dashboard.feed import Feed, thin_out
from airan.site.series import COLUMNS
from tests.dashboard.conftest import SteppingSource
from tests.dashboard.scripted_site import ScriptedSite


def parse(message: str) -> tuple[str, Any]:
    lines = [line for line in message.strip().splitlines() if not line.startswith("retry:")]
    event, data = lines
    return event.removeprefix("event: "), json.loads(data.removeprefix("data: "))


@pytest.fixture
def feed() -> Feed:
    return Feed(SteppingSource(ScriptedSite()), interval_s=1.0, history_s=50.0)


async def test_a_new_page_gets_the_history_before_anything_else(feed: Feed) -> None:
    for _ in range(10):
        await feed.poll()
    stream = feed.stream()
    first = await anext(stream)
    assert first.startswith("retry: 1000\n")
    event, history = parse(first)
    assert event == "history"
    assert history["columns"] == list(COLUMNS)
    assert [len(column) for column in history["points"]] == [10] * len(COLUMNS)
    assert history["snapshot"]["site"] == "edge-1"
    await stream.aclose()


async def test_a_poll_reaches_every_open_page(feed: Feed) -> None:
    streams = [feed.stream(), feed.stream()]
    for stream in streams:
        await anext(stream)
    await feed.poll()
    for stream in streams:
        event, snapshot = parse(await anext(stream))
        assert event == "snapshot"
        assert snapshot["control"]["plan"]["generation"] == 1
        await stream.aclose()


async def test_events_are_sent_once_live_and_kept_for_later_pages(feed: Feed) -> None:
    stream = feed.stream()
    await anext(stream)
    for _ in range(50):
        await feed.poll()
    messages = [parse(await anext(stream)) for _ in range(50)]
    sent = [data for event, data in messages if event == "event"]
    assert "lease.revoked" in [event["kind"] for event in sent]
    assert feed.history()["events"][: len(sent)] == sent
    await stream.aclose()


async def test_the_ring_forgets_what_is_older_than_the_history(feed: Feed) -> None:
    for _ in range(60):
        await feed.poll()
    assert len(feed.history()["points"][0]) == 50


async def test_a_page_that_does_not_read_is_cut_off(feed: Feed) -> None:
    stream = feed.stream()
    await anext(stream)
    for _ in range(200):
        await feed.poll()
    messages = [message async for message in stream]
    assert 0 < len(messages) < 100


async def test_closing_ends_open_streams_and_leaves_new_ones_their_history(feed: Feed) -> None:
    stream = feed.stream()
    await anext(stream)
    feed.close()
    assert [message async for message in stream] == []
    assert len([message async for message in feed.stream()]) == 1


async def test_a_service_that_is_away_leaves_gaps_not_old_figures(feed: Feed) -> None:
    source = feed._source
    assert isinstance(source, SteppingSource)
    await feed.poll()
    source.site.control_away = "cannot be reached"
    await feed.poll()
    history = feed.history()
    p99 = history["points"][COLUMNS.index("p99_us")]
    assert p99[0] is not None
    assert p99[1] is None
    assert history["snapshot"]["control"] is None


def test_thinning_keeps_the_worst_latency() -> None:
    column = COLUMNS.index("max_us")
    points = [tuple(math.nan if i != column else float(n) for i in range(13)) for n in range(100)]
    points[37] = (*points[37][:column], 1e6, *points[37][column + 1 :])
    thinned = thin_out(points, 10)
    assert len(thinned) == 10
    assert thinned[3][column] == 1e6
