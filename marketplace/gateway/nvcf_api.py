"""NVCF-style invocation: work is durable before its client hears of it, and can be polled for.

200 when it is done in time, 202 with the id to ask again with, 302 to where a large result lies.
"""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import JSONResponse, Response

from airan.core.errors import InvalidInputError, UnavailableError
from marketplace.chat import completion, usage_object
from marketplace.functions import Function
from marketplace.gateway.errors import ApiError, from_outcome
from marketplace.gateway.functions_api import MODEL_VERSION, find_function, not_found
from marketplace.gateway.idempotency import stable_id
from marketplace.gateway.results import ResultLinks
from marketplace.gateway.runtime import Runtime, bearer_key, read_bytes
from marketplace.jobs import Job, new_job_id
from marketplace.store.functions import InvocationResult
from marketplace.store.ledger import OPEN_STATES, Outcome

_DEFAULT_POLL_S = 60.0
_MAX_POLL_S = 300.0
_PREPARE_S = 2.0
_KINDS = ("async", "function")
# The invocation's own fault: as it is, it cannot succeed.
_REJECTED = frozenset({"invalid_request", "context_length_exceeded", "function_refused"})
_STATUS_OF_STATE = {"completed": "fulfilled", "running": "in-progress"}
_FUNCTION_ERRORS = {"function_unavailable": 502, "function_refused": 502, "result_too_large": 502}
Row = dict[str, Any]


def build_router(runtime: Runtime) -> APIRouter:
    """The routes under /v2/nvcf for invocations, their results and their queues."""
    router = APIRouter(prefix="/v2/nvcf", tags=["nvcf"])
    links = ResultLinks(runtime.settings.state_dir)

    @router.post("/pexec/functions/{function_id}/versions/{version_id}")
    async def invoke_version(function_id: str, version_id: str, request: Request) -> Response:
        return await _invoke(runtime, links, request, function_id, version_id)

    @router.post("/pexec/functions/{function_id:path}")
    async def invoke(function_id: str, request: Request) -> Response:
        return await _invoke(runtime, links, request, function_id, None)

    @router.get("/pexec/status/{job_id}")
    async def status(job_id: str, request: Request) -> Response:
        poll_s = _poll_seconds(request)
        await _find(runtime, request, job_id)
        return await _answer(runtime, links, request, job_id, poll_s)

    @router.get("/results/{job_id}")
    async def result(
        job_id: str, request: Request, expires: int, tenant: str, signature: str
    ) -> Response:
        links.check(job_id, tenant, expires, signature, runtime.clock.now_s())
        # The address alone opens it; a key that comes with it must be the tenant's all the same.
        if bearer_key(request) and (await runtime.authenticate(request)).tenant_id != tenant:
            raise ApiError(403, "This result is another tenant's.", code="permission_denied")
        row = await runtime.db.call(runtime.db.ledger.job, job_id)
        if row is None or row["tenant_id"] != tenant or row["state"] != "completed":
            raise ApiError(404, f"The request {job_id!r} does not exist.")
        return _response(await _result(runtime, row), _headers(row))

    _add_queue_routes(router, runtime)
    return router


def _add_queue_routes(router: APIRouter, runtime: Runtime) -> None:
    @router.get("/queues/{job_id}/position")
    async def position(job_id: str, request: Request) -> dict[str, Any]:
        row = await _find(runtime, request, job_id)
        function = await runtime.db.call(runtime.db.functions.version_of, job_id)
        shown = {
            "functionId": function.id if function else row["model"],
            "functionVersionId": function.version_id if function else MODEL_VERSION,
            "positionInQueue": runtime.functions.position(job_id),
        }
        job = runtime.async_jobs.get(job_id)
        if job is not None:
            waiting = [one.id for one in runtime.dispatcher.waiting]
            shown["positionInQueue"] = waiting.index(job_id) + 1 if job_id in waiting else 0
        return shown

    @router.get("/queues/functions/{function_id:path}")
    async def depth(
        function_id: str, request: Request, version: Annotated[str | None, Query()] = None
    ) -> dict[str, Any]:
        tenant_id = (await runtime.authenticate(request)).tenant_id
        found = await runtime.db.call(runtime.db.functions.versions, function_id, tenant_id)
        queues = [
            _queue(one.version_id, one.name, _depth(runtime, one))
            for one in found
            if version in (None, one.version_id)
        ]
        if not found and function_id in runtime.offers:
            queues = [_queue(MODEL_VERSION, function_id, _model_depth(runtime, function_id))]
        if not queues:
            raise not_found(function_id, version)
        return {"functionId": function_id, "queues": queues}


async def _invoke(
    runtime: Runtime,
    links: ResultLinks,
    request: Request,
    function_id: str,
    version_id: str | None,
) -> Response:
    poll_s = _poll_seconds(request)
    if "nvcf-input-asset-references" in request.headers:
        raise InvalidInputError("NVCF-INPUT-ASSET-REFERENCES", "assets are not supported here")
    principal = await runtime.authenticate(request)
    known = stable_id(request, "job")
    made = None if known is None else await runtime.db.call(runtime.db.ledger.job, str(known))
    if made is not None:
        # An earlier gateway accepted it, and died before it could say so.
        return await _answer(runtime, links, request, made["id"], poll_s)
    function = None
    if function_id not in runtime.offers or version_id not in (None, MODEL_VERSION):
        function = await find_function(runtime, principal.tenant_id, function_id, version_id)
    if function is None or function.model is not None:
        name = function_id if function is None else function.model
        job = await runtime.new_job(request, "async", name)
        job.id = job.id if known is None else str(known)
        await _submit(runtime, job)
        return await _answer(runtime, links, request, job.id, poll_s)
    body = await _json_body(request, runtime.settings.max_body_bytes)
    job_id = new_job_id() if known is None else str(known)
    row = {"id": job_id, "tenant_id": principal.tenant_id, "key_id": principal.key_id}
    await runtime.functions.accept(function, row, body)
    return await _answer(runtime, links, request, job_id, poll_s)


