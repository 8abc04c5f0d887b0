"""The gateway as one ASGI application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

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
    probes_api,
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
from marketplace.siblings.asking import Asking

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
    asking = Asking()
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
        await runtime.company.rest()
        await server.stop()
        await background.stop()
        await runner.stop()
        await runtime.stop()
        await asking.close()

    app = FastAPI(title="airan marketplace", lifespan=lifespan, redirect_slashes=False)
    app.state.runtime = runtime
    for kind, handler in _HANDLERS.items():
        app.add_exception_handler(kind, handler)
    for module in _ROUTERS:
        app.include_router(module.build_router(runtime))
    app.include_router(probes_api.build_router(runtime, asking))
    describe(app)
    app.add_middleware(IdempotencyMiddleware, runtime=runtime)
    app.add_middleware(EdgeMiddleware, count=request_counter(runtime.meter.http))
    return app
