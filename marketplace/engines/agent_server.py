"""An engine agent's process: the agent, and a small HTTP server that says how it stands."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from airan.core.clock import SystemClock
from marketplace.asgi import QuietServer, bind
from marketplace.engines.agent import EngineAgent, EngineAgentSettings
from marketplace.engines.host import lower_priority
from marketplace.engines.leases import LeaseSource
from orchestrator.api.client import ControlClient


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
