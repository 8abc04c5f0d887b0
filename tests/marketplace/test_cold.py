"""Engines that unload their model when nobody wants it, and come back when somebody does."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from airan.core.clock import Clock, ManualClock, SystemClock
from airan.core.errors import ModelFileError
from marketplace.dispatch import TtftTargets
from marketplace.dispatch.cold import ColdStarts
from marketplace.engines.agent import EngineAgent, EngineAgentSettings
from marketplace.engines.agent_server import serve_agent
from marketplace.engines.base import EngineState
from marketplace.engines.rest import Rest
from marketplace.gateway import ModelOffer, Price
from tests.marketplace.simulated_engine import MODEL, N_CONTEXT, SimulatedHost
from tests.marketplace.site import (
    FakeControl,
    admin_get,
    eventually,
    gateway_settings,
    new_key,
    running_gateway,
)

IDLE_S = 0.4
LOAD_S = 0.3


class PatientClock(SystemClock):
    """Stands still while the machine does: what stalls this process is not taken for rest."""

    def __init__(self) -> None:
        self._passed_s = 0.0

    def monotonic_s(self) -> float:
        return self._passed_s

    async def run(self) -> None:
        """Goes on until cancelled."""
        seen_s = time.monotonic()
        while True:
            await asyncio.sleep(0.005)
            now_s = time.monotonic()
            self._passed_s += min(now_s - seen_s, 0.02)
            seen_s = now_s


class SlowHost(SimulatedHost):
    """Takes a while to load, and can be told to fail."""

    def __init__(self) -> None:
        super().__init__(0.002)
        self.load_s = 0.0
        self.n_starts = 0
        self.broken = False

    async def start(self, adapters: Sequence[object] = ()) -> None:
        if self.url:
            return
        self.n_starts += 1
        if self.broken:
            raise ModelFileError("the simulated file is broken")
        await asyncio.sleep(self.load_s)
        await super().start()


@dataclass
class Cold:
    """A market whose only engine goes cold."""

    url: str
    client: openai.AsyncOpenAI
    agent: EngineAgent
    host: SlowHost
    control: FakeControl

    async def went_cold(self) -> None:
        """Returns when the lease is back and the gateway knows."""
        self.host.load_s = LOAD_S
        await eventually(lambda: self.agent.state.phase == "cold" and not self.host.url)
        assert not self.control.held
        # One partition, which the control plane in memory does not offer again by itself.
        self.control.offer()

        async def known() -> bool:
            return (await self.engine())["phase"] == "cold"

        await eventually(known)

    async def engine(self) -> dict[str, Any]:
        (found,) = (await admin_get(self.url, "stats"))["engines"]
        return found

    async def ask(self, **changes: Any) -> Any:
        body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5} | changes
        return await self.client.chat.completions.create(model=MODEL, **body)


@asynccontextmanager
async def running_cold(
    folder: Path, idle_s: float = IDLE_S, clock: Clock | None = None, **changes: Any
) -> AsyncIterator[Cold]:
    settings = EngineAgentSettings(
        "engine-0", MODEL, Path(), 0, n_ctx=N_CONTEXT, background=False, idle_s=idle_s
    )
    host, control = SlowHost(), FakeControl()
    patient = PatientClock()
    ticking = asyncio.create_task(patient.run())
    agent = EngineAgent(settings, control, clock or patient, host)
    stop, port = asyncio.Event(), asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(
        serve_agent(agent, settings.host, 0, stop, on_port=port.set_result)
    )
    offer = ModelOffer(MODEL, N_CONTEXT, Price.from_usd(0.01, 0.03))
    gateway = gateway_settings(folder, f"http://127.0.0.1:{await port}", **changes)
    try:
        async with running_gateway(replace(gateway, models=(offer,))) as url:
            key = await new_key(url)
            async with openai.AsyncOpenAI(
                base_url=f"{url}/v1", api_key=key, max_retries=0
            ) as client:
                yield Cold(url, client, agent, host, control)
    finally:
        stop.set()
        await serving
        ticking.cancel()


@pytest.fixture
async def cold(tmp_path: Path) -> AsyncIterator[Cold]:
    async with running_cold(tmp_path) as found:
        await found.went_cold()
        yield found


async def test_without_work_the_lease_goes_back_and_the_model_is_unloaded(cold: Cold) -> None:
    assert cold.host.url == ""
    assert cold.agent.state.url == ""
    await asyncio.sleep(0.3)
    assert not cold.control.held
    assert cold.host.n_starts == 1
    async with httpx.AsyncClient(timeout=30) as http:
        assert (await http.get(f"{cold.url}/readyz")).json()["status"] == "ready"


async def test_the_next_request_waits_for_it_and_the_time_is_measured(tmp_path: Path) -> None:
    async with running_cold(tmp_path, clock=SystemClock()) as cold:
        await cold.went_cold()
        begun_s = time.monotonic()
        answer = await cold.ask()
        took_s = time.monotonic() - begun_s
        assert answer.usage.completion_tokens == 5
        engine = await cold.engine()
        assert engine["cold_starts"] == 1
        assert LOAD_S <= engine["cold_start_s"] <= took_s
        await is_counted_and_starts_again(cold)


async def is_counted_and_starts_again(cold: Cold) -> None:
    async with httpx.AsyncClient(timeout=30) as http:
        metrics = (await http.get(f"{cold.url}/metrics")).text
    assert f'airan_marketplace_cold_start_seconds_count{{model="{MODEL}"}} 1.0' in metrics
    # And again: to zero and back.
    await cold.went_cold()
    await cold.ask()
    assert (await cold.engine())["cold_starts"] == 2


async def test_many_requests_at_once_load_it_once(cold: Cold) -> None:
    answers = await asyncio.gather(*(cold.ask() for _ in range(12)))
    assert {answer.usage.completion_tokens for answer in answers} == {5}
    assert cold.host.n_starts == 2


async def test_work_keeps_it_warm(cold: Cold) -> None:
    await cold.ask()
    n_starts = cold.host.n_starts
    for _ in range(8):
        await cold.ask()
        await asyncio.sleep(IDLE_S / 4)
    # A long answer too.
    cold.host.token_s = 3 * IDLE_S / 60
    await cold.ask(max_tokens=60)
    assert cold.host.n_starts == n_starts


async def test_a_request_that_cannot_wait_so_long_is_refused_and_brings_it_back(
    tmp_path: Path,
) -> None:
    targets = TtftTargets(priority=1.0, default=30.0)
    async with running_cold(tmp_path, ttft_targets=targets) as cold:
        await cold.went_cold()
        cold.host.load_s = 2.0
        await cold.ask()
        await cold.went_cold()
        cold.host.load_s = 2.0
        with pytest.raises(openai.RateLimitError, match="tier priority promises") as caught:
            await cold.ask(service_tier="priority")
        measured_s = (await cold.engine())["cold_start_s"]
        told_s = float(caught.value.response.headers["retry-after"])
        assert 0 < told_s <= math.ceil(measured_s)
        # What it was told is true.

        async def ready() -> bool:
            return (await cold.engine())["phase"] == "ready"

        await eventually(ready)
        assert (await cold.ask(service_tier="priority")).usage.completion_tokens == 5


async def test_a_request_that_is_polled_for_brings_it_back(cold: Cold) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}
    headers = {"authorization": f"Bearer {cold.client.api_key}", "nvcf-poll-seconds": "20"}
    async with httpx.AsyncClient(base_url=cold.url, headers=headers, timeout=30) as http:
        answer = await http.post(f"/v2/nvcf/pexec/functions/{MODEL}", json=body)
    assert answer.status_code == 200, answer.text


async def test_without_a_free_partition_the_request_waits_for_one(cold: Cold) -> None:
    cold.control.free = False
    waiting = asyncio.create_task(cold.ask())
    done, _ = await asyncio.wait({waiting}, timeout=3 * IDLE_S)
    assert not done
    cold.control.offer()
    assert (await waiting).usage.completion_tokens == 5


async def test_a_file_that_has_become_unusable_is_tried_again_at_the_next_word(
    cold: Cold,
) -> None:
    cold.host.broken = True
    waiting = asyncio.create_task(cold.ask())
    await eventually(lambda: cold.host.n_starts > 1)
    assert cold.agent.state.phase in ("cold", "warming")
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    cold.host.broken = False
    assert (await cold.ask()).usage.completion_tokens == 5


async def test_a_revocation_of_a_warm_engine_is_no_rest(tmp_path: Path) -> None:
    # It does not go cold by itself, however long the gateway takes to start.
    async with running_cold(tmp_path, idle_s=60.0) as cold:
        await eventually(lambda: cold.agent.state.phase == "ready")
        await cold.control.revoke()
        assert cold.agent.state.phase == "no_lease"
        assert max(cold.control.released_late_s) <= 0.0


def test_the_wait_is_what_was_measured_less_what_has_passed() -> None:
    starts, asleep = ColdStarts(), EngineState("e", "m", "cold", cold_start_s=8.0)
    warming, ready = replace(asleep, phase="warming"), replace(asleep, phase="ready")
    assert starts.wait_s("m", [asleep], 100.0) == 8.0
    starts.note("m", [warming], 100.0)
    assert starts.wait_s("m", [warming], 103.0) == 5.0
    assert starts.wait_s("m", [warming], 110.0) == 10.0
    assert starts.wait_s("m", [warming, ready], 110.0) is None
    starts.note("m", [ready], 110.0)
    assert starts.wait_s("m", [asleep], 200.0) == 8.0
    never = replace(asleep, cold_start_s=0.0)
    assert starts.wait_s("m", [never], 0.0) is None


async def test_an_engine_that_never_rests_is_never_told_to() -> None:
    async def fail() -> Any:
        raise AssertionError("it was told to")

    rest = Rest(0.0, ManualClock(0.0), fail, fail)
    await rest.run()
    assert rest.warm() is None
