"""The gateway as one ASGI application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from airan.core.clock import Clock, SystemClock
from airan.core.errors import AiranError
from marketplace.gateway import (
    adapters_api,
    admin_api,
    admin_money_api,
    admin_peers_api,
    batches_api,
    billing_api,
    catalogue_api,
    completions_api,
    embeddings_api,
    errors,
    files_api,
    functions_api,
    nvcf_api,
    openai_api,
    responses_api,
    webhooks_api,
)
from marketplace.gateway.background import Background
from marketplace.gateway.batch_runner import BatchRunner
from marketplace.gateway.edge import EdgeMiddleware, request_counter
from marketplace.gateway.idempotency import IdempotencyMiddleware
from marketplace.gateway.openapi import describe
from marketplace.gateway.runtime import Runtime
from marketplace.gateway.settings import GatewaySettings
from marketplace.grpc_api.server import InvocationServer
from marketplace.meter import Meter

_HANDLERS = {
    errors.ApiError: errors.answer_api_error,
    AiranError: errors.answer_airan_error,
    HTTPException: errors.answer_http_exception,
    RequestValidationError: errors.answer_validation_error,
}

_ROUTERS = (
    openai_api,
    completions_api,
    embeddings_api,
    responses_api,
    files_api,
    adapters_api,
    batches_api,
    functions_api,
    nvcf_api,
    webhooks_api,
    billing_api,
    admin_api,
    admin_money_api,
    catalogue_api,
    admin_peers_api,
)


def build_app(
    settings: GatewaySettings, clock: Clock | None = None, *, own_url: str = ""
) -> FastAPI:
    """The application; its lifespan opens the database and follows the engines.

    `own_url`: where other gateways on the database reach this one, and no other.

    The Runtime is `app.state.runtime`.
    """
    runtime = Runtime(settings, clock or SystemClock(), Meter(), own_url)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await runtime.start()
        runner = BatchRunner(runtime)
        app.state.batch_runner = runner
        await runner.start()
        background = Background(runtime)
        await background.start()
        server = InvocationServer(runtime)
        if settings.grpc_port is not None:
            app.state.grpc_port = await server.start()
        runtime.company.start()
        yield
        await server.stop()
        await background.stop()
        await runner.stop()
        await runtime.stop()

    app = FastAPI(title="airan marketplace", lifespan=lifespan, redirect_slashes=False)
    app.state.runtime = runtime
    for kind, handler in _HANDLERS.items():
        app.add_exception_handler(kind, handler)
    for module in _ROUTERS:
        app.include_router(module.build_router(runtime))
    _add_probes(app, runtime)
    describe(app)
    app.add_middleware(IdempotencyMiddleware, runtime=runtime)
    app.add_middleware(EdgeMiddleware, count=request_counter(runtime.meter.http))
    return app


def _add_probes(app: FastAPI, runtime: Runtime) -> None:
    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz")
    async def readyz() -> Response:
        """200 `ready` with an engine on a lease, or one that is cold and comes when it is wanted;
        200 `waiting` without a lease; else 503."""
        phases = {
            engine.state.name: engine.state.phase
            for engine in runtime.dispatcher.pool.engines
            if engine.peer is None
        }
        reachable = [phase for phase in phases.values() if phase != "lost"]
        if not reachable:
            return JSONResponse({"status": "unavailable", "engines": phases}, 503)
        status = "ready" if {"ready", "cold"} & set(reachable) else "waiting"
        return JSONResponse({"status": status, "engines": phases})

    @app.get("/metrics")
    async def metrics() -> Response:
        runtime.meter.observe(runtime.live_stats())
        return Response(generate_latest(runtime.meter.registry), media_type=CONTENT_TYPE_LATEST)
