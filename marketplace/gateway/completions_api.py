"""OpenAI's older interface for raw text: /v1/completions."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from marketplace.chat import usage_object
from marketplace.completions import (
    parse_completion_request,
    text_choice,
    text_completion,
    text_logprobs,
)
from marketplace.gateway.errors import from_outcome
from marketplace.gateway.runtime import Runtime
from marketplace.gateway.streaming import JobStream, wait_for_job
from marketplace.jobs import FeedItem, Job
from marketplace.store.ledger import Outcome


def build_router(runtime: Runtime) -> APIRouter:
    """The route /v1/completions."""
    router = APIRouter(prefix="/v1", tags=["openai"])

    @router.post("/completions")
    async def create_completion(request: Request) -> Response:
        principal, values = await runtime.read_body(request)
        requests = parse_completion_request(values)
        jobs = [runtime.job_of(one, "sync", principal) for one in requests]
        for job in jobs:
            job.origin = runtime.origin(request)
            await runtime.dispatcher.prepare(job, runtime.settings.engine_wait_s)
        try:
            for job in jobs:
                await runtime.submit(job)
        except BaseException:
            # Whoever asked may have left meanwhile: the jobs before must not go on.
            runtime.spawn(_cancel(runtime, jobs))
            raise
        if jobs[0].request.stream:
            return JobStream(runtime, jobs, _stream(jobs))
        return await _whole(runtime, request, jobs)

    return router


async def _whole(runtime: Runtime, request: Request, jobs: list[Job]) -> Response:
    try:
        for job in jobs:
            await wait_for_job(runtime, request, job)
    finally:
        await _cancel(runtime, jobs)
    choices = []
    for index, job in enumerate(jobs):
        outcome = job.outcome
        if outcome is None or outcome.state != "completed":
            raise from_outcome(outcome) if outcome else RuntimeError("a job ended without outcome")
        logprobs = text_logprobs(job.answer_logprobs(), job.request.n_logprobs)
        choices.append(text_choice(index, job.text, outcome.finish_reason, logprobs))
    first = jobs[0]
    answer = text_completion(first.id, first.request, first.created_s, choices, _usage(jobs))
    return JSONResponse(answer)


async def _stream(jobs: list[Job]) -> AsyncIterator[str]:
    """The answers as they grow, each chunk with its prompt's number."""
    merged: asyncio.Queue[tuple[int, FeedItem]] = asyncio.Queue()
    pumps = [asyncio.create_task(_pump(index, job, merged)) for index, job in enumerate(jobs)]
    first = jobs[0]
    sent = [0] * len(jobs)
    offsets = [0] * len(jobs)

    def event(choices: list[dict[str, Any]], usage: dict[str, Any] | None = None) -> str:
        chunk = text_completion(first.id, first.request, first.created_s, choices, usage)
        if usage is None and first.request.include_usage:
            chunk["usage"] = None
        return f"data: {json.dumps(chunk)}\n\n"

    try:
        n_open = len(jobs)
        while n_open:
            index, item = await merged.get()
            if isinstance(item, str):
                tokens = jobs[index].answer_logprobs()
                fresh, sent[index] = tokens[sent[index] :], len(tokens)
                logprobs = text_logprobs(fresh, first.request.n_logprobs, offsets[index])
                offsets[index] += sum(len(token.text) for token in fresh)
                yield event([text_choice(index, item, None, logprobs)])
            elif isinstance(item, Outcome):
                n_open -= 1
                if item.state != "completed":
                    yield f"data: {json.dumps(from_outcome(item).body())}\n\n"
                    return
                yield event([text_choice(index, "", item.finish_reason)])
            else:
                yield ": waiting\n\n"
        if first.request.include_usage:
            yield event([], _usage(jobs))
        yield "data: [DONE]\n\n"
    finally:
        for pump in pumps:
            pump.cancel()


async def _pump(index: int, job: Job, merged: asyncio.Queue[tuple[int, FeedItem]]) -> None:
    while True:
        item = await job.feed.get()
        merged.put_nowait((index, item))
        if isinstance(item, Outcome):
            return


async def _cancel(runtime: Runtime, jobs: list[Job]) -> None:
    """Ends those that still go on; one that ended stays as it ended."""
    for job in jobs:
        if job.outcome is None:
            await runtime.dispatcher.cancel(job)


def _usage(jobs: list[Job]) -> dict[str, Any]:
    outcomes = [job.outcome for job in jobs if job.outcome is not None]
    return usage_object(
        sum(outcome.input_tokens for outcome in outcomes),
        sum(outcome.output_tokens for outcome in outcomes),
        sum(job.preemptions for job in jobs),
    )