async def _submit(runtime: Runtime, job: Job) -> None:
    if job.request.stream:
        raise InvalidInputError("stream", "is not supported here; use /v1/chat/completions")
    try:
        await runtime.dispatcher.prepare(job, _PREPARE_S)
    except UnavailableError:
        # The job is accepted all the same: it is made ready when an engine takes it.
        job.prompt_ids = None
    await runtime.dispatcher.submit(job)
    runtime.keep(job)


async def _find(runtime: Runtime, request: Request, job_id: str) -> Row:
    principal = await runtime.authenticate(request)
    row = await runtime.db.call(runtime.db.ledger.job, job_id.replace("\0", ""))
    if row is None or row["kind"] not in _KINDS or row["tenant_id"] != principal.tenant_id:
        raise ApiError(404, f"The request {job_id!r} does not exist.")
    return row


async def _answer(
    runtime: Runtime, links: ResultLinks, request: Request, job_id: str, poll_s: float
) -> Response:
    """The result if it is there within `poll_s`, or else 202 and the id to ask again with."""
    job = runtime.async_jobs.get(job_id)
    if job is not None:
        await _wait(job, poll_s)
    else:
        await runtime.functions.wait(job_id, poll_s)
    row = await runtime.db.call(runtime.db.ledger.job, job_id)
    if row is None:
        raise ApiError(404, f"The request {job_id!r} does not exist.")
    headers = _headers(row)
    if row["state"] in OPEN_STATES:
        running = runtime.functions.is_running(job_id) or (
            job is not None and job.state == "running"
        )
        # An attempt that failed waits for the next one.
        headers["NVCF-STATUS"] = "in-progress" if running else "pending-evaluation"
        return JSONResponse({"reqId": job_id, "status": headers["NVCF-STATUS"]}, 202, headers)
    if row["state"] != "completed":
        error = _error(row)
        error.headers = headers
        return error.response()
    result = await _result(runtime, row)
    if len(result.body) > runtime.settings.large_result_bytes:
        query = links.query(job_id, row["tenant_id"], runtime.clock.now_s())
        base = str(request.base_url).rstrip("/")
        headers["Location"] = f"{base}/v2/nvcf/results/{job_id}?{query}"
        return Response(status_code=302, headers=headers)
    return _response(result, headers)


async def _result(runtime: Runtime, row: Row) -> InvocationResult:
    if row["kind"] == "function":
        result = await runtime.db.call(runtime.db.functions.result, row["id"])
        if result is None:
            raise ApiError(500, f"The result of {row['id']} is not there.")
        return result
    usage = usage_object(row["input_tokens"], row["output_tokens"], row["preemptions"])
    text, reason = row["text"] or "", row["finish_reason"]
    body = completion(row["id"], row["model"], row["created_s"], text, reason, usage)
    return InvocationResult(200, "application/json", json.dumps(body).encode())


def _response(result: InvocationResult, headers: dict[str, str]) -> Response:
    # A container's answer must not be taken by a browser for a page of this gateway.
    safe = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox"}
    safe["Content-Type"] = result.content_type
    return Response(result.body, result.status, headers | safe)


def _headers(row: Row) -> dict[str, str]:
    status = _STATUS_OF_STATE.get(row["state"], "errored")
    if row["state"] == "failed" and row["error_code"] in _REJECTED:
        status = "rejected"
    return {"NVCF-REQID": row["id"], "NVCF-STATUS": status}


def _error(row: Row) -> ApiError:
    code = row["error_code"]
    if code in _FUNCTION_ERRORS:
        return ApiError(_FUNCTION_ERRORS[code], row["error_message"], code=code)
    return from_outcome(_outcome(row))


def _depth(runtime: Runtime, function: Function) -> int:
    if function.model is None:
        return runtime.functions.depth(function.version_id)
    return _model_depth(runtime, function.model)


def _model_depth(runtime: Runtime, model: str) -> int:
    return sum(job.request.model == model for job in runtime.dispatcher.waiting)


def _queue(version_id: str, name: str, n_waiting: int) -> dict[str, Any]:
    return {"functionVersionId": version_id, "functionName": name, "queueDepth": n_waiting}


async def _json_body(request: Request, limit_bytes: int) -> bytes:
    body = await read_bytes(request, limit_bytes)
    try:
        json.loads(body)
    except (ValueError, RecursionError) as error:
        text = f"The body is no JSON: {error}"
        raise ApiError(400, text, code="invalid_json") from error
    return body


async def _wait(job: Job, poll_s: float) -> None:
    try:
        await asyncio.wait_for(job.done.wait(), poll_s)
    except TimeoutError:
        return


def _outcome(row: Row) -> Outcome:
    return Outcome(
        row["state"],
        row["input_tokens"],
        row["output_tokens"],
        error_code=row["error_code"],
        error_message=row["error_message"],
    )


def _poll_seconds(request: Request) -> float:
    text = request.headers.get("nvcf-poll-seconds")
    if text is None:
        return _DEFAULT_POLL_S
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0.0 <= seconds <= _MAX_POLL_S:
        raise InvalidInputError(
            "NVCF-POLL-SECONDS", f"must be between 0 and {_MAX_POLL_S:.0f}, got {text!r}"
        )
    return seconds
