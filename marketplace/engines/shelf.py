"""The site's own model and further ones in one process, on one lease."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from starlette.applications import Starlette
from starlette.routing import Mount

from airan.core.clock import SystemClock
from airan.core.errors import ModelFileError
from marketplace.catalogue.cache import ModelCache
from marketplace.catalogue.records import FileSource
from marketplace.engines.agent import EngineAgent, EngineAgentSettings
from marketplace.engines.agent_server import build_state_app, serve_beside
from marketplace.engines.host import lower_priority
from marketplace.engines.leases import LeaseKeeper, LeaseSource
from marketplace.engines.shared import SharedLease
from orchestrator.api.client import ControlClient

log = logging.getLogger(__name__)

_LOOK_S = 0.5
_FOLLOW_S = 0.05
_REST_S = 0.5


@dataclass(frozen=True)
class FurtherModel:
    """A model that is served as soon as its file is ready."""

    settings: EngineAgentSettings
    """Its name, port and control plane are those of the process and not looked at."""
    source: FileSource
    sm_count: int = 16
    """SMs of the lease that it takes."""


class Shelf:
    """The first model says how it stands under `/`, a further one under `/models/NAME`."""

    def __init__(
        self,
        settings: EngineAgentSettings,
        further: Sequence[FurtherModel],
        cache: ModelCache,
        source: LeaseSource,
    ) -> None:
        clock = SystemClock()
        self._cache = cache
        self._further = tuple(further)
        self._keeper = LeaseKeeper(
            source, settings.name, os.getpid(), clock, confirm_timeout_s=settings.confirm_timeout_s
        )
        counts = [model.sm_count for model in further]
        self.lease = SharedLease(self._keeper, clock, counts, least_sm=settings.sm_per_stream)
        names = [settings.name, *(f"{settings.name}.{one.settings.model}" for one in further)]
        every = [settings, *(one.settings for one in further)]
        self.agents = [
            EngineAgent(replace(one, name=name), part, clock)
            for one, name, part in zip(every, names, self.lease.sources, strict=True)
        ]

    async def run(self) -> None:
        """Keeps the lease and serves until cancelled; then gives everything back.

        Raises:
            ModelFileError: llama.cpp cannot load the first model.
        """
        keeping = asyncio.create_task(self._keeper.run())
        first = asyncio.create_task(self.agents[0].run())
        others = [
            asyncio.create_task(self._serve(model, agent))
            for model, agent in zip(self._further, self.agents[1:], strict=True)
        ]
        serving = [first, *others, asyncio.create_task(self._follow_rest())]
        try:
            await asyncio.wait([keeping, *serving], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in serving:
                task.cancel()
            results = await asyncio.gather(*serving, return_exceptions=True)
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
            await self._keeper.give_back()
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def _follow_rest(self) -> None:
        """Gives the lease itself back while no model wants a part of it."""
        resting = False
        while True:
            rests = all(_rests(agent) for agent in self.agents)
            if rests and not resting:
                await self._keeper.rest(SystemClock().now_s() + _REST_S)
            elif resting and not rests:
                self._keeper.want()
            resting = rests
            await asyncio.sleep(_FOLLOW_S)

    async def _serve(self, model: FurtherModel, agent: EngineAgent) -> None:
        """Runs the agent once the file is ready; a file that cannot be loaded waits for another."""
        while True:
            found = await asyncio.to_thread(self._cache.look, model.source)
            if found.state == "ready":
                try:
                    await agent.run()
                except ModelFileError as error:
                    log.warning("model %s is not served: %s", model.source.name, error)
                    await asyncio.to_thread(self._cache.refuse, model.source, error.message)
            await asyncio.sleep(_LOOK_S)


def _rests(agent: EngineAgent) -> bool:
    """Whether its model is not loaded, and nobody waits for it."""
    return agent.state.phase == "cold" or (agent.state.phase == "no_lease" and not agent.state.url)


def build_shelf_app(shelf: Shelf, further: Sequence[FurtherModel]) -> Starlette:
    """Each model's GET /state, /state/watch and /healthz."""
    mounts = [
        Mount(f"/models/{model.settings.model}", build_state_app(agent))
        for model, agent in zip(further, shelf.agents[1:], strict=True)
    ]
    return Starlette(routes=[*mounts, Mount("/", build_state_app(shelf.agents[0]))])


async def run_shelf(
    settings: EngineAgentSettings,
    further: Sequence[FurtherModel],
    cache: ModelCache,
    stop: asyncio.Event,
    *,
    source: LeaseSource | None = None,
    on_port: Callable[[int], None] | None = None,
) -> None:
    """The whole `engine` process with several models, until `stop` is set.

    `source` replaces the gRPC client of `settings.control_target`; `on_port` learns the port.

    Raises:
        PortInUseError: the port is taken.
        ModelFileError: llama.cpp cannot load the first model.
    """
    if settings.background:
        lower_priority()

    async def serve(leases: LeaseSource) -> None:
        shelf = Shelf(settings, further, cache, leases)
        app = build_shelf_app(shelf, further)
        await serve_beside(shelf.run, app, settings.host, settings.port, stop, on_port)

    if source is not None:
        await serve(source)
        return
    async with ControlClient(settings.control_target) as client:
        await serve(client)
