"""The radio takes the GPU while a tenant's stream is open: the stream pauses and goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import TypeVar

import pytest

from orchestrator.api.client import ControlClient, call
from orchestrator.views import Lease
from tests.e2e.conftest import MODEL, Site, eventually

pytestmark = pytest.mark.e2e
T = TypeVar("T")

REQUEST = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Write a long story about a lighthouse keeper."}],
    "max_tokens": 220,
    "temperature": 0,
}


@pytest.fixture
def demand_policy(site: Site) -> Iterator[None]:
    """Puts the site's own policy back, whatever the test did to it."""
    yield
    done = site.airan("policy", "set", "demand")
    assert done.returncode == 0, done.stderr
    eventually(site.ready, "an engine on a lease again", 60)


def control(site: Site, action: Callable[[ControlClient], Awaitable[T]]) -> T:
    """Asks the orchestrator without a command in between: one takes as long to start as many
    tokens to come."""
    port = site.body["config"]["ports"]["control"]
    return call(f"127.0.0.1:{port}", action, timeout_s=30.0)


def leases(site: Site) -> list[Lease]:
    return control(site, lambda client: client.leases())


async def give_all_to_the_radio(client: ControlClient) -> None:
    await client.set_policy(replace(await client.get_policy(), kind="static", ran_share=1.0))


@pytest.mark.timeout(180)
def test_a_stream_outlives_a_revocation_word_for_word(site: Site, demand_policy: None) -> None:
    eventually(lambda: any(one.state == "active" for one in leases(site)), "a lease", 60)
    whole = site.client().chat.completions.create(**REQUEST).choices[0].message.content
    before = site.stats()
    parts: list[str] = []
    gaps: list[float] = []

    def read() -> None:
        last_s = time.monotonic()
        for chunk in site.client().chat.completions.create(**REQUEST, stream=True):
            if chunk.choices and chunk.choices[0].delta.content:
                parts.append(chunk.choices[0].delta.content)
                gaps.append(time.monotonic() - last_s)
                last_s = time.monotonic()

    reader = threading.Thread(target=read)
    reader.start()

    def pauses() -> bool:
        # Nothing may come while the radio holds the GPU; one second is fifty tokens' time.
        n_before = len(parts)
        time.sleep(1.0)
        return len(parts) == n_before

    eventually(lambda: len(parts) > 20, "20 pieces of the stream", 60)
    control(site, give_all_to_the_radio)
    eventually(lambda: not leases(site), "the lease has ended", 60)
    # What had been said by then may still be on its way.
    eventually(pauses, "the stream pauses", 20)
    assert reader.is_alive()
    assert site.airan("policy", "set", "demand").returncode == 0
    reader.join(90)
    assert not reader.is_alive()
    assert "".join(parts) == whole
    assert max(gaps) > 1.0
    after = site.stats()
    assert after["requests"]["preempted"] == before["requests"]["preempted"] + 1
    assert after["tokens"]["lost"] == 0
    kinds = {event["kind"] for event in site.airan_json("events", "--limit", "1000")}
    assert {"policy.changed", "lease.revoked", "request.preempted", "request.resumed"} <= kinds


def test_a_dry_run_shows_the_moves_and_changes_nothing(site: Site) -> None:
    before = site.airan_json("policy", "get")
    plan = site.airan_json("policy", "set", "static", "--ran-share", "1.0", "--dry-run")
    assert plan["plan"]["ai_share"] == 0
    assert plan["moves"]
    assert site.airan_json("policy", "get") == before


def test_a_policy_out_of_range_is_refused(site: Site) -> None:
    done = site.airan("policy", "set", "static", "--ran-share", "1.5")
    assert done.returncode != 0
    assert "ran" in done.stderr
