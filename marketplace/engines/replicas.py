"""Several replicas of an engine in one process, on one lease, and how many of them are to run."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from dataclasses import replace

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from airan.core.clock import SystemClock
from airan.core.errors import InvalidInputError
from marketplace.engines.agent import EngineAgent, EngineAgentSettings
from marketplace.engines.agent_server import build_state_app, serve_beside
from marketplace.engines.base import allowed_streams
from marketplace.engines.divided import DividedLease
from marketplace.engines.host import lower_priority
from marketplace.engines.leases import LeaseKeeper, LeaseSource
from orchestrator.api.client import ControlClient


class ReplicaSet:
    """The replicas, of which replica N says how it stands under `/replicas/N`."""

    def __init__(
        self,
        settings: EngineAgentSettings,
        source: LeaseSource,
        *,
        n_replicas: int,
        sm_per_replica: int,
    ) -> None:
        clock, pid = SystemClock(), os.getpid()
        self._settings = settings
        self._keeper = LeaseKeeper(
            source, settings.name, pid, clock, confirm_timeout_s=settings.confirm_timeout_s
        )
        self.lease = DividedLease(
            self._keeper, clock, n_replicas=n_replicas, sm_per_replica=sm_per_replica
        )
        self.agents = [
            EngineAgent(replace(settings, name=f"{settings.name}.{number}"), part, clock)
            for number, part in enumerate(self.lease.replicas)
        ]

    async def run(self) -> None:
        """Keeps the lease and runs all replicas until cancelled; then gives everything back.

        Raises:
            ModelFileError: llama.cpp cannot load the model.
        """
        keeping = asyncio.create_task(self._keeper.run())
        agents = [asyncio.create_task(agent.run()) for agent in self.agents]
        try:
            await asyncio.wait([keeping, *agents], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in agents:
                task.cancel()
            results = await asyncio.gather(*agents, return_exceptions=True)
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
            await self._keeper.give_back()
        for result in results:
            if isinstance(result, Exception):
                raise result

    def to_dict(self) -> dict[str, int | str]:
        """How many run, and what decides how many may."""
        settings, lease = self._settings, self.lease
        streams = allowed_streams(
            lease.sm_per_replica, settings.sm_per_stream, settings.max_concurrent
        )
        return {
            "model": settings.model,
            "wanted": lease.wanted,
            "active": lease.n_active,
            "max_replicas": len(lease.replicas),
            "sm_per_replica": lease.sm_per_replica,
            "streams_per_replica": streams,
            "sm_count": lease.sm_count,
        }


def build_replicas_app(replicas: ReplicaSet) -> Starlette:
    """GET and PUT /replicas (`{"wanted": N}`), and each replica's own under /replicas/N."""

    async def show(_: Request) -> Response:
        return JSONResponse(replicas.to_dict())

    async def scale(request: Request) -> Response:
        try:
            wanted = json.loads(await request.body())["wanted"]
            if type(wanted) is not int:
                raise InvalidInputError("wanted", "must be a whole number")
            replicas.lease.want(wanted)
        except InvalidInputError as error:
            return JSONResponse({"error": str(error)}, 400)
        except (ValueError, KeyError, TypeError):
            return JSONResponse({"error": 'the body must be {"wanted": N}'}, 400)
        return JSONResponse(replicas.to_dict())

    async def healthz(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    return Starlette(
        routes=[
            Route("/replicas", show),
            Route("/replicas", scale, methods=["PUT"]),
            Route("/healthz", healthz),
            *(
                Mount(f"/replicas/{number}", build_state_app(agent))
                for number, agent in enumerate(replicas.agents)
            ),
        ]
    )


async def serve_replicas(
    replicas: ReplicaSet,
    host: str,
    port: int,
    stop: asyncio.Event,
    on_port: Callable[[int], None] | None = None,
) -> None:
    """Runs the replicas and their HTTP side until `stop` is set; port 0 takes a free one.

    Raises:
        PortInUseError: the port is taken.
        ModelFileError: llama.cpp cannot load the model.
    """
    await serve_beside(replicas.run, build_replicas_app(replicas), host, port, stop, on_port)


async def run_replicas(
    settings: EngineAgentSettings, stop: asyncio.Event, *, n_replicas: int, sm_per_replica: int
) -> None:
    """The whole `engine` process with several replicas, until `stop` is set.

    Raises:
        PortInUseError: the port is taken.
        ModelFileError: llama.cpp cannot load the model.
    """
    if settings.background:
        lower_priority()
    async with ControlClient(settings.control_target) as client:
        replicas = ReplicaSet(
            settings, client, n_replicas=n_replicas, sm_per_replica=sm_per_replica
        )
        await serve_replicas(replicas, settings.host, settings.port, stop)
