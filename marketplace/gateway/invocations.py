"""Invocations, however they come in: accepted durably, waited for, cancelled, their results."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

from airan.core.errors import InvalidInputError, UnavailableError
from marketplace.chat import completion, parse_chat_request, tools_of, usage_object
from marketplace.federation.travel import Origin
from marketplace.functions import Function
from marketplace.gateway.errors import ApiError, from_outcome, not_allowed
from marketplace.gateway.reading import parse_json
from marketplace.gateway.runtime import Runtime
from marketplace.jobs import Job, new_job_id
from marketplace.principal import Principal
from marketplace.store.functions import InvocationResult
from marketplace.store.ledger import OPEN_STATES, Outcome

MODEL_VERSION = "latest"
"""Every model can be called by its name, as a function with this one version."""
_PREPARE_S = 2.0
_KINDS = ("async", "function")
_FUNCTION_ERRORS = {"function_unavailable": 502, "function_refused": 502, "result_too_large": 502}
Row = dict[str, Any]
"""A job's row."""


def not_found(function_id: str, version_id: str | None = None) -> ApiError:
    """There is no such function, or not for this tenant."""
    version = "" if version_id is None else f" has no version {version_id!r}, or it"
    text = f"The function {function_id!r}{version} does not exist."
    return ApiError(404, text, code="function_not_found")


async def find_function(
    runtime: Runtime, tenant_id: str | None, function_id: str, version_id: str | None
) -> Function:
    """The function as the tenant may call it.

    Raises:
        ApiError: 404, there is none, or it is another tenant's.
    """
    found = await runtime.db.call(runtime.db.functions.find, function_id, version_id, tenant_id)
    if found is None:
        raise not_found(function_id, version_id)
    return found


