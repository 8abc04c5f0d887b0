"""llama.cpp inside this process: started, watched and, where it does not yield, stopped."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx
import psutil

from airan.core.errors import InvalidInputError, ModelFileError, UnavailableError
from marketplace.adapters.adapter import AdapterFile
from marketplace.engines.leases import Lease
from marketplace.engines.llamacpp import ASKING, LlamaCppEngine

log = logging.getLogger(__name__)

Pooling = Literal["model", "mean", "cls", "last"]

MOST_ASKING = 17
"""Who keeps connections to a server to ask on: sixteen gateways, and its agent."""
_SILENT = -1
_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 20.0
_CUT_AGAIN_S = 0.5
_LOOK_S = 0.002


@dataclass(frozen=True)
class LlamaSettings:
    """One llama.cpp server: `n_slots` requests at once with `n_ctx` tokens each."""

    model_path: Path
    n_ctx: int = 2048
    n_slots: int = 4
    n_threads: int = 1
    batch_tokens: int = 32
    """Tokens worked on between two looks at the queue: bounds how long a stop takes."""
    embeddings: bool = False
    """Makes embeddings instead of answers. An input is then worked on in one go."""
    pooling: Pooling = "model"
    """embeddings: how one vector is made of those of all tokens; `model`: as the file says."""
    chat_template: str = ""
    """Jinja template instead of the model file's own; empty: the file's."""


class LlamaHost:
    """Owns the server. Its HTTP threads are the server's own; Python only starts and stops it."""

    def __init__(self, settings: LlamaSettings) -> None:
        self._settings = settings
        self._server: Any = None
        self._client: LlamaCppEngine | None = None
        self._starting = asyncio.Lock()

    @property
    def url(self) -> str:
        """Where the server listens; empty while it does not run."""
        return "" if self._client is None else self._client.url

    @property
    def takes_adapters(self) -> bool:
        """See EngineHost: llama.cpp loads adapters with the model only."""
        return False

    async def start(self, adapters: Sequence[AdapterFile] = ()) -> None:
        """Loads the model, with adapters that requests can name, and listens on a free loopback
        port.

        Raises:
            ModelFileError: llama.cpp cannot load the model, or an adapter.
        """
        async with self._starting:
            if not self.url:
                await self._start(adapters)

    async def _start(self, adapters: Sequence[AdapterFile]) -> None:
        path = self._settings.model_path
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                self._server = await asyncio.to_thread(_start_server, self._settings, adapters)
        except (RuntimeError, ValueError, OSError) as error:
            raise ModelFileError(
                f"llama.cpp cannot load {path}: {error}", remedy="airan model pull --force"
            ) from error
        ids = [one.id for one in adapters]
        self._client = LlamaCppEngine(str(self._server.listening_address), adapters=ids)

    async def add_adapter(self, adapter: AdapterFile) -> None:
        """See EngineHost.

        Raises:
            InvalidInputError: always.
        """
        raise InvalidInputError("adapter", f"{adapter.id}: llama.cpp has to be restarted for it")

    async def drop_adapter(self, adapter: AdapterFile) -> None:
        """See add_adapter."""
        await self.add_adapter(adapter)

    @property
    def loads_on(self) -> bool:
        """See EngineHost."""
        return False

    @property
    def needs_lease(self) -> bool:
        """See EngineHost: it computes on the CPU."""
        return False

    def fits(self, lease: Lease) -> bool:
        """See EngineHost."""
        del lease
        return True

    async def occupy(self, lease: Lease) -> None:
        """See EngineHost.

        Raises:
            ModelFileError: llama.cpp cannot load the file.
        """
        del lease
        await self.start()

    async def vacate(self, until_s: float) -> None:
        """See EngineHost: the model stays in the host's memory."""
        del until_s

    def disconnect(self) -> None:
        """Breaks every connection to the server, whose work for them ends with the next token."""
        if self.url:
            self._cut(httpx.URL(self.url).port)

    def _cut(self, port: int | None) -> None:
        for connection in psutil.Process().net_connections("tcp"):
            if connection.fd < 0 or connection.laddr.port != port or not connection.raddr:
                continue
            # The server's own descriptor: a duplicate reaches the same connection.
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(connection.fd)) as end:
                end.shutdown(socket.SHUT_RDWR)

    async def stop(self) -> None:
        """Stops the server; open streams break off. Does nothing if it does not run.

        Waits for the batch in work, a fraction of a second.
        """
        client, self._client = self._client, None
        holder, self._server = [self._server], None
        if client is None:
            return
        port = httpx.URL(client.url).port
        self._cut(port)
        await client.aclose()
        # The destructor waits for the batch in work, and for connections that came just now. A
        # thread of its own: nothing else is to wait for one that never ends.
        ending = threading.Thread(target=holder.clear, name="llama.cpp's end", daemon=True)
        ending.start()
        for _ in range(round(_STOP_TIMEOUT_S / _CUT_AGAIN_S)):
            if await _ended(ending, _CUT_AGAIN_S):
                return
            self._cut(port)
        log.error("llama.cpp at port %s does not end: it is left to itself", port)

    async def running(self) -> int:
        """Slots that are working on a request now.

        Raises:
            UnavailableError: the server does not run or does not answer.
        """
        client = self._client
        if client is None:
            raise UnavailableError("the llama.cpp server does not run")
        return sum(await client.processing())


async def _ended(thread: threading.Thread, within_s: float) -> bool:
    """Whether the thread ends in that time."""
    clock = asyncio.get_running_loop().time
    until_s = clock() + within_s
    while thread.is_alive() and clock() < until_s:
        await asyncio.sleep(_LOOK_S)
    return not thread.is_alive()


def _start_server(settings: LlamaSettings, adapters: Sequence[AdapterFile]) -> Any:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(settings.model_path)
    params.n_ctx = settings.n_ctx * settings.n_slots
    params.n_parallel = settings.n_slots
    params.n_batch = params.n_ubatch = settings.batch_tokens
    if settings.embeddings:
        params.embedding = True
        params.n_batch = params.n_ubatch = settings.n_ctx
        if settings.pooling != "model":
            kinds = xllamacpp.llama_pooling_type
            params.pooling_type = getattr(kinds, f"LLAMA_POOLING_TYPE_{settings.pooling.upper()}")
    if adapters:
        # Loaded, but in no answer whose request does not name them.
        params.lora_adapters = [
            xllamacpp.CommonAdapterLoraInfo(str(one.path), 1.0) for one in adapters
        ]
        params.lora_init_without_apply = True
    if settings.chat_template:
        params.chat_template = settings.chat_template
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = settings.n_threads
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    # Every open stream holds one of these threads as long as it lasts, and every kept connection
    # for 5 s; two streams a slot, as gateways hear of each other's a moment later.
    params.n_threads_http = 2 * settings.n_slots + ASKING * MOST_ASKING
    params.warmup = False
    params.ui = False
    # A stopping server waits for its open streams to look up, which they do this often (seconds).
    params.sse_ping_interval = 1
    params.verbosity = _SILENT
    return xllamacpp.Server(params)


def lower_priority() -> None:
    """Lets every other process of the machine go first, above all Layer 1."""
    os.nice(19)
    if hasattr(os, "sched_setscheduler"):
        try:
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        except OSError:
            # Not allowed here; niceness alone then has to do.
            return
