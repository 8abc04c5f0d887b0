"""A small marketplace for tests: real llama.cpp, real gateway, and a control plane in memory."""

from __future__ import annotations

import asyncio
import itertools
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette

from airan.core.errors import CapacityError, NotFoundError, UnavailableError
from marketplace.asgi import QuietServer, bind
from marketplace.engines.agent import EngineAgentSettings
from marketplace.engines.agent_server import run_agent
from marketplace.gateway import GatewaySettings, ModelOffer, Price, build_app

MODEL = "SmolLM2-135M-Instruct"
ADMIN_KEY = "test-admin-key"


@dataclass(frozen=True)
class FakeLease:
    id: str
    holder: str
    sm_count: int = 64
    state: str = "active"
    pid: int = 0
    partition_id: str = "MIG-1"
    gpu_uuid: str = "GPU-1"
    profile: str = "3g.40gb"


@dataclass(frozen=True)
class FakeLeaseEvent:
    kind: str
    lease: FakeLease | None
    deadline_s: float = 0.0
    free_ai_partitions: int = 0


@dataclass
class FakeControl:
    """The lease side of a control plane with one partition; the test grants and revokes."""

    sm_count: int = 64
    profile: str = "3g.40gb"
    free: bool = True
    reachable: bool = True
    held: dict[str, FakeLease] = field(default_factory=dict)
    released_late_s: list[float] = field(default_factory=list)
    reports: list[tuple[str, float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._numbers = itertools.count(1)
        self._watchers: list[asyncio.Queue[FakeLeaseEvent | None]] = []
        self._deadlines: dict[str, float] = {}
        self._released: dict[str, asyncio.Event] = {}

    async def watch_leases(self, holder: str) -> AsyncIterator[FakeLeaseEvent]:
        self._check()
        queue: asyncio.Queue[FakeLeaseEvent | None] = asyncio.Queue()
        self._watchers.append(queue)
        try:
            for lease in self.held.values():
                yield FakeLeaseEvent("snapshot", lease, free_ai_partitions=int(self.free))
            yield FakeLeaseEvent("snapshot", None, free_ai_partitions=int(self.free))
            while (event := await queue.get()) is not None:
                yield event
            raise UnavailableError("the control plane is gone")
        finally:
            self._watchers.remove(queue)

    async def leases(self) -> list[FakeLease]:
        self._check()
        return list(self.held.values())

    async def acquire_lease(self, holder: str, pid: int) -> FakeLease:
        self._check()
        if not self.free:
            raise CapacityError("no partition is free")
        self.free = False
        number = next(self._numbers)
        lease = FakeLease(f"lease-{number}", holder, self.sm_count, pid=pid, profile=self.profile)
        self.held[lease.id] = lease
        self._send(FakeLeaseEvent("granted", lease))
        return lease

    async def release_lease(self, lease_id: str) -> FakeLease:
        self._check()
        lease = self.held.pop(lease_id, None)
        if lease is None:
            raise NotFoundError(f"lease {lease_id} does not exist")
        if lease_id in self._deadlines:
            self.released_late_s.append(time.time() - self._deadlines.pop(lease_id))
            self._released[lease_id].set()
        return replace(lease, state="ended")

    async def report_use(self, lease_id: str, interval_s: float, busy_s: float) -> None:
        self._check()
        if lease_id not in self.held:
            raise NotFoundError(f"lease {lease_id} does not exist")
        self.reports.append((lease_id, interval_s, busy_s))

    async def revoke(self, notice_s: float = 5.0) -> None:
        """Revokes whatever is held and waits until it was released. The notice is long: who gives
        way does so at once, and a machine that stands still for a moment is no reason to fail."""
        for lease in list(self.held.values()):
            revoking = replace(lease, state="revoking")
            self.held[lease.id] = revoking
            deadline_s = self._deadlines[lease.id] = time.time() + notice_s
            released = self._released[lease.id] = asyncio.Event()
            self._send(FakeLeaseEvent("revoked", revoking, deadline_s))
            await asyncio.wait_for(released.wait(), notice_s + 15)

    def resize(self, sm_count: int) -> None:
        """Moves the border of the partition that is held."""
        for lease in list(self.held.values()):
            resized = replace(lease, sm_count=sm_count, profile=self.profile)
            self.held[lease.id] = resized
            self._send(FakeLeaseEvent("resized", resized))

    def offer(self) -> None:
        self.free = True
        self._send(FakeLeaseEvent("offered", None, free_ai_partitions=1))

    def crash(self) -> None:
        """Breaks every stream; calls fail until `reachable` is set again."""
        self.reachable = False
        for queue in self._watchers:
            queue.put_nowait(None)

    def _send(self, event: FakeLeaseEvent) -> None:
        for queue in self._watchers:
            queue.put_nowait(event)

    def _check(self) -> None:
        if not self.reachable:
            raise UnavailableError("the control plane is gone")


@asynccontextmanager
async def running_agent(
    model_path: Path, control: FakeControl | None, **changes: object
) -> AsyncIterator[str]:
    """An engine agent in this process; gives its state address. `control` None: over gRPC."""
    settings = EngineAgentSettings(
        name="engine-0", model=MODEL, model_path=model_path, port=0, background=False
    )
    settings = replace(settings, **changes)
    stop, port = asyncio.Event(), asyncio.get_running_loop().create_future()
    task = asyncio.create_task(run_agent(settings, stop, source=control, on_port=port.set_result))
    try:
        await asyncio.wait({port, task}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
        yield f"http://127.0.0.1:{port.result()}"
    finally:
        stop.set()
        await task


def gateway_settings(
    state_dir: Path, *engine_urls: str, engine_wait_s: float = 5.0, **changes: Any
) -> GatewaySettings:
    return GatewaySettings(
        models=(ModelOffer(MODEL, 2048, Price.from_usd(0.01, 0.03)),),
        engine_urls=engine_urls,
        state_dir=state_dir,
        admin_key=ADMIN_KEY,
        engine_wait_s=engine_wait_s,
        **changes,
    )


@asynccontextmanager
async def running_gateway(settings: GatewaySettings) -> AsyncIterator[str]:
    """The gateway under uvicorn in this process; gives its address."""
    async with running_app(build_app(settings)) as url:
        yield url


@asynccontextmanager
async def running_app(app: Starlette, listener: socket.socket | None = None) -> AsyncIterator[str]:
    """A gateway's application under uvicorn in this process; gives its address."""
    listener = listener or bind("127.0.0.1", 0, "the gateway", "port")
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=1)
    server = QuietServer(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        while not server.started:
            if task.done():
                await task
            await asyncio.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task
        listener.close()


async def new_key(base_url: str, tenant: str = "acme") -> str:
    """A key of a tenant, which is made if need be."""
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
    async with httpx.AsyncClient(base_url=base_url, headers=headers, timeout=30) as http:
        await http.post("/admin/v1/tenants", json={"name": tenant})
        made = await http.post("/admin/v1/keys", json={"tenant": tenant})
        return str(made.json()["key"])


async def admin_get(base_url: str, path: str) -> dict:
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
    async with httpx.AsyncClient(base_url=base_url, headers=headers, timeout=30) as http:
        answer = await http.get(f"/admin/v1/{path}")
        answer.raise_for_status()
        return answer.json()


async def eventually(condition, timeout_s: float = 30.0):
    """Waits for `condition()` (maybe a coroutine) to give something true, and returns that."""
    async with asyncio.timeout(timeout_s):
        while True:
            value = condition()
            if asyncio.iscoroutine(value):
                value = await value
            if value:
                return value
            await asyncio.sleep(0.02)
