"""The engine on its lease: started, drained, stopped, and how it stands."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from airan.core.clock import Clock
from airan.core.errors import AiranError, UnavailableError
from marketplace.adapters.folder import AdapterFolder
from marketplace.engines.adapted import AdapterSet
from marketplace.engines.base import EngineState, allowed_streams
from marketplace.engines.host import LlamaHost, LlamaSettings, Pooling
from marketplace.engines.hosts import EngineHost
from marketplace.engines.leases import Lease, LeaseKeeper, LeaseSource
from marketplace.engines.rest import Rest
from marketplace.engines.vllm_host import VllmHost, VllmSettings

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
    adapters_dir: Path | None = None
    """Where the gateway says which LoRA adapters the engine is to have; None: it has none."""
    adapters_patience_s: float = 5.0
    """How long a restart for other adapters waits for the requests that are being worked on."""
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
        folder = None if settings.adapters_dir is None else AdapterFolder(settings.adapters_dir)
        self._adapters = AdapterSet(
            self._host, folder, settings.model, settings.name, settings.model_path
        )
        self._stale_since_s: float | None = None
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
            await self._adapters.start()
            await self._publish(**self._served())
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
        await self._adapters.occupy(lease)
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
            **self._served(),
        )

    def _served(self) -> dict[str, Any]:
        """Where the server listens, and with which adapters."""
        url, adapters = self._host.url, self._adapters
        loaded = adapters.loaded if url else ()
        return {"url": url, "adapters": loaded, "refused": adapters.refused}

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
            if not self._host.loads_on:
                await self._host.stop()
        elif not await self._idle_by(deadline_s - _CUT_MARGIN_S):
            log.warning("some client does not yield: all connections to llama.cpp are cut")
            self._host.disconnect()
            if not await self._idle_by(deadline_s - _STOP_MARGIN_S):
                log.warning("llama.cpp did not come to rest in time: it is stopped")
                await self._host.stop()
        await self._host.vacate(deadline_s - _VACATE_MARGIN_S)
        await self._publish(phase="no_lease", lease_id="", sm_count=0, running=0, **self._served())

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
                await self._adapters.start()
        except AiranError:
            await self._publish(phase="cold")
            raise
        # Prompts can be counted from now on; the phase changes with the lease.
        await self._publish(**self._served())
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
            await self._follow_adapters()
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

    async def _follow_adapters(self) -> None:
        """Has the server take over other adapters: at once if it can, else by a restart, as soon
        as it is idle or the requests in work have had their time. They go on afterwards."""
        if self._stale_since_s is None and not self._adapters.is_stale:
            return
        if not self._host.url or self._state.phase not in ("ready", "no_lease"):
            # With its next start it has them.
            return
        now_s = self._clock.monotonic_s()
        if self._stale_since_s is None or self._adapters.is_stale:
            if await self._adapters.follow():
                self._stale_since_s = None
                await self._publish(**self._served())
                return
            self._stale_since_s = self._stale_since_s or now_s
        patience_s = self._settings.adapters_patience_s
        if self._state.running and now_s - self._stale_since_s < patience_s:
            return
        self._stale_since_s = None
        await self._restart()

    async def _restart(self) -> None:
        """Sends the dispatchers away, and starts the server anew on the same lease."""
        await self._publish(phase="no_lease", max_concurrent=0, running=0)
        if not await self._idle_by(self._clock.now_s() + _REST_S):
            self._host.disconnect()
        await self._host.stop()
        self._keep_started()

    async def _start_again(self) -> None:
        """After the server was stopped, or died by itself."""
        await self._publish(phase="no_lease", url="", max_concurrent=0, running=0)
        if not self._host.needs_lease:
            await self._adapters.start()
        lease = self._keeper.lease
        if lease is not None:
            await self._granted(lease)
        else:
            await self._publish(**self._served())


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