class Invocations:
    """The invocations of one gateway."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def target(
        self, principal: Principal, function_id: str, version_id: str | None
    ) -> Function | str:
        """What an invocation runs: a container's function, or a model by its name.

        Raises:
            ApiError: 403, or 404: there is none, or it is another tenant's.
        """
        runtime = self._runtime
        name = function_id
        known = function_id in runtime.offers or runtime.adapters.find(
            principal.tenant_id, function_id
        )
        if not known or version_id not in (None, MODEL_VERSION):
            function = await find_function(runtime, principal.tenant_id, function_id, version_id)
            if function.model is None:
                if not principal.may_use(function.name):
                    raise not_allowed(f"use the function {function.name!r}")
                return function
            name = function.model
        runtime.check_model(principal, name)
        return name

    async def accept(
        self,
        principal: Principal,
        target: Function | str,
        body: bytes,
        job_id: str | None = None,
        origin: Origin | None = None,
    ) -> str:
        """Takes responsibility for an invocation, which is stored when this returns; its id.

        `origin`: where it came from; without, it never goes to a peer.

        Raises:
            ApiError: the body is no JSON.
            InvalidInputError: a parameter is wrong or not supported.
            CapacityError: too many wait, or a limit of the tenant's refuses it.
        """
        values = parse_json(body)
        if isinstance(target, Function):
            made = job_id or new_job_id()
            await self._runtime.functions.accept(target, principal, made, body)
            return made
        job = self.chat_job(principal, target, values, "async")
        if job.request.n_logprobs is not None:
            raise InvalidInputError("logprobs", "are not kept for requests that are polled for")
        if job.request.stream:
            raise InvalidInputError("stream", "is not supported here; use /v1/chat/completions")
        job.id, job.origin = job_id or job.id, origin
        try:
            await self._runtime.dispatcher.prepare(job, _PREPARE_S)
        except UnavailableError:
            # The job is accepted all the same: it is made ready when an engine takes it.
            job.prompt_ids = None
        await self._runtime.dispatcher.submit(job)
        self._runtime.keep(job)
        return job.id

    def chat_job(self, principal: Principal, model: str, values: Any, kind: Any) -> Job:
        """A job for a chat completion whose body may leave out the model.

        Raises:
            InvalidInputError: a parameter is wrong or not supported.
        """
        if isinstance(values, dict):
            values = {**values, "model": model}
        return self._runtime.job_of(parse_chat_request(values), kind, principal)

    async def find(self, principal: Principal, job_id: str) -> Row:
        """The row of the tenant's invocation.

        Raises:
            ApiError: 404, the tenant has none of that id.
        """
        row = await self._runtime.db.call(self._runtime.db.ledger.job, job_id.replace("\0", ""))
        if row is None or row["kind"] not in _KINDS or row["tenant_id"] != principal.tenant_id:
            raise ApiError(404, f"The request {job_id!r} does not exist.")
        return row

    async def wait(self, job_id: str, timeout_s: float) -> Row:
        """The row as it is when the invocation ends, or when the time is over.

        Raises:
            ApiError: 404, there is none of that id.
        """
        job = self._runtime.async_jobs.get(job_id)
        if job is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await job.done.wait()
        elif self._runtime.functions.has(job_id):
            await self._runtime.functions.wait(job_id, timeout_s)
        else:
            return await self._runtime.elsewhere.ended(job_id, timeout_s)
        return await self._runtime.elsewhere.ended(job_id, 0.0)

    def is_running(self, row: Row) -> bool:
        """Whether an engine or a container works on it now; one that waits for its next attempt
        does not run."""
        runtime, job_id = self._runtime, row["id"]
        if runtime.elsewhere.has(row):
            return bool(row["state"] == "running")
        job = runtime.async_jobs.get(job_id)
        return runtime.functions.is_running(job_id) or (job is not None and job.state == "running")

    async def position(self, row: Row) -> int:
        """Its place among those that wait, from 1; 0: it waits no more. Of one at another gateway,
        among those there that came before it."""
        runtime, job_id = self._runtime, row["id"]
        if runtime.elsewhere.has(row):
            return await runtime.db.call(runtime.db.ledger.position, job_id)
        if job_id not in runtime.async_jobs:
            return runtime.functions.position(job_id)
        waiting = [one.id for one in runtime.dispatcher.waiting]
        return waiting.index(job_id) + 1 if job_id in waiting else 0

    async def depth(self, target: Function | str) -> int:
        """How many invocations of it wait, at all gateways."""
        runtime = self._runtime
        if isinstance(target, Function):
            if target.model is None:
                elsewhere = runtime.db.functions.n_waiting_elsewhere
                own = runtime.functions.depth(target.version_id)
                return own + await runtime.db.call(elsewhere, target.version_id)
            target = target.model
        own = sum(job.request.model == target for job in runtime.dispatcher.waiting)
        theirs = (one.report.waiting.get(target, ()) for one in runtime.company.siblings)
        return own + sum(map(sum, theirs))

    async def cancel(self, job_id: str) -> None:
        """Ends it, at the engine or container too; one that ended stays as it ended."""
        job = self._runtime.async_jobs.get(job_id)
        if job is not None:
            await self._runtime.dispatcher.cancel(job)
            await job.done.wait()
        elif self._runtime.functions.has(job_id):
            await self._runtime.functions.cancel(job_id)
        else:
            await self._runtime.elsewhere.cancel(job_id)

    async def result(self, row: Row) -> InvocationResult:
        """What a completed invocation came to."""
        if row["kind"] == "function":
            found = await self._runtime.db.call(self._runtime.db.functions.result, row["id"])
            if found is None:
                raise ApiError(500, f"The result of {row['id']} is not there.")
            return found
        usage = usage_object(row["input_tokens"], row["output_tokens"], row["preemptions"])
        text, reason = row["text"] or "", row["finish_reason"]
        tools = tools_of(row["request"])
        body = completion(row["id"], row["model"], row["created_s"], text, reason, usage, tools)
        return InvocationResult(200, "application/json", json.dumps(body).encode())


def is_open(row: Row) -> bool:
    """Whether the invocation has not ended."""
    return row["state"] in OPEN_STATES


def error_of(row: Row) -> ApiError:
    """Why an invocation did not complete."""
    code = row["error_code"]
    if code in _FUNCTION_ERRORS:
        return ApiError(_FUNCTION_ERRORS[code], row["error_message"], code=code)
    return from_outcome(
        Outcome(
            row["state"],
            row["input_tokens"],
            row["output_tokens"],
            error_code=code,
            error_message=row["error_message"],
        )
    )
