"""The engine process: llama.cpp on a lease, and a small HTTP server that says how it stands."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from airan.core.clock import Clock, SystemClock
from airan.core.errors import AiranError, UnavailableError
from marketplace.asgi import QuietServer, bind
from marketplace.engines.base import EngineState, allowed_streams
from marketplace.engines.host import LlamaHost, LlamaSettings, Pooling, lower_priority
from marketplace.engines.hosts import EngineHost
from marketplace.engines.leases import Lease, LeaseKeeper, LeaseSource
from marketplace.engines.rest import Rest
from marketplace.engines.vllm_host import VllmHost, VllmSettings
from orchestrator.api.client import ControlClient

log = logging.getLogger(__name__)

_POLL_S = 0.1
_DRAIN_POLL_S = 0.01
# Before the deadline: when clients that do not yield are cut off, and when llama.cpp is stopped.
_CUT_MARGIN_S = 0.22
_STOP_MARGIN_S = 0.12
_VACATE_MARGIN_S = 0.06
_WATCH_BEAT_S = 1.0
_REST_S = 0.5
"""How long work that came in at the last moment may take to leave an engine that goes cold."""


@dataclass(frozen=True)
class EngineAgentSettings:
    """What one engine process needs to know."""

    name: str
    """The lease holder's name, unique in the site."""
    model: str
    model_path: Path
    port: int
    control_target: str = ""
    """Address of the control plane, e.g. 127.0.0.1:50051."""
    host: str = "127.0.0.1"
    n_ctx: int = 2048
    """Context tokens of one request."""
    max_concurrent: int = 4
    n_threads: int = 1
    sm_per_stream: int = 16
    """The lease carries one request for so many SMs (one 1g slice of a 132-SM GPU)."""
    prefill_piece_tokens: int = 16
    report_interval_s: float = 0.5
    confirm_timeout_s: float = 30.0
    """Without word from the control plane for so long, the lease counts as lost."""
    embeddings: bool = False
    """The model makes embeddings, and no answers."""
    pooling: Pooling = "model"
    vllm: VllmSettings | None = None
    """Serves with vLLM instead of llama.cpp."""
    idle_s: float = 0.0
    """After so many seconds without work the model is unloaded until it is wanted; 0: never."""
    background: bool = True
    """Run at the lowest CPU priority, so that Layer 1 always goes first."""


