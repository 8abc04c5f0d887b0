"""A simulated engine, for tests that kill processes: each token follows from all before it.

So an answer is known beforehand, however often it was broken off and continued. It speaks
llama.cpp's HTTP interface and runs under the real engine agent. As a process of its own it takes
two arguments: the control plane's address and the port of the agent's state.
"""

from __future__ import annotations

import asyncio
import json
import sys
import zlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from airan.core.clock import SystemClock
from marketplace.asgi import QuietServer, bind
from marketplace.engines.agent import EngineAgent, EngineAgentSettings
from marketplace.engines.agent_server import serve_agent
from marketplace.gateway import ModelOffer, Price
from orchestrator.api.client import ControlClient
from tests.marketplace.site import FakeControl, eventually, gateway_settings, running_gateway

MODEL = "simulated"
N_SLOTS = 16
TOKEN_S = 0.02
N_CONTEXT = 64


def tokens_of(text: str) -> list[int]:
    """One token a byte."""
    return list(text.encode())


def continued(tokens: Sequence[int], n_tokens: int) -> str:
    """What the engine answers to these tokens, one letter a token."""
    tokens = list(tokens)
    for _ in range(n_tokens):
        tokens.append(ord("a") + zlib.crc32(bytes(tokens)) % 26)
    return bytes(tokens[-n_tokens:]).decode()


def prompt_of(messages: Sequence[dict[str, str]]) -> str:
    """The template: the contents, one below the other."""
    return "\n".join(str(message["content"]) for message in messages)


class SimulatedHost:
    """In place of the agent's LlamaHost."""

    def __init__(self, token_s: float = TOKEN_S) -> None:
        self.url = ""
        self.token_s = token_s
        self._busy: set[object] = set()
        self._n_cuts = 0
        self._server: QuietServer | None = None

    async def start(self, adapters: Sequence[object] = ()) -> None:
        listener = bind("127.0.0.1", 0, "the simulated engine", "port")
        routes = [
            Route("/apply-template", self._template, methods=["POST"]),
            Route("/tokenize", self._tokenize, methods=["POST"]),
            Route("/completion", self._complete, methods=["POST"]),
            Route("/slots", self._slots),
            Route("/health", self._slots),
        ]
        config = uvicorn.Config(Starlette(routes=routes), log_level="warning", lifespan="off")
        self._server = QuietServer(config)
        self._serving = asyncio.create_task(self._server.serve(sockets=[listener]))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"

    needs_lease = takes_adapters = loads_on = False

    def fits(self, lease: object) -> bool:
        return True

    async def occupy(self, lease: object) -> None:
        if not self.url:
            await self.start()

    async def vacate(self, until_s: float) -> None: ...

    def disconnect(self) -> None:
        """Has every stream end with its next token, as a broken connection would."""
        self._n_cuts += 1

    async def stop(self) -> None:
        if self._server is not None:
            self._server.should_exit = self._server.force_exit = True
            await self._serving
        self.url = ""

    async def running(self) -> int:
        return len(self._busy)

    async def _template(self, request: Request) -> Response:
        return JSONResponse({"prompt": prompt_of((await request.json())["messages"])})

    async def _tokenize(self, request: Request) -> Response:
        return JSONResponse({"tokens": tokens_of((await request.json())["content"])})

    async def _slots(self, _: Request) -> Response:
        return JSONResponse([{"is_processing": True} for _ in self._busy])

    async def _complete(self, request: Request) -> Response:
        body = await request.json()
        if not body["n_predict"]:
            return JSONResponse({})
        return StreamingResponse(self._events(body), media_type="text/event-stream")

    async def _events(self, body: dict[str, Any]) -> AsyncIterator[str]:
        me, n_cuts = object(), self._n_cuts
        self._busy.add(me)
        try:
            answer = continued(body["prompt"], body["n_predict"])
            for number, letter in enumerate(answer, 1):
                await asyncio.sleep(self.token_s)
                if self._n_cuts != n_cuts:
                    return
                yield _event(letter, [ord(letter)], number)
            yield _event("", [], len(answer), stop=True, stop_type="limit")
        finally:
            self._busy.discard(me)


def _event(text: str, tokens: list[int], number: int, **more: Any) -> str:
    message = {"content": text, "tokens": tokens, "tokens_predicted": number, "stop": False}
    return f"data: {json.dumps(message | more)}\n\n"


@asynccontextmanager
async def simulated_agent(
    token_s: float = 0.0, n_slots: int = 4, control: FakeControl | None = None
) -> AsyncIterator[str]:
    """A simulated engine under a real agent; gives its state's address."""
    settings = EngineAgentSettings(
        "engine-0", MODEL, Path(), 0, n_ctx=N_CONTEXT, max_concurrent=n_slots, background=False
    )
    source = control or FakeControl()
    agent = EngineAgent(settings, source, SystemClock(), SimulatedHost(token_s))
    stop, port = asyncio.Event(), asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(
        serve_agent(agent, settings.host, 0, stop, on_port=port.set_result)
    )
    try:
        yield f"http://127.0.0.1:{await port}"
    finally:
        stop.set()
        await serving


@asynccontextmanager
async def simulated_market(
    folder: Path, token_s: float = 0.004, control: FakeControl | None = None, **changes: object
) -> AsyncIterator[str]:
    """A gateway before such an engine, in this process; gives its address when it is ready."""
    async with simulated_agent(token_s, control=control) as agent:
        offer = ModelOffer(MODEL, N_CONTEXT, Price.from_usd(0.01, 0.03))
        settings = replace(gateway_settings(folder, agent), models=(offer,), **changes)
        async with (
            running_gateway(settings) as url,
            httpx.AsyncClient(base_url=url, timeout=30) as http,
        ):

            async def ready() -> bool:
                return bool((await http.get("/readyz")).json()["status"] == "ready")

            await eventually(ready)
            yield url


async def main(control: str, port: int) -> None:
    settings = EngineAgentSettings(
        "engine-0", MODEL, Path(), port, max_concurrent=N_SLOTS, sm_per_stream=1, background=False
    )
    async with ControlClient(control) as client:
        agent = EngineAgent(settings, client, SystemClock(), SimulatedHost())
        await serve_agent(agent, settings.host, port, asyncio.Event())


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
