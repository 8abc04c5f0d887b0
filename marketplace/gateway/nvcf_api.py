"""NVCF-style invocation: a job is durable before its client hears of it, and can be polled for."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from airan.core.errors import InvalidInputError, UnavailableError
from marketplace.chat import completion, usage_object
from marketplace.gateway.errors import ApiError, from_outcome
from marketplace.gateway.runtime import Runtime
from marketplace.jobs import Job
from marketplace.store.ledger import OPEN_STATES, Outcome

_DEFAULT_POLL_S = 60.0
_MAX_POLL_S = 300.0
_PREPARE_S = 2.0


def build_router(runtime: Runtime) -> APIRouter:
    """The routes under /v2/nvcf/pexec."""
    router = APIRouter(prefix="/v2/nvcf/pexec", tags=["nvcf"])

    @router.post("/functions/{model:path}")
    async def invoke(model: str, request: Request) -> Response:
        poll_s = _poll_seconds(request)
        job = await runtime.new_job(request, "async", model)
        if job.request.stream:
            raise InvalidInputError("stream", "is not supported here; use /v1/chat/completions")
        try:
            await runtime.dispatcher.prepare(job, _PREPARE_S)
        except UnavailableError:
            # The job is accepted all the same: it is made ready when an engine takes it.
            job.prompt_ids = None
        await runtime.dispatcher.submit(job)
        runtime.keep(job)
        return await _answer(runtime, job.id, poll_s)

    @router.get("/status/{job_id}")
    async def status(job_id: str, request: Request) -> Response:
        poll_s = _poll_seconds(request)
        principal = await runtime.authenticate(request)
        row = await runtime.db.call(runtime.db.ledger.job, job_id)
        if row is None or row["kind"] != "async" or row["tenant_id"] != principal.tenant_id:
            raise ApiError(404, f"The request {job_id!r} does not exist.")
        return await _answer(runtime, job_id, poll_s)

    return router


async def _answer(runtime: Runtime, job_id: str, poll_s: float) -> Response:
    """The result if it is there within `poll_s`, or else 202 and the id to ask again with."""
    job = runtime.async_jobs.get(job_id)
    if job is not None:
        await _wait(job, poll_s)
    row = await runtime.db.call(runtime.db.ledger.job, job_id)
    if row is None:
        raise ApiError(404, f"The request {job_id!r} does not exist.")
    headers = {"NVCF-REQID": job_id, "NVCF-STATUS": "pending-evaluation"}
    if row["state"] in OPEN_STATES:
        return JSONResponse({"reqId": job_id, "status": headers["NVCF-STATUS"]}, 202, headers)
    if row["state"] != "completed":
        error = from_outcome(_outcome(row))
        error.headers = headers | {"NVCF-STATUS": "errored"}
        return error.response()
    usage = usage_object(row["input_tokens"], row["output_tokens"], row["preemptions"])
    body = completion(
        job_id, row["model"], row["created_s"], row["text"] or "", row["finish_reason"], usage
    )
    return JSONResponse(body, 200, headers | {"NVCF-STATUS": "fulfilled"})


async def _wait(job: Job, poll_s: float) -> None:
    try:
        await asyncio.wait_for(job.done.wait(), poll_s)
    except TimeoutError:
        return


def _outcome(row: dict[str, Any]) -> Outcome:
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
