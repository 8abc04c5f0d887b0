"""The engines a dispatcher may use, as their agents describe them from moment to moment."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import httpx

from marketplace.engines.base import Engine, EngineState
from marketplace.engines.external_model import ExternalModel, ExternalWatch
from marketplace.engines.llamacpp import LlamaCppEngine
from marketplace.engines.vllm import VllmEngine
from marketplace.federation.peers import Peer

log = logging.getLogger(__name__)

T = TypeVar("T")

# The agent sends its state at least once a second, at the lowest CPU priority.
_SILENCE_S = 6.0
_RETRY_S = 0.2
_TELL_PART = 0.25
"""Of an engine's idle_s, between two words that there is work."""
_MAX_RETRY_S = 1.0


class PooledEngine:
    """One engine: its agent's last state, and a client for it. An external one has no agent."""

    def __init__(
        self, agent_url: str, external: ExternalWatch | None = None, peer: Peer | None = None
    ) -> None:
        self.agent_url = agent_url
        self.external = external
        self.peer = peer
        """Whose it is, if it takes only what overflows here."""
        self.state = EngineState(name=agent_url, model="", phase="lost")
        self.client: Engine | None = None
        self.avoid_until_s = 0.0
        """Monotonic time before which no job is sent here, after it broke one off."""
        self.told_s = float("-inf")
        """Loop time at which its agent was last told that there is work."""
        self._is_alone = True

    async def update(self, state: EngineState) -> None:
        """Takes over the agent's state; another address means another server."""
        before, self.state = self.state, state
        if self.external is not None:
            return
        # llama.cpp loads adapters at its start only, so that others mean another server.
        others = state.driver == "llamacpp" and state.adapters != before.adapters
        if state.url != before.url or others or (self.client is None and state.url):
            old = self.client
            self.client = client_of(state) if state.url else None
            self.share(is_alone=self._is_alone)
            if old is not None:
                await old.aclose()

    def share(self, *, is_alone: bool) -> None:
        """Whether no other gateway uses the engine from now on."""
        self._is_alone = is_alone
        if isinstance(self.client, LlamaCppEngine):
            self.client.share(is_alone=is_alone)

    def forget(self, slot: int) -> None:
        """Another gateway has used that slot."""
        if isinstance(self.client, LlamaCppEngine):
            self.client.forget(slot)


def client_of(state: EngineState) -> Engine:
    """A client for the engine that listens at the state's address."""
    if state.driver == "vllm":
        return VllmEngine(state.url, state.model)
    return LlamaCppEngine(state.url, state.prefill_piece_tokens, state.adapters)