class EngineAgent:
    """Publishes one EngineState and keeps it true."""

    def __init__(
        self,
        settings: EngineAgentSettings,
        source: LeaseSource,
        clock: Clock,
        host: EngineHost | None = None,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._host = host or _host_of(settings)
        self._changed = asyncio.Condition()
        self._state = EngineState(
            settings.name,
            settings.model,
            "no_lease",
            n_ctx=settings.n_ctx,
            n_slots=settings.max_concurrent,
            driver="llamacpp" if settings.vllm is None else "vllm",
            idle_s=settings.idle_s,
            prefill_piece_tokens=settings.prefill_piece_tokens,
        )
        self._starting: asyncio.Task[None] | None = None
        """Brings a server back that is gone."""
        self._rest = Rest(settings.idle_s, clock, self._cool, self._warm)
        self._keeper = LeaseKeeper(
            source,
            settings.name,
            os.getpid(),
            clock,
            confirm_timeout_s=settings.confirm_timeout_s,
        )
        self._keeper.on_granted = self._granted
        self._keeper.on_resized = self._resized
        self._keeper.on_revoked = self._revoked

    @property
    def state(self) -> EngineState:
        """The state as published last."""
        return self._state

    async def run(self) -> None:
        """Serves until cancelled; then gives the lease back and stops llama.cpp.

        Raises:
            ModelFileError: llama.cpp cannot load the model.
        """
        if not self._host.needs_lease:
            await self._host.start()
            await self._publish(url=self._host.url)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._keeper.run())
                tasks.create_task(self._measure())
                tasks.create_task(self._rest.run())
        finally:
            if self._starting is not None:
                self._starting.cancel()
            with suppress(Exception):
                await self._keeper.give_back()
            await self._host.stop()

    def use(self) -> None:
        """Somebody has work for the engine: it stays warm, or comes back."""
        self._rest.use()

    async def watch(self) -> AsyncIterator[EngineState]:
        """The state now, then at every change, and at least once a second."""
        seen = -1
        while True:
            async with self._changed:
                if self._state.version == seen:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(_WATCH_BEAT_S):
                            await self._changed.wait()
                state = self._state
            seen = state.version
            yield state

    async def _publish(self, **changes: Any) -> None:
        async with self._changed:
            changed = replace(self._state, **changes)
            if changed == self._state:
                return
            self._state = replace(changed, version=changed.version + 1)
            self._changed.notify_all()

    async def _granted(self, lease: Lease) -> None:
        await self._host.occupy(lease)
        if self._keeper.lease is not lease or not self._host.url:
            # Revoked while the model was being loaded.
            return
        taken_s = self._rest.warm()
        if taken_s is not None:
            n_before = self._state.n_cold_starts
            await self._publish(cold_start_s=taken_s, n_cold_starts=n_before + 1)
        await self._publish(
            phase="ready",
            lease_id=lease.id,
            sm_count=lease.sm_count,
            max_concurrent=self._streams(lease),
            deadline_s=0.0,
            url=self._host.url,
        )

    async def _resized(self, lease: Lease) -> None:
        """More or fewer requests at once; the dispatchers pause what is too much. A server whose
        share was fixed at its start has to be started anew, under a lease of its own."""
        if not self._host.fits(lease):
            await self._keeper.rest(self._clock.now_s() + _REST_S)
            self._keeper.want()
        elif self._state.phase == "ready":
            await self._publish(sm_count=lease.sm_count, max_concurrent=self._streams(lease))

    def _streams(self, lease: Lease) -> int:
        settings = self._settings
        return allowed_streams(lease.sm_count, settings.sm_per_stream, settings.max_concurrent)

    async def _revoked(self, deadline_s: float) -> None:
        """Sends the dispatchers away, waits for idle slots, and stops llama.cpp if none comes."""
        await self._publish(phase="draining", max_concurrent=0, deadline_s=deadline_s)
        if not self._host.url:
            # It is being loaded, if it runs at all.
            await self._host.stop()
        elif not await self._idle_by(deadline_s - _CUT_MARGIN_S):
            log.warning("some client does not yield: all connections to llama.cpp are cut")
            self._host.disconnect()
            if not await self._idle_by(deadline_s - _STOP_MARGIN_S):
                log.warning("llama.cpp did not come to rest in time: it is stopped")
                await self._host.stop()
        await self._host.vacate(deadline_s - _VACATE_MARGIN_S)
        url = self._host.url
        await self._publish(phase="no_lease", lease_id="", sm_count=0, running=0, url=url)

    async def _cool(self) -> bool:
        """Gives the lease back and unloads the model, if there is no work and no revocation."""
        if self._state.phase == "draining":
            return False
        await self._keeper.rest(self._clock.now_s() + _REST_S)
        if not self._rest.idle:
            # Work came meanwhile.
            self._keeper.want()
            return False
        await self._publish(phase="cold", url="")
        await self._host.stop()
        return True

    async def _warm(self) -> None:
        await self._publish(phase="warming")
        try:
            if not self._host.needs_lease:
                await self._host.start()
        except AiranError:
            await self._publish(phase="cold")
            raise
        # Prompts can be counted from now on; the phase changes with the lease.
        await self._publish(url=self._host.url)
        self._keeper.want()

    async def _idle_by(self, until_s: float) -> bool:
        """Waits for idle slots until Unix time `until_s`, looking at least once."""
        while True:
            with suppress(UnavailableError):
                if await self._host.running() == 0:
                    return True
            if self._clock.now_s() >= until_s:
                return False
            await asyncio.sleep(_DRAIN_POLL_S)

    async def _measure(self) -> None:
        """Samples the slots, restarts a stopped server, and reports the busy part of the time."""
        settings = self._settings
        reported_s = sampled_s = self._clock.monotonic_s()
        busy_s = 0.0
        while True:
            await asyncio.sleep(_POLL_S)
            self._keep_started()
            try:
                running = await self._host.running()
            except UnavailableError:
                running = 0
            now_s = self._clock.monotonic_s()
            if running:
                self._rest.use()
                busy_s += now_s - sampled_s
            sampled_s = now_s
            if self._state.phase == "ready":
                await self._publish(running=running)
            if now_s - reported_s >= settings.report_interval_s:
                await self._keeper.report_use(now_s - reported_s, min(busy_s, now_s - reported_s))
                reported_s, busy_s = now_s, 0.0

    def _keep_started(self) -> None:
        """Has a server that is gone start again, which may take minutes: meanwhile the lease has
        to be confirmed."""
        starting = self._starting
        if starting is not None and starting.done():
            self._starting = None
            starting.result()
        is_gone = not self._host.url and self._state.phase in ("no_lease", "ready")
        if is_gone and self._starting is None:
            self._starting = asyncio.create_task(self._start_again())

    async def _start_again(self) -> None:
        """After the server was stopped, or died by itself."""
        await self._publish(phase="no_lease", url="", max_concurrent=0, running=0)
        if not self._host.needs_lease:
            await self._host.start()
        lease = self._keeper.lease
        if lease is not None:
            await self._granted(lease)
        else:
            await self._publish(url=self._host.url)


