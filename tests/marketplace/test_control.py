"""The engine agent on the real control plane: leases over gRPC, policy changes, a restart."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest

from airan.core.ports import free_ports
from orchestrator.api.client import ControlClient
from orchestrator.policy import Policy
from orchestrator.service import ControlSettings, running
from orchestrator.views import PolicyView
from tests.marketplace.site import (
    MODEL,
    admin_get,
    eventually,
    gateway_settings,
    new_key,
    running_agent,
    running_gateway,
)

# A long notice: the holder's process is killed at its end, and here that is pytest itself.
POLICY = Policy(kind="static", ran_share=0.4, notice_ms=5000)


@pytest.fixture
def control_settings(tmp_path: Path) -> ControlSettings:
    (port,) = free_ports(1)
    return ControlSettings("edge-test", tmp_path, time.time(), port=port, policy=POLICY)


@asynccontextmanager
async def agent_on(settings: ControlSettings, model_path: Path) -> AsyncIterator[str]:
    address = f"127.0.0.1:{settings.port}"
    async with running_agent(model_path, None, control_target=address) as url:
        yield url


async def set_ran_share(client: ControlClient, share: float) -> None:
    policy = await client.get_policy()
    await client.set_policy(replace(policy, kind="static", ran_share=share))


async def active(client: ControlClient) -> Any:
    return next((lease for lease in await client.leases() if lease.state == "active"), None)


async def test_a_stream_outlives_a_policy_that_gives_the_whole_gpu_to_the_radio(
    model_path: Path, control_settings: ControlSettings, tmp_path: Path
) -> None:
    async with (
        running(control_settings),
        ControlClient(f"127.0.0.1:{control_settings.port}") as control,
        agent_on(control_settings, model_path) as agent_url,
        running_gateway(gateway_settings(tmp_path, agent_url)) as url,
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=await new_key(url)) as client,
    ):
        lease = await eventually(lambda: active(control))
        assert lease.sm_count > 0
        story = [{"role": "user", "content": "Tell me a long story about the sea."}]
        asked = {"model": MODEL, "messages": story, "max_tokens": 80, "temperature": 0}
        whole = (await client.chat.completions.create(**asked)).choices[0].message.content
        text, taken = "", False
        async for chunk in await client.chat.completions.create(**asked, stream=True):
            text += chunk.choices[0].delta.content or ""
            if len(text) > 40 and not taken:
                taken = True
                await set_ran_share(control, 1.0)
                await eventually(lambda: no_lease(control))
                await set_ran_share(control, 0.4)
        assert text == whole
        stats = await admin_get(url, "stats")
        assert (stats["requests"]["preempted"], stats["tokens"]["lost"]) == (1, 0)
        ended = [one for one in await control.leases(include_ended=True) if one.state == "ended"]
        assert "evicted" not in {one.end_reason for one in ended}


async def no_lease(client: ControlClient) -> bool:
    return not await client.leases()


async def test_the_engine_keeps_its_lease_over_a_restart_of_the_control_plane(
    model_path: Path, control_settings: ControlSettings
) -> None:
    async with ControlClient(f"127.0.0.1:{control_settings.port}") as control:
        first = running(control_settings)
        await first.__aenter__()
        async with agent_on(control_settings, model_path):
            lease = await eventually(lambda: active(control))
            await first.__aexit__(None, None, None)
            await asyncio.sleep(0.5)
            async with running(control_settings):
                await control.wait_ready(10)
                again = await eventually(lambda: active(control))
                assert again.id == lease.id
                await asyncio.sleep(1.5)
                still = await active(control)
                assert still is not None
                assert still.id == lease.id
                assert isinstance(await control.get_policy(), PolicyView)
