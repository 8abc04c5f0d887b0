"""The dashboard's web server: one page, one stream of server-sent events. It changes nothing."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from fastapi.staticfiles import StaticFiles

from airan.core.errors import PortInUseError
from airan.dashboard.feed import Feed, Source
from airan.dashboard.security import SecurityMiddleware
from airan.dashboard.settings import DashboardSettings
from airan.site.market_reader import HttpMarketReader
from airan.site.snapshot_source import SnapshotSource
from orchestrator.api.client import ControlClient

STATIC = Path(__file__).parent / "static"
_STALE_AFTER_INTERVALS = 10


def build_app(settings: DashboardSettings, source: Source | None = None) -> FastAPI:
    """The web application; `source` replaces the site's services, for tests.

    `app.state.feed` is its Feed: call `close()` on it before stopping the server, so that open
    pages do not hold the server up.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            feed = Feed(
                source or await _site_source(settings, stack),
                settings.interval_s,
                settings.history_s,
            )
            app.state.feed = feed
            app.state.feed_task = asyncio.create_task(feed.run(), name="dashboard-feed")
            try:
                yield
            finally:
                feed.close()
                app.state.feed_task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await app.state.feed_task

    app = FastAPI(
        title="airan dashboard", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None
    )
    app.add_middleware(
        SecurityMiddleware, allowed_hosts=frozenset({settings.host, *settings.allowed_hosts})
    )
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    _add_routes(app, settings)
    return app


def _add_routes(app: FastAPI, settings: DashboardSettings) -> None:
    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(STATIC / "index.html", media_type="text/html; charset=utf-8")

    @app.get("/events", include_in_schema=False)
    async def events() -> Response:
        feed: Feed = app.state.feed
        return StreamingResponse(
            feed.stream(),
            media_type="text/event-stream",
            headers={"X-Accel-Buffering": "no"},
        )

    @app.get("/healthz", include_in_schema=False)
    async def healthz() -> Response:
        feed: Feed = app.state.feed
        if app.state.feed_task.done():
            return JSONResponse({"status": "failed", "reason": "the poller ended"}, 503)
        age_s = feed.age_s()
        if age_s is not None and age_s > _STALE_AFTER_INTERVALS * settings.interval_s:
            return JSONResponse({"status": "stale", "age_s": round(age_s, 1)}, 503)
        return JSONResponse({"status": "ok"})


async def serve(
    settings: DashboardSettings,
    stop: asyncio.Event,
    on_ready: Callable[[str], None] | None = None,
    source: Source | None = None,
) -> None:
    """Serves until `stop` is set; `on_ready` gets the page's URL once it answers.

    Installs no signal handlers.

    Raises:
        PortInUseError: another process listens on the port.
    """
    listener = _listen(settings.host, settings.port)
    port = listener.getsockname()[1]
    app = build_app(settings, source)
    server = _Server(
        uvicorn.Config(
            app, log_level="warning", access_log=False, timeout_graceful_shutdown=2, ws="none"
        )
    )
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    stopping = asyncio.create_task(stop.wait())
    try:
        while not server.started and not serving.done():
            await asyncio.sleep(0.01)
        if on_ready is not None and server.started:
            on_ready(f"http://{settings.host}:{port}/")
        watched: set[asyncio.Task[Any]] = {serving, stopping}
        if server.started:
            watched.add(app.state.feed_task)
        await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
        failure = _failure(app)
    finally:
        stopping.cancel()
        if hasattr(app.state, "feed"):
            app.state.feed.close()
        server.should_exit = True
        await serving
        listener.close()
    if failure is not None:
        raise failure


def _listen(host: str, port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise PortInUseError(
            f"ports.dashboard: port {port} on {host} cannot be had: {error.strerror}",
            remedy="stop the process that uses it, or set AIRAN_PORTS__DASHBOARD to another port",
        ) from error
    return listener


def _failure(app: FastAPI) -> BaseException | None:
    task: asyncio.Task[None] | None = getattr(app.state, "feed_task", None)
    if task is None or not task.done() or task.cancelled():
        return None
    return task.exception()


async def _site_source(settings: DashboardSettings, stack: contextlib.AsyncExitStack) -> Source:
    control = ControlClient(settings.control_address)
    stack.push_async_callback(control.aclose)
    market = HttpMarketReader(settings.gateway_url, settings.admin_key)
    stack.push_async_callback(market.aclose)
    return SnapshotSource(
        settings.site, settings.day, control, market, supervision=settings.supervision
    )


class _Server(uvicorn.Server):
    """Leaves the process's signal handlers to whoever runs the process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