def _host_of(settings: EngineAgentSettings) -> EngineHost:
    if settings.vllm is not None:
        return VllmHost(settings.vllm)
    return LlamaHost(
        LlamaSettings(
            settings.model_path,
            settings.n_ctx,
            settings.max_concurrent,
            settings.n_threads,
            embeddings=settings.embeddings,
            pooling=settings.pooling,
        )
    )


def build_state_app(agent: EngineAgent) -> Starlette:
    """The agent's HTTP side: GET /state, /state/watch (server-sent events), /healthz.

    POST /use says that there is, or soon will be, work.
    """

    async def state(_: Request) -> Response:
        return JSONResponse(agent.state.to_dict())

    async def use(_: Request) -> Response:
        agent.use()
        return JSONResponse(agent.state.to_dict())

    async def watch(_: Request) -> Response:
        async def events() -> AsyncIterator[str]:
            async for item in agent.watch():
                yield f"data: {json.dumps(item.to_dict())}\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    async def healthz(_: Request) -> Response:
        return JSONResponse({"status": "ok", "phase": agent.state.phase})

    return Starlette(
        routes=[
            Route("/state", state),
            Route("/state/watch", watch),
            Route("/use", use, methods=["POST"]),
            Route("/healthz", healthz),
        ]
    )


async def serve_agent(
    agent: EngineAgent,
    host: str,
    port: int,
    stop: asyncio.Event,
    on_port: Callable[[int], None] | None = None,
) -> None:
    """Runs the agent and its HTTP side until `stop` is set; port 0 takes a free one.

    Raises:
        PortInUseError: the port is taken.
        ModelFileError: llama.cpp cannot load the model.
    """
    await serve_beside(agent.run, build_state_app(agent), host, port, stop, on_port)


async def serve_beside(
    work: Callable[[], Coroutine[Any, Any, None]],
    app: Starlette,
    host: str,
    port: int,
    stop: asyncio.Event,
    on_port: Callable[[int], None] | None,
) -> None:
    """Runs `work` and serves `app` until `stop` is set, or either ends.

    Raises:
        PortInUseError: the port is taken.
        AiranError: `work` failed.
    """
    listener = bind(host, port, "the engine's state", "ports.engine")
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=1
    )
    if on_port is not None:
        on_port(listener.getsockname()[1])
    server = QuietServer(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    running = asyncio.create_task(work())
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({serving, running, stopping}, return_when=asyncio.FIRST_COMPLETED)
        failure = running.exception() if running.done() and not running.cancelled() else None
    finally:
        stopping.cancel()
        running.cancel()
        await asyncio.wait({running})
        server.should_exit = server.force_exit = True
        await asyncio.wait({serving})
        listener.close()
    if failure is not None:
        raise failure


async def run_agent(
    settings: EngineAgentSettings,
    stop: asyncio.Event,
    *,
    source: LeaseSource | None = None,
    on_port: Callable[[int], None] | None = None,
) -> None:
    """The whole `engine` process, until `stop` is set.

    `source` replaces the gRPC client of `settings.control_target`; `on_port` learns the port.

    Raises:
        PortInUseError: the port is taken.
        ModelFileError: llama.cpp cannot load the model.
    """
    if settings.background:
        lower_priority()
    clock = SystemClock()
    if source is not None:
        agent = EngineAgent(settings, source, clock)
        await serve_agent(agent, settings.host, settings.port, stop, on_port)
        return

    async with ControlClient(settings.control_target) as client:
        agent = EngineAgent(settings, client, clock)
        await serve_agent(agent, settings.host, settings.port, stop, on_port)
