"""OpenAI's interface: /v1/models and /v1/chat/completions."""

from __future__ import annotations

from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from marketplace.adapters.adapter import Adapter
from marketplace.chat import completion, logprobs_object, usage_object
from marketplace.gateway.errors import from_outcome
from marketplace.gateway.runtime import Runtime
from marketplace.gateway.streaming import ChatStream, wait_for_job


def build_router(runtime: Runtime) -> APIRouter:
    """The routes under /v1."""
    router = APIRouter(prefix="/v1", tags=["openai"])

    @router.get("/models")
    async def list_models(request: Request) -> dict[str, Any]:
        tenant_id = (await runtime.door.authenticate(request)).tenant_id
        models = [_model(runtime, name) for name in runtime.offers]
        adapters = map(partial(_adapter, runtime), runtime.adapters.of_tenant(tenant_id))
        return {"object": "list", "data": [*models, *adapters]}

    @router.get("/models/{name:path}")
    async def get_model(name: str, request: Request) -> dict[str, Any]:
        adapter = runtime.adapter_of(await runtime.door.authenticate(request), name)
        return _model(runtime, name) if adapter is None else _adapter(runtime, adapter)

    @router.post("/chat/completions")
    async def create_chat_completion(request: Request) -> Response:
        job = await runtime.new_job(request)
        await runtime.dispatcher.prepare(job, runtime.settings.engine_wait_s)
        await runtime.submit(job)
        if job.request.stream:
            return ChatStream(runtime, job)
        await wait_for_job(runtime, request, job)
        outcome = job.outcome
        if outcome is None or outcome.state != "completed":
            raise from_outcome(outcome) if outcome else RuntimeError("a job ended without outcome")
        usage = usage_object(outcome.input_tokens, outcome.output_tokens, job.preemptions)
        reason = outcome.finish_reason or "stop"
        asked = job.request
        answer = completion(
            job.id, asked.model, job.created_s, job.text, reason, usage, asked.tools
        )
        answer["service_tier"] = job.request.service_tier
        if job.request.n_logprobs is not None:
            logprobs = logprobs_object(job.answer_logprobs(), job.request.n_logprobs)
            answer["choices"][0]["logprobs"] = logprobs
        return JSONResponse(answer)

    return router


def _model(runtime: Runtime, name: str) -> dict[str, Any]:
    offer = runtime.offers[name]
    return {
        "id": name,
        "object": "model",
        "created": 0,
        "owned_by": "airan",
        "airan": {
            "context_tokens": offer.n_ctx,
            "price_usd_per_1k_input_tokens": offer.price.input_micro_usd_per_1k / 1e6,
            "price_usd_per_1k_output_tokens": offer.price.output_micro_usd_per_1k / 1e6,
        },
    }


def _adapter(runtime: Runtime, adapter: Adapter) -> dict[str, Any]:
    owner = adapter.tenant_id or "airan"
    shown = {"id": adapter.model, "created": int(adapter.created_s), "owned_by": owner}
    return _model(runtime, adapter.base) | shown | {"parent": adapter.base}