class EnginePool:
    """Follows the agents at `agent_urls`; `on_change(engine, before)` hears of every change."""

    def __init__(
        self,
        agent_urls: Sequence[str],
        on_change: Callable[[PooledEngine, EngineState], None],
        externals: Sequence[ExternalModel] = (),
        peers: Sequence[Peer] = (),
    ) -> None:
        self.engines = [PooledEngine(url) for url in agent_urls]
        elsewhere: list[tuple[ExternalModel, Peer | None]] = [(one, None) for one in externals]
        elsewhere += [(peer.external(model), peer) for peer in peers for model in peer.models]
        for model, peer in elsewhere:
            engine = PooledEngine(model.settings.url, watch := ExternalWatch(model), peer)
            engine.state = watch.state(ready=False)
            self.engines.append(engine)
        self._on_change = on_change
        self._changed = asyncio.Event()
        self._telling: set[asyncio.Task[None]] = set()
        self._http: httpx.AsyncClient | None = None
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begins to follow the agents."""
        for engine in self.engines:
            watch = engine.external
            following = self._follow_external(engine, watch) if watch else self._follow(engine)
            self._tasks.append(asyncio.create_task(following))

    async def stop(self) -> None:
        """Ends that and closes the clients."""
        for task in (*self._tasks, *self._telling):
            task.cancel()
        await asyncio.gather(*self._tasks, *self._telling, return_exceptions=True)
        if self._http is not None:
            await self._http.aclose()
        for engine in self.engines:
            if engine.client is not None:
                await engine.client.aclose()
            if engine.external is not None:
                await engine.external.engine.aclose()

    def external(self, model: str) -> ExternalModel | None:
        """The model, if somebody else serves it."""
        for engine in self.engines:
            if engine.external is not None and engine.external.model.name == model:
                return engine.external.model
        return None

    async def is_served(self, model: str, timeout_s: float) -> bool:
        """Whether an engine for `model` is ready, within `timeout_s`."""

        def look() -> bool | None:
            states = (one.state for one in self.engines)
            return any(one.phase == "ready" and one.model == model for one in states) or None

        return await self._until(look, timeout_s) is not None

    def any_client(self, model: str) -> Engine | None:
        """An engine that can template and tokenise for `model`, with a lease or without."""
        for engine in self.engines:
            if engine.client is not None and engine.state.model == model:
                return engine.client
        return None

    async def wait_for_client(self, model: str, timeout_s: float) -> Engine | None:
        """Like any_client, but gives an engine time to appear, or to come back."""
        self.want(model)
        return await self._until(lambda: self.any_client(model), timeout_s, model)

    def states_of(self, model: str) -> list[EngineState]:
        """Those of the model's engines."""
        return [one.state for one in self.engines if one.state.model == model]

    def want(self, model: str) -> None:
        """Has the model's engines come back, or stay, for work that there is."""
        now_s = asyncio.get_running_loop().time()
        for engine in self.engines:
            state = engine.state
            if state.model != model or not state.idle_s or state.phase == "lost":
                continue
            pause_s = _RETRY_S if state.phase == "cold" else state.idle_s * _TELL_PART
            if now_s - engine.told_s >= pause_s:
                engine.told_s = now_s
                task = asyncio.create_task(self._tell(engine))
                self._telling.add(task)
                task.add_done_callback(self._telling.discard)

    async def _tell(self, engine: PooledEngine) -> None:
        try:
            if self._http is None:
                # Once: to make one takes longer than to ask.
                self._http = httpx.AsyncClient(timeout=_SILENCE_S, trust_env=False)
            await self._http.post(f"{engine.agent_url}/use")
        except httpx.HTTPError as error:
            log.warning("engine agent %s was not told of work: %s", engine.agent_url, error)

    def leased(self, model: str) -> PooledEngine | None:
        """An engine for `model` that holds a lease."""
        for engine in self.engines:
            state = engine.state
            if state.phase == "ready" and state.model == model and engine.client is not None:
                return engine
        return None

    async def _until(
        self, look: Callable[[], T | None], timeout_s: float, wanted: str = ""
    ) -> T | None:
        """What `look` finds, now or after a change; None if it finds nothing in that time.

        `wanted`: the model whose engines are told so all the while.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while (found := look()) is None:
                    self._changed.clear()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_RETRY_S if wanted else None):
                            await self._changed.wait()
                    self.want(wanted)
                return found
        except TimeoutError:
            return None

    async def _follow_external(self, engine: PooledEngine, watch: ExternalWatch) -> None:
        async for state in watch.states():
            await self._take(engine, state)

    async def _follow(self, engine: PooledEngine) -> None:
        timeout = httpx.Timeout(_SILENCE_S)
        pause_s = _RETRY_S
        async with httpx.AsyncClient(timeout=timeout, trust_env=False) as http:
            while True:
                try:
                    async with http.stream("GET", f"{engine.agent_url}/state/watch") as response:
                        response.raise_for_status()
                        async for line in response.aiter_lines():
                            if line.startswith("data: "):
                                pause_s = _RETRY_S
                                state = EngineState.from_dict(json.loads(line[6:]))
                                await self._take(engine, state)
                except (httpx.HTTPError, ValueError, TypeError) as error:
                    log.debug("engine agent %s: %s", engine.agent_url, error)
                await self._take(engine, replace(engine.state, phase="lost", url="", running=0))
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _MAX_RETRY_S)

    async def _take(self, engine: PooledEngine, state: EngineState) -> None:
        before = engine.state
        if state == before:
            return
        await engine.update(state)
        self._on_change(engine, before)
        self._changed.set()
