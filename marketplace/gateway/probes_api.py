"""What operators' tools ask: does it answer, is it ready, its metrics."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import JSONResponse, Response

from marketplace.gateway.runtime import Runtime
from marketplace.siblings.asking import Asking
from marketplace.siblings.metrics import merged


def build_router(runtime: Runtime, asking: Asking) -> APIRouter:
    """The routes /healthz, /readyz and /metrics; `asking`: for what the other gateways say."""
    router = APIRouter()

    @router.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @router.get("/readyz")
    async def readyz() -> Response:
        """200 `ready` with an engine on a lease, or one that is cold and comes when it is wanted;
        200 `waiting` without a lease; else 503. Of several gateways also how many answer."""
        phases = {
            engine.state.name: engine.state.phase
            for engine in runtime.dispatcher.pool.engines
            if engine.peer is None
        }
        body: dict[str, Any] = {"status": "unavailable", "engines": phases}
        if runtime.settings.gateways > 1:
            body["gateways"] = 1 + len(await asking.texts(runtime.company.siblings, "/healthz"))
        reachable = [phase for phase in phases.values() if phase != "lost"]
        if not reachable:
            return JSONResponse(body, 503)
        status = "ready" if {"ready", "cold"} & set(reachable) else "waiting"
        return JSONResponse(body | {"status": status})

    @router.get("/metrics")
    async def metrics(own: bool = False) -> Response:
        """Of all gateways that share the port, each with its number as a label; `own`: of the one
        that answers only."""
        meter = runtime.meter
        if runtime.settings.gateways > 1 and not own:
            body = merged(await _all_texts(runtime, asking))
        else:
            meter.observe(runtime.live_stats())
            body = meter.text()
        return Response(body, media_type=CONTENT_TYPE_LATEST)

    return router


async def _all_texts(runtime: Runtime, asking: Asking) -> dict[int, str]:
    siblings = runtime.company.siblings
    texts = await asking.texts(siblings, "/metrics?own=true")
    runtime.meter.unheard.inc(len(siblings) - len(texts))
    runtime.meter.observe(runtime.live_stats())
    return {runtime.company.number: runtime.meter.text().decode()} | texts
