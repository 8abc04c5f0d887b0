"""OpenAI's batches: /v1/batches."""

from __future__ import annotations

import secrets
import uuid
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from marketplace.chat import check_encodable, explain
from marketplace.gateway.batch_runner import BatchRunner
from marketplace.gateway.errors import ApiError
from marketplace.gateway.files_api import page
from marketplace.gateway.idempotency import stable_id
from marketplace.gateway.runtime import Runtime

_WINDOW_S = 24 * 3600
_Label = Annotated[str, Field(max_length=512)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    input_file_id: Annotated[str, Field(max_length=64)]
    endpoint: Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings"]
    completion_window: Literal["24h"]
    metadata: Annotated[dict[str, _Label], Field(max_length=16)] | None = None


def build_router(runtime: Runtime) -> APIRouter:
    """The routes under /v1/batches."""
    router = APIRouter(prefix="/v1/batches", tags=["openai"])

    @router.post("")
    async def create(request: Request) -> dict[str, Any]:
        principal, values = await runtime.read_body(request)
        check_encodable(values)
        try:
            body = _Body.model_validate(values)
        except ValidationError as error:
            raise explain(error) from error
        found = await runtime.db.call(
            runtime.db.batches.file, body.input_file_id, principal.tenant_id
        )
        if found is None or found["purpose"] != "batch":
            raise ApiError(
                400,
                f"There is no file {body.input_file_id!r} with the purpose 'batch'.",
                code="invalid_value",
                param="input_file_id",
            )
        named = stable_id(request, "batch")
        document = _document(body, runtime.clock.now_s(), named)
        if named is not None:
            # An earlier gateway took it on, and died before it could say so.
            store = runtime.db.batches
            made = await runtime.db.call(store.batch, document["id"], principal.tenant_id)
            if made is not None:
                return made
        origin = runtime.origin(request)
        row = {
            "id": document["id"],
            "tenant_id": principal.tenant_id,
            "key_id": principal.key_id,
            "state": document["status"],
            "document": document,
            "created_s": runtime.clock.now_s(),
            "via": ",".join(origin.via),
            "gateway_id": runtime.id,
            "narrows": None if origin.narrows is None else str(origin.narrows),
        }
        add = runtime.db.batches.add_batch
        await runtime.db.insist(principal.tenant_id, add, add, row)
        _runner(request).begin(dict(document), principal, origin)
        return document

    @router.get("")
    async def list_batches(
        request: Request,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        after: str | None = None,
    ) -> dict[str, Any]:
        principal = await runtime.door.authenticate(request)
        store = runtime.db.batches
        data = await runtime.db.call(store.list_batches, principal.tenant_id, limit + 1, after)
        return page(data, limit)

    @router.get("/{batch_id}")
    async def retrieve(batch_id: str, request: Request) -> dict[str, Any]:
        return await find(request, batch_id)

    @router.post("/{batch_id}/cancel")
    async def cancel(batch_id: str, request: Request) -> dict[str, Any]:
        return await _runner(request).cancel(await find(request, batch_id))

    async def find(request: Request, batch_id: str) -> dict[str, Any]:
        principal = await runtime.door.authenticate(request)
        found = await runtime.db.call(runtime.db.batches.batch, batch_id, principal.tenant_id)
        if found is None:
            raise ApiError(404, f"No such batch: {batch_id!r}.", param="batch_id")
        return found

    return router


def _runner(request: Request) -> BatchRunner:
    runner = request.app.state.batch_runner
    assert isinstance(runner, BatchRunner)
    return runner


def _document(body: _Body, now_s: float, named: uuid.UUID | None) -> dict[str, Any]:
    later = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling")
    return {
        "id": "batch_" + (secrets.token_hex(12) if named is None else named.hex),
        "object": "batch",
        "endpoint": body.endpoint,
        "errors": None,
        "input_file_id": body.input_file_id,
        "completion_window": body.completion_window,
        "status": "validating",
        "output_file_id": None,
        "error_file_id": None,
        "created_at": int(now_s),
        "expires_at": int(now_s) + _WINDOW_S,
        **{f"{state}_at": None for state in (*later, "cancelled")},
        "request_counts": {"total": 0, "completed": 0, "failed": 0},
        "metadata": body.metadata,
    }
