"""Replicas follow the load inside the lease, and never go beyond it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airan.core.clock import ManualClock
from airan.core.errors import CapacityError, InvalidInputError, NotFoundError
from marketplace.dispatch.autoscale import Autoscaler, ScaleRules
from marketplace.dispatch.scaling import ReplicaScaler
from marketplace.engines.agent import EngineAgentSettings
from marketplace.engines.divided import DividedLease
from marketplace.engines.leases import LeaseKeeper
from marketplace.engines.replicas import ReplicaSet, serve_replicas
from tests.marketplace.site import (
    MODEL,
    FakeControl,
    FakeLease,
    admin_get,
    eventually,
    gateway_settings,
    new_key,
    running_gateway,
)

RULES = ScaleRules(sm_per_replica=16, streams_per_replica=4, max_replicas=6, target_busy=0.5)

# The decision


@given(
    st.builds(
        ScaleRules,
        sm_per_replica=st.integers(1, 40),
        streams_per_replica=st.integers(1, 8),
        max_replicas=st.integers(2, 8),
        min_replicas=st.integers(0, 2),
        target_busy=st.floats(0.1, 1.0),
        hold_s=st.floats(0.0, 60.0),
    ),
    st.lists(
        st.tuples(st.integers(0, 100), st.integers(0, 132), st.floats(0.0, 20.0)), max_size=40
    ),
)
def test_whatever_the_load_replicas_stay_inside_the_lease(
    rules: ScaleRules, looks: list[tuple[int, int, float]]
) -> None:
    scaler, now_s = Autoscaler(rules), 0.0
    for n_requests, sm_count, later_s in looks:
        now_s += later_s
        n_replicas = scaler.decide(n_requests, sm_count, now_s)
        carried = rules.carried_by(sm_count)
        assert 0 <= n_replicas * rules.sm_per_replica <= sm_count
        assert n_replicas <= rules.max_replicas
        # Never too few either: what the load calls for now runs if the lease carries it.
        assert n_replicas >= min(carried, max(rules.min_replicas, rules.called_for(n_requests)))


def test_a_rising_load_is_followed_at_once_and_a_falling_one_when_it_stays_low() -> None:
    scaler = Autoscaler(RULES)
    steps = [(0, 0.0), (5, 1.0), (8, 2.0), (0, 3.0), (3, 20.0), (3, 31.0), (3, 32.5), (0, 70.0)]
    found = [scaler.decide(n_requests, 132, now_s) for n_requests, now_s in steps]
    assert found == [1, 3, 4, 4, 4, 4, 2, 1]


def test_a_smaller_lease_is_obeyed_at_once() -> None:
    scaler = Autoscaler(RULES)
    assert [scaler.decide(20, sm, 0.0) for sm in (132, 64, 15, 0, 132)] == [6, 4, 0, 0, 6]


@pytest.mark.parametrize(
    "wrong",
    [
        {"sm_per_replica": 0},
        {"streams_per_replica": 0},
        {"min_replicas": 7},
        {"target_busy": 0.0},
        {"hold_s": -1.0},
    ],
)
def test_rules_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    values = {"sm_per_replica": 16, "streams_per_replica": 4, "max_replicas": 6}
    with pytest.raises(InvalidInputError):
        ScaleRules(**(values | wrong))  # type: ignore[arg-type]


# The lease in parts


_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("want"), st.integers(0, 4)),
        st.tuples(st.just("resize"), st.integers(0, 80)),
        st.tuples(st.just("ask"), st.integers(0, 3)),
        st.tuples(st.just("give back"), st.integers(0, 3)),
    ),
    max_size=60,
)


@given(_STEPS)
def test_the_parts_lent_never_exceed_the_lease(steps: list[tuple[str, int]]) -> None:
    asyncio.run(_play(steps))


async def _play(steps: list[tuple[str, int]]) -> None:
    clock = ManualClock()
    keeper = LeaseKeeper(FakeControl(), "engine", 1, clock, confirm_timeout_s=30.0)
    divided = DividedLease(keeper, clock, n_replicas=4, sm_per_replica=16)
    watching = [source.watch_leases("engine") for source in divided.replicas]
    for watch in watching:
        assert (await anext(watch)).lease is None
    keeper.lease = FakeLease("lease-1", "engine", 64)
    for step, number in steps:
        if step == "want":
            divided.want(number)
        elif step == "resize":
            keeper.lease = FakeLease("lease-1", "engine", number)
            await keeper.on_resized(keeper.lease)
        elif step == "ask":
            before = divided.sm_lent
            try:
                await divided.replicas[number].acquire_lease("engine", 1)
            except CapacityError:
                assert divided.sm_lent == before
            else:
                # Only what is being taken back may still be over a lease that shrank.
                assert divided.sm_lent <= divided.sm_count
                assert number < divided.wanted
        else:
            for part in divided.parts_of(number):
                await divided.replicas[number].release_lease(part.id)
        carried = min(divided.wanted, divided.sm_count // 16)
        active = [part for n in range(4) for part in divided.parts_of(n) if part.state == "active"]
        assert len(active) <= carried
    for watch in watching:
        await watch.aclose()  # type: ignore[attr-defined]


async def test_a_part_that_is_not_ones_own_cannot_be_used_or_given_back() -> None:
    clock, control = ManualClock(), FakeControl()
    keeper = LeaseKeeper(control, "engine", 1, clock, confirm_timeout_s=30.0)
    divided = DividedLease(keeper, clock, n_replicas=2, sm_per_replica=32)
    keeper.lease = await control.acquire_lease("engine", 1)
    divided.want(2)
    mine, other = [await source.acquire_lease("e", 1) for source in divided.replicas]
    with pytest.raises(NotFoundError):
        await divided.replicas[0].release_lease(other.id)
    with pytest.raises(NotFoundError):
        await divided.replicas[0].report_use(other.id, 1.0, 1.0)
    await divided.replicas[1].report_use(other.id, 1.0, 1.0)
    await divided.replicas[0].report_use(mine.id, 0.5, 0.0)
    # One of two halves was busy all the time: the lease was busy half of it.
    assert control.reports == [("lease-1", 0.5, 0.25)]


# With real engines


@asynccontextmanager
async def running_replicas(
    model_path: Path, control: FakeControl, n_replicas: int, sm_per_replica: int
) -> AsyncIterator[str]:
    settings = EngineAgentSettings(
        "engine-0", MODEL, model_path, 0, max_concurrent=2, background=False
    )
    replicas = ReplicaSet(settings, control, n_replicas=n_replicas, sm_per_replica=sm_per_replica)
    stop, port = asyncio.Event(), asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(serve_replicas(replicas, "127.0.0.1", 0, stop, port.set_result))
    try:
        await asyncio.wait({port, serving}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            await serving
        yield f"http://127.0.0.1:{port.result()}"
    finally:
        stop.set()
        await serving


async def test_replicas_come_with_the_load_and_go_with_the_lease(
    model_path: Path, tmp_path: Path
) -> None:
    control = FakeControl(sm_count=48)
    story = [{"role": "user", "content": "Tell me a story about the sea."}]
    async with running_replicas(model_path, control, 3, 16) as engine_url:
        urls = [f"{engine_url}/replicas/{number}" for number in range(3)]
        settings = gateway_settings(tmp_path, *urls, replica_urls=(engine_url,))
        async with running_gateway(settings) as url, httpx.AsyncClient(timeout=30) as http:

            async def replicas() -> dict[str, int]:
                return dict((await http.get(f"{engine_url}/replicas")).json())

            async def active(n_wanted: int) -> bool:
                found = await replicas()
                assert found["active"] * found["sm_per_replica"] <= 48
                return found["active"] == n_wanted

            await eventually(lambda: active(1))
            key = await new_key(url)
            async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key) as client:
                asking = [
                    asyncio.create_task(
                        client.chat.completions.create(
                            model=MODEL, messages=story, temperature=0, max_tokens=250
                        )
                    )
                    for _ in range(3)
                ]
                await eventually(lambda: active(3))
                # The lease shrinks to one part: the answers go on there.
                control.resize(31)
                await eventually(lambda: active(1))
                await control.revoke()
                assert control.released_late_s[0] < 0
                assert (await replicas())["sm_count"] == 0
                control.offer()
                answers = await asyncio.gather(*asking)
            assert len({answer.choices[0].message.content for answer in answers}) == 1
            stats = await admin_get(url, "stats")
            assert stats["requests"]["completed"] == 3
            counted = sum(answer.usage.completion_tokens for answer in answers)
            assert (stats["tokens"]["output"], stats["tokens"]["lost"]) == (counted, 0)
    assert control.held == {}


async def test_a_wrong_number_of_replicas_is_refused_by_name(model_path: Path) -> None:
    control = FakeControl()
    async with (
        running_replicas(model_path, control, 2, 16) as url,
        httpx.AsyncClient(timeout=30) as http,
    ):
        for body in ('{"wanted": 3}', '{"wanted": true}', "{}", "no json"):
            answer = await http.put(f"{url}/replicas", content=body)
            assert answer.status_code == 400
            assert "wanted" in answer.json()["error"]


async def test_an_engine_that_does_not_answer_is_passed_over(
    model_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    control, clock = FakeControl(), ManualClock(time.monotonic())
    async with (
        running_replicas(model_path, control, 2, 16) as url,
        httpx.AsyncClient(timeout=30) as http,
    ):
        await eventually(lambda: control.held)
        scaler = ReplicaScaler(["http://127.0.0.1:9", url], lambda _: 3, clock)
        await scaler.look(http)
        assert (await http.get(f"{url}/replicas")).json()["wanted"] == 2
    assert "http://127.0.0.1:9" in caplog.text
