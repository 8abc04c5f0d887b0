"""The site of a replay: the orchestrator on a simulated GPU, a real engine, a real gateway."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import sys
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from airan.bench.processes import free_port, running
from airan.bench.replay.admin import Admin
from airan.bench.replay.tenants import PRICES, Tenant
from airan.core.errors import UnavailableError
from orchestrator.api.client import ControlClient
from orchestrator.policy import Policy
from orchestrator.service import ControlSettings
from orchestrator.service import running as running_control

GPU = "GH200-96GB"
CREATE_MS, DESTROY_MS = 250.0, 150.0
_READY_S = 60.0


@dataclass(frozen=True)
class ReplaySite:
    """A site that runs."""

    url: str
    control: ControlClient
    admin: Admin
    policy: Policy
    """By which the engine has its lease."""


@asynccontextmanager
async def running_site(
    folder: Path, model: tuple[str, Path], n_threads: int, notice_ms: int
) -> AsyncIterator[ReplaySite]:
    """Starts all of it; `model` is name and file.

    Raises:
        UnavailableError: a part of it does not start, or gets no lease.
    """
    policy = Policy(
        kind="static", ran_share=0.3, headroom=0.1, min_lease_s=0.0, notice_ms=notice_ms
    )
    control_settings = ControlSettings(
        site="replay",
        state_dir=folder,
        site_started_s=time.time(),
        gpu=GPU,
        mig_create_ms=CREATE_MS,
        mig_destroy_ms=DESTROY_MS,
        policy=policy,
        interval_ms=100,
    )
    async with contextlib.AsyncExitStack() as stack:
        _, port = await stack.enter_async_context(running_control(control_settings))
        target = f"127.0.0.1:{port}"
        control = await stack.enter_async_context(ControlClient(target))
        name, path = model
        arguments = [target, str(engine_port := free_port()), name, str(path), str(n_threads)]
        await _start(stack, "engine", arguments, engine_port, "/healthz")
        key = secrets.token_hex(16)
        arguments = [str(folder), str(market_port := free_port()), str(engine_port), name]
        await _start(stack, "market", arguments, market_port, "/healthz", key)
        url = f"http://127.0.0.1:{market_port}"
        admin = await stack.enter_async_context(Admin(url, key))
        await _until_ready(url)
        yield ReplaySite(url, control, admin, policy)


async def add_tenants(admin: Admin, model: str, tenants: Iterable[Tenant]) -> dict[str, str]:
    """Makes the tenants, with their weights, and the prices; gives a key of each tenant."""
    for tier, price in PRICES.items():
        await admin.set_price(model, tier, price)
    return {one.name: await admin.add_tenant(one.name, one.weight) for one in tenants}


async def _start(
    stack: contextlib.AsyncExitStack,
    module: str,
    arguments: list[str],
    port: int,
    path: str,
    admin_key: str = "",
) -> None:
    command = [sys.executable, "-m", f"airan.bench.replay.{module}", *arguments]
    environment = os.environ | {"AIRAN_BENCH_ADMIN_KEY": admin_key}
    process = running(command, environment, port, path)
    # Its start and its end wait; the control plane in this event loop must go on meanwhile.
    await asyncio.to_thread(process.__enter__)
    stack.push_async_callback(asyncio.to_thread, process.__exit__, None, None, None)


async def _until_ready(url: str) -> None:
    until_s = time.monotonic() + _READY_S
    status = ""
    async with httpx.AsyncClient(trust_env=False) as http:
        while time.monotonic() < until_s:
            status = (await http.get(f"{url}/readyz")).json()["status"]
            if status == "ready":
                return
            await asyncio.sleep(0.1)
    raise UnavailableError(f"no engine has a lease after {_READY_S:g} s: the gateway is {status}")
