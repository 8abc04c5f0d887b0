"""The engine agent and its lease, with the real llama.cpp and a control plane in memory."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path

import httpx
import pytest

from airan.core.clock import SystemClock
from airan.core.errors import PortInUseError, UnavailableError
from marketplace.asgi import bind
from marketplace.engines.agent import EngineAgent, EngineAgentSettings
from marketplace.engines.agent_server import serve_agent
from marketplace.engines.base import SamplingParams
from marketplace.engines.leases import LeaseKeeper
from marketplace.engines.llamacpp import LlamaCppEngine
from tests.marketplace.site import (
    MODEL,
    FakeControl,
    FakeLease,
    eventually,
    running_agent,
)


async def get_state(url: str) -> dict:
    async with httpx.AsyncClient(timeout=30) as http:
        return (await http.get(f"{url}/state")).json()


async def wait_for_phase(url: str, phase: str, timeout_s: float = 30.0) -> dict:
    async def reached() -> dict | None:
        state = await get_state(url)
        return state if state["phase"] == phase else None

    return await eventually(reached, timeout_s)


async def occupy(llama_url: str, prompt: str = "The sea", n_tokens: int = 1900) -> asyncio.Task:
    """Keeps a slot busy and does not listen to anybody. The greedy answer does not end by itself:
    whoever is cut off between two answers would only ask again."""
    engine = LlamaCppEngine(llama_url)
    ids = await engine.tokenize(prompt, parse_special=False)

    async def generate() -> None:
        try:
            while True:
                async for _ in engine.generate(
                    ids, SamplingParams(n_tokens, temperature=0.0), slot=0
                ):
                    pass
        finally:
            await engine.aclose()

    return asyncio.create_task(generate())


async def test_a_lease_makes_the_engine_ready_with_as_many_streams_as_its_sms_carry(
    model_path: Path,
) -> None:
    control = FakeControl(sm_count=48)
    async with running_agent(model_path, control) as url:
        state = await wait_for_phase(url, "ready")
    assert (state["lease_id"], state["sm_count"], state["max_concurrent"]) == ("lease-1", 48, 3)
    assert control.held == {}, "the lease is given back at the end"


async def test_without_capacity_the_engine_waits_and_takes_the_next_offer(
    model_path: Path,
) -> None:
    control = FakeControl(free=False)
    async with running_agent(model_path, control) as url:
        assert (await wait_for_phase(url, "no_lease"))["max_concurrent"] == 0
        control.offer()
        await wait_for_phase(url, "ready")


async def test_an_idle_engine_gives_a_revoked_lease_back_long_before_the_deadline(
    agent_url: str, control: FakeControl
) -> None:
    await wait_for_phase(agent_url, "ready")
    await control.revoke(notice_s=10.0)
    assert control.released_late_s[0] < -5.0
    assert (await get_state(agent_url))["phase"] == "no_lease"
    control.offer()
    assert (await wait_for_phase(agent_url, "ready"))["lease_id"] == "lease-2"


async def test_a_resized_lease_goes_on_with_another_number_of_streams(
    agent_url: str, control: FakeControl
) -> None:
    before = await wait_for_phase(agent_url, "ready")

    async def resized_to(sm_count: int) -> dict:
        async def reached() -> dict | None:
            state = await get_state(agent_url)
            return state if state["sm_count"] == sm_count else None

        control.resize(sm_count)
        return await eventually(reached)

    smaller = await resized_to(16)
    assert (smaller["phase"], smaller["lease_id"]) == ("ready", before["lease_id"])
    assert smaller["max_concurrent"] == 1
    assert (await resized_to(64))["max_concurrent"] == before["max_concurrent"]


async def test_watchers_hear_of_a_revocation_at_once(agent_url: str, control: FakeControl) -> None:
    await wait_for_phase(agent_url, "ready")
    phases = []

    async def watch() -> None:
        async with (
            httpx.AsyncClient(timeout=30) as http,
            http.stream("GET", f"{agent_url}/state/watch") as response,
        ):
            async for line in response.aiter_lines():
                for phase in ("ready", "draining", "no_lease"):
                    if f'"phase": "{phase}"' in line:
                        phases.append(phase)

    watching = asyncio.create_task(watch())
    await eventually(lambda: phases)
    await control.revoke()
    await eventually(lambda: phases[-1] == "no_lease")
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching
    assert list(dict.fromkeys(phases)) == ["ready", "draining", "no_lease"]


async def test_a_client_that_does_not_yield_is_cut_off_before_the_deadline(
    agent_url: str, control: FakeControl
) -> None:
    # The cut comes a fifth of a second before the deadline: a busy machine may need more than that,
    # and rarely does so three times in a row.
    for _ in range(3):
        before = await wait_for_phase(agent_url, "ready")
        busy = await occupy(before["url"])
        await eventually(lambda: running(agent_url))
        await control.revoke(notice_s=1.5)
        with pytest.raises(UnavailableError):
            await busy
        control.offer()
        after = await wait_for_phase(agent_url, "ready")
        if control.released_late_s[-1] < 0:
            assert after["url"] == before["url"]
            return
    pytest.fail(f"given back late by {control.released_late_s} s")


async def test_an_engine_stuck_in_a_long_prompt_is_stopped_and_comes_back(
    agent_url: str, control: FakeControl
) -> None:
    before = await wait_for_phase(agent_url, "ready")
    busy = await occupy(before["url"], "the sea was wide and green " * 150, 800)
    await eventually(lambda: running(agent_url))
    await control.revoke(notice_s=0.5)
    with pytest.raises(UnavailableError):
        await busy
    # llama.cpp finishes the batch in work: a fraction of a second, if the machine is idle.
    assert control.released_late_s[0] < 10.0
    control.offer()
    assert (await wait_for_phase(agent_url, "ready"))["url"] != before["url"]


async def running(url: str) -> int:
    return (await get_state(url))["running"]


async def test_the_busy_part_of_the_time_is_measured_and_reported(
    agent_url: str, control: FakeControl
) -> None:
    state = await wait_for_phase(agent_url, "ready")
    await eventually(lambda: len(control.reports) >= 2)
    assert control.reports[-1][2] == 0.0
    busy = await occupy(state["url"])
    await eventually(lambda: any(part > 0.9 * of for _, of, part in control.reports))
    busy.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await busy
    await eventually(lambda: control.reports[-1][2] == 0.0)
    assert all(part <= of for _, of, part in control.reports)


async def test_the_engine_serves_on_while_the_control_plane_is_away(
    agent_url: str, control: FakeControl
) -> None:
    lease_id = (await wait_for_phase(agent_url, "ready"))["lease_id"]
    control.crash()
    await asyncio.sleep(1.0)
    assert (await get_state(agent_url))["phase"] == "ready"
    control.reachable = True
    n_reports = len(control.reports)
    await eventually(lambda: len(control.reports) > n_reports)
    assert (await get_state(agent_url))["lease_id"] == lease_id


async def test_a_lease_nobody_confirms_is_given_up(model_path: Path) -> None:
    control = FakeControl()
    async with running_agent(model_path, control, confirm_timeout_s=1.0) as url:
        await wait_for_phase(url, "ready")
        control.crash()
        await wait_for_phase(url, "no_lease")
        control.reachable, control.free = True, True
        await wait_for_phase(url, "ready")


async def test_a_lease_the_control_plane_forgot_is_not_served_on(
    agent_url: str, control: FakeControl
) -> None:
    await wait_for_phase(agent_url, "ready")
    control.held.clear()
    await wait_for_phase(agent_url, "no_lease")


async def test_a_lease_left_by_an_earlier_process_is_given_back(model_path: Path) -> None:
    control = FakeControl(free=False)
    control.held["old"] = FakeLease("old", "engine-0", pid=1)
    async with running_agent(model_path, control) as url:
        await eventually(lambda: "old" not in control.held)
        control.offer()
        await wait_for_phase(url, "ready")


async def test_a_taken_port_is_named(model_path: Path, control: FakeControl) -> None:
    taken = bind("127.0.0.1", 0, "a test", "none")
    taken.listen()
    port = taken.getsockname()[1]
    settings = EngineAgentSettings("engine-0", MODEL, model_path, port)
    agent = EngineAgent(settings, control, SystemClock())
    with pytest.raises(PortInUseError, match=str(port)):
        await serve_agent(agent, "127.0.0.1", port, asyncio.Event())
    taken.close()


async def test_the_agent_stops_within_seconds_even_while_it_generates(
    model_path: Path, control: FakeControl
) -> None:
    async with running_agent(model_path, control) as url:
        busy = await occupy((await wait_for_phase(url, "ready"))["url"])
        await eventually(lambda: running(url))
        started_s = time.monotonic()
    # The whole answer would take several times as long, and another would follow it.
    assert time.monotonic() - started_s < 15.0
    with pytest.raises(UnavailableError):
        await busy


@pytest.mark.parametrize("n_turns", range(6))
async def test_a_keeper_woken_and_cancelled_at_once_ends(n_turns: int) -> None:
    control = FakeControl(free=False)
    keeper = LeaseKeeper(control, "engine-0", 1, SystemClock(), confirm_timeout_s=30.0)
    running = asyncio.create_task(keeper.run())
    await asyncio.sleep(0.05)
    control.offer()
    for _ in range(n_turns):
        await asyncio.sleep(0)
    running.cancel()
    done, _ = await asyncio.wait({running}, timeout=30)
    assert done
