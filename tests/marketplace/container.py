"""A container that answers over HTTP, for functions and webhooks to call."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web


@dataclass
class Received:
    """A request as the container got it."""

    path: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Container:
    """Answers with what the test has put into `answers`, first come first served, then with 200
    and the body it got; holds every answer back while `go` is not set."""

    host: str = ""
    healthy: bool = True
    received: list[Received] = field(default_factory=list)
    answers: list[web.Response] = field(default_factory=list)
    go: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.received.append(Received(request.path, headers, body))
        await self.go.wait()
        if self.answers:
            return self.answers.pop(0)
        return web.Response(body=body, content_type="application/json")

    async def health(self, _: web.Request) -> web.Response:
        return web.Response(status=200 if self.healthy else 503)

    def requests_named(self, header: str) -> list[str]:
        return [one.headers[header] for one in self.received]


@asynccontextmanager
async def running_container() -> AsyncIterator[Container]:
    """A container on a free port of this machine."""
    container = Container()
    container.go.set()
    app = web.Application(client_max_size=64 << 20)
    app.router.add_get("/health", container.health)
    app.router.add_route("*", "/{path:.*}", container.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    container.host = f"127.0.0.1:{port}"
    try:
        yield container
    finally:
        container.go.set()
        await runner.cleanup()
