"""NVCF-style invocation: work is durable before its client hears of it, and can be polled for.

200 when it is done in time, 202 with the id to ask again with, 302 to where a large result lies.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import JSONResponse, Response

from airan.core.errors import InvalidInputError, UnavailableError
from marketplace.chat import usage_object
from marketplace.functions import Function
from marketplace.gateway.errors import ApiError
from marketplace.gateway.idempotency import stable_id
from marketplace.gateway.invocations import (
    MODEL_VERSION,
    Invocations,
    Row,
    error_of,
    is_open,
    not_found,
)
from marketplace.gateway.reading import bearer_key, read_bytes, read_json_bytes
from marketplace.gateway.results import ResultLinks
from marketplace.gateway.runtime import Runtime
from marketplace.store.functions import InvocationResult

_SECRET = "results"
_DEFAULT_POLL_S = 60.0
MAX_POLL_S = 300.0
# The invocation's own fault: as it is, it cannot succeed.
_REJECTED = frozenset({"invalid_request", "context_length_exceeded", "function_refused"})
_STATUS_OF_STATE = {"completed": "fulfilled", "running": "in-progress"}


def build_router(runtime: Runtime) -> APIRouter:
    """The routes under /v2/nvcf for invocations, their results and their queues."""
    router = APIRouter(prefix="/v2/nvcf", tags=["nvcf"])
    links = ResultLinks(lambda: runtime.db.call(runtime.db.secrets.get, _SECRET))

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

    @router.delete("/pexec/status/{job_id}")
    async def cancel(job_id: str, request: Request) -> Response:
        row = await _find(runtime, request, job_id)
        if is_open(row):
            await Invocations(runtime).cancel(job_id)
            row = await _find(runtime, request, job_id)
        usage = usage_object(row["input_tokens"], row["output_tokens"], row["preemptions"])
        headers = _headers(row)
        status = headers["NVCF-STATUS"]
        return JSONResponse({"reqId": job_id, "status": status, "usage": usage}, 200, headers)

    @router.get("/results/{job_id}")
    async def result(
        job_id: str, request: Request, expires: int, tenant: str, signature: str
    ) -> Response:
        await links.check(job_id, tenant, expires, signature, runtime.clock.now_s())
        # The address alone opens it; a key that comes with it must be the tenant's all the same.
        if bearer_key(request) and (await runtime.door.authenticate(request)).tenant_id != tenant:
            raise ApiError(403, "This result is another tenant's.", code="permission_denied")
        row = await runtime.db.call(runtime.db.ledger.job, job_id)
        if row is None or row["tenant_id"] != tenant or row["state"] != "completed":
            raise ApiError(404, f"The request {job_id!r} does not exist.")
        return _response(await Invocations(runtime).result(row), _headers(row))

    _add_queue_routes(router, runtime)
    return router


def _add_queue_routes(router: APIRouter, runtime: Runtime) -> None:
    @router.get("/queues/{job_id}/position")
    async def position(job_id: str, request: Request) -> dict[str, Any]:
        row = await _find(runtime, request, job_id)
        function = await runtime.db.call(runtime.db.functions.version_of, job_id)
        return {
            "functionId": function.id if function else row["model"],
            "functionVersionId": function.version_id if function else MODEL_VERSION,
            "positionInQueue": await Invocations(runtime).position(row),
        }

    @router.get("/queues/functions/{function_id:path}")
    async def depth(
        function_id: str, request: Request, version: Annotated[str | None, Query()] = None
    ) -> dict[str, Any]:
        tenant_id = (await runtime.door.authenticate(request)).tenant_id
        found = await runtime.db.call(runtime.db.functions.versions, function_id, tenant_id)
        queues = [
            _queue(one.version_id, one.name, await Invocations(runtime).depth(one))
            for one in found
            if version in (None, one.version_id)
        ]
        if not found and function_id in runtime.models_of(tenant_id):
            waiting = await Invocations(runtime).depth(function_id)
            queues = [_queue(MODEL_VERSION, function_id, waiting)]
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
    principal = await runtime.door.authenticate(request)
    origin = runtime.origin(request)
    known = stable_id(request, "job")
    made = None if known is None else await runtime.db.call(runtime.db.ledger.job, str(known))
    if made is not None:
        # An earlier gateway accepted it, and died before it could say so.
        return await _answer(runtime, links, request, made["id"], poll_s)
    target = await Invocations(runtime).target(principal, function_id, version_id)
    read = read_bytes if isinstance(target, Function) else read_json_bytes
    body = await read(request, runtime.settings.max_body_bytes)
    wanted = None if known is None else str(known)
    job_id = await Invocations(runtime).accept(principal, target, body, wanted, origin)
    try:
        return await _answer(runtime, links, request, job_id, poll_s)
    except UnavailableError:
        # It is accepted all the same: told otherwise, its client would have it done twice.
        return _pending(job_id, "pending-evaluation", {"NVCF-REQID": job_id})


async def _find(runtime: Runtime, request: Request, job_id: str) -> Row:
    return await Invocations(runtime).find(await runtime.door.authenticate(request), job_id)


async def _answer(
    runtime: Runtime, links: ResultLinks, request: Request, job_id: str, poll_s: float
) -> Response:
    """The result if it is there within `poll_s`, or else 202 and the id to ask again with."""
    row = await Invocations(runtime).wait(job_id, poll_s)
    headers = _headers(row)
    if is_open(row):
        # An attempt that failed waits for the next one.
        running = Invocations(runtime).is_running(row)
        return _pending(job_id, "in-progress" if running else "pending-evaluation", headers)
    if row["state"] != "completed":
        error = error_of(row)
        error.headers = headers
        return error.response()
    result = await Invocations(runtime).result(row)
    if len(result.body) > runtime.settings.large_result_bytes:
        query = await links.query(job_id, row["tenant_id"], runtime.clock.now_s())
        base = str(request.base_url).rstrip("/")
        headers["Location"] = f"{base}/v2/nvcf/results/{job_id}?{query}"
        return Response(status_code=302, headers=headers)
    return _response(result, headers)


def _pending(job_id: str, status: str, headers: dict[str, str]) -> Response:
    headers = headers | {"NVCF-STATUS": status}
    return JSONResponse({"reqId": job_id, "status": status}, 202, headers)


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


def _queue(version_id: str, name: str, n_waiting: int) -> dict[str, Any]:
    return {"functionVersionId": version_id, "functionName": name, "queueDepth": n_waiting}


def _poll_seconds(request: Request) -> float:
    text = request.headers.get("nvcf-poll-seconds")
    if text is None:
        return _DEFAULT_POLL_S
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0.0 <= seconds <= MAX_POLL_S:
        raise InvalidInputError(
            "NVCF-POLL-SECONDS", f"must be between 0 and {MAX_POLL_S:.0f}, got {text!r}"
        )
    return seconds
