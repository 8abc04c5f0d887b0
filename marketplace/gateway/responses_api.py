"""OpenAI's responses: /v1/responses, with background work that outlives its connection."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from airan.core.errors import InvalidInputError, UnavailableError
from marketplace.chat import ChatRequest, parse_chat_request
from marketplace.engines.base import Message
from marketplace.gateway.errors import ApiError, from_outcome
from marketplace.gateway.idempotency import stable_id
from marketplace.gateway.runtime import Runtime
from marketplace.gateway.streaming import JobStream, wait_for_job
from marketplace.jobs import Job, new_job_id
from marketplace.response_items import ResponseItems, response_tools, said_in
from marketplace.responses import (
    ResponseRequest,
    closing_events,
    events_between,
    last_event,
    openings,
    parse_response_request,
    response_object,
)
from marketplace.store.accounts import Principal
from marketplace.store.ledger import OPEN_STATES, Outcome

Document = dict[str, Any]


class _Feeds:
    """Lets several streams follow one job: its feed has one reader."""

    def __init__(self) -> None:
        self._changed: dict[str, asyncio.Condition] = {}
        self._readers: set[asyncio.Task[None]] = set()

    def follow(self, job: Job) -> asyncio.Condition:
        """What is notified at every change of the job."""
        changed = self._changed.get(job.id)
        if changed is None:
            changed = self._changed[job.id] = asyncio.Condition()
            reader = asyncio.create_task(self._read(job, changed))
            self._readers.add(reader)
            reader.add_done_callback(self._readers.discard)
        return changed

    async def _read(self, job: Job, changed: asyncio.Condition) -> None:
        ended = False
        while not ended:
            ended = isinstance(await job.feed.get(), Outcome)
            async with changed:
                changed.notify_all()
        del self._changed[job.id]


def build_router(runtime: Runtime) -> APIRouter:
    """The routes under /v1/responses."""
    router = APIRouter(prefix="/v1/responses", tags=["openai"])
    feeds = _Feeds()

    @router.post("")
    async def create(request: Request) -> Response:
        principal, values = await runtime.read_body(request)
        asked = parse_response_request(values)
        document, job = await _begin(runtime, principal, values, asked, request)
        waited = None if document["background"] or isinstance(job, str) else job
        if asked.stream:
            events = _events(runtime, feeds, document, job, -1)
            return JobStream(runtime, [] if waited is None else [waited], events)
        if waited is not None:
            await wait_for_job(runtime, request, waited)
            if waited.outcome is not None and waited.outcome.state == "failed":
                raise from_outcome(waited.outcome)
        if isinstance(job, str):
            if not document["background"]:
                await runtime.elsewhere.ended(job)
            return JSONResponse(await _stored(runtime, document, job))
        return JSONResponse(_of_job(document, job))

    @router.get("/{response_id}")
    async def retrieve(
        response_id: str,
        request: Request,
        stream: bool = False,
        starting_after: Annotated[int, Query(ge=-1)] = -1,
    ) -> Response:
        row = await _find(runtime, await runtime.door.authenticate(request), response_id)
        job = runtime.async_jobs.get(row["job_id"])
        if stream:
            events = _events(runtime, feeds, row["document"], job or row["job_id"], starting_after)
            return StreamingResponse(events, media_type="text/event-stream")
        return JSONResponse(await _stored(runtime, row["document"], row["job_id"]))

    @router.post("/{response_id}/cancel")
    async def cancel(response_id: str, request: Request) -> dict[str, Any]:
        row = await _find(runtime, await runtime.door.authenticate(request), response_id)
        if not row["document"]["background"]:
            raise ApiError(400, "Only a background response can be cancelled.")
        await _cancel(runtime, row["job_id"])
        return await _stored(runtime, row["document"], row["job_id"])

    @router.delete("/{response_id}")
    async def delete(response_id: str, request: Request) -> dict[str, Any]:
        principal = await runtime.door.authenticate(request)
        row = await _find(runtime, principal, response_id)
        await _cancel(runtime, row["job_id"])
        await runtime.db.call(runtime.db.batches.delete_response, response_id, principal.tenant_id)
        return {"id": response_id, "object": "response", "deleted": True}

    return router


async def _begin(
    runtime: Runtime,
    principal: Principal,
    values: dict[str, Any],
    asked: ResponseRequest,
    request: Request,
) -> tuple[Document, Job | str]:
    """Checks and submits a request; stored before its client hears of it if it is to be.

    The job is an id if it has ended, or is another gateway's; it is an earlier one's if a run under
    the same Idempotency-Key began it before a crash.
    """
    earlier = await _earlier(runtime, principal, asked)
    chat = _chat_of(asked, earlier)
    job = runtime.job_of(chat, "async" if asked.store else "sync", principal)
    job.origin = runtime.origin(request)
    named = stable_id(request, "response") if asked.store else None
    document: Document = {
        "id": "resp_" + (secrets.token_hex(16) if named is None else named.hex),
        "created_s": job.created_s,
        "background": asked.background,
        "store": asked.store,
        "service_tier": chat.service_tier,
        "values": {key: value for key, value in values.items() if key != "input"},
        "messages": earlier + asked.messages,
    }
    made: Document | None = None
    if named is not None:
        job.id = str(named)
        made = await runtime.db.call(runtime.db.ledger.job, job.id)
    if made is not None and not asked.background and made["state"] in ("cancelled", "failed"):
        # Its client left, or its gateway stopped, before the end: this is another try.
        made, job.id, document["id"] = None, new_job_id(), "resp_" + secrets.token_hex(16)
    if made is None:
        await _submit(runtime, job, asked)
    if asked.store:
        row = {"id": document["id"], "tenant_id": principal.tenant_id, "job_id": job.id}
        row |= {"document": document, "created_s": job.created_s}
        # The job is accepted: a failure here would have its client ask for another one.
        keep = runtime.db.batches.keep_response
        document = await runtime.db.insist(principal.tenant_id, keep, keep, row)
    return document, job if made is None else runtime.async_jobs.get(job.id, job.id)


def _chat_of(asked: ResponseRequest, earlier: list[Message]) -> ChatRequest:
    try:
        return parse_chat_request(asked.chat_body(earlier))
    except InvalidInputError as error:
        field, _, problem = str(error).partition(": ")
        if not field.startswith("messages"):
            raise
        # Its client knows items, and may have sent only the last of them.
        raise InvalidInputError("input", problem) from error


async def _earlier(runtime: Runtime, principal: Principal, asked: ResponseRequest) -> list[Message]:
    """The conversation that the request goes on with."""
    if asked.previous_id is None:
        return []
    before = await _find(runtime, principal, asked.previous_id)
    answer = await runtime.db.call(runtime.db.ledger.job, before["job_id"])
    if answer is None or answer["state"] != "completed":
        raise ApiError(400, "That response is not complete.", param="previous_response_id")
    document = before["document"]
    said = said_in(document, response_tools(document["values"]), answer["text"] or "")
    return [*document["messages"], *said]


async def _submit(runtime: Runtime, job: Job, asked: ResponseRequest) -> None:
    try:
        await runtime.dispatcher.prepare(job, runtime.settings.engine_wait_s)
    except UnavailableError:
        if not asked.background:
            raise
        job.prompt_ids = None
    await runtime.submit(job)
    if asked.store:
        runtime.keep(job)


async def _events(
    runtime: Runtime, feeds: _Feeds, document: Document, job: Job | str, after: int
) -> AsyncIterator[str]:
    """The stream from after number `after` to its end; `job` is an id once it has ended, or where
    another gateway runs it."""
    use = response_tools(document["values"])
    if use is not None and use.active:
        async for event in _tool_events(
            runtime, feeds, document, job, ResponseItems(document, use, after)
        ):
            yield _encode(event)
        return
    n_sent = 0
    if isinstance(job, Job):
        changed = feeds.follow(job)
        while True:
            text, ended = job.text, job.outcome is not None
            if text[n_sent:] or n_sent == 0:
                for event in events_between(document, text, n_sent, after):
                    after = event["sequence_number"]
                    yield _encode(event)
                n_sent = len(text)
            if ended:
                break
            async with changed:
                if job.outcome is None and len(job.text) == n_sent:
                    await changed.wait()
        answer, text = _of_job(document, job), job.text
    else:
        text = ""
        for event in events_between(document, text, 0, after):
            after = event["sequence_number"]
            yield _encode(event)
        async for piece in runtime.elsewhere.texts(job):
            n_sent, text = len(text), text + piece
            for event in events_between(document, text, n_sent, after):
                after = event["sequence_number"]
                yield _encode(event)
        answer = await _stored(runtime, document, job)
    for event in closing_events(document, answer, text, after):
        yield _encode(event)


async def _tool_events(
    runtime: Runtime, feeds: _Feeds, document: Document, job: Job | str, items: ResponseItems
) -> AsyncIterator[Document]:
    """The same where functions may be called."""
    for event in items.opening(*openings(document)):
        yield event
    if isinstance(job, Job):
        async for text in _texts(feeds, job):
            for event in items.feed(text):
                yield event
        answer = _of_job(document, job)
    else:
        async for text in runtime.elsewhere.texts(job):
            for event in items.feed(text):
                yield event
        answer = await _stored(runtime, document, job)
    for event in items.closing(answer, last_event(answer["status"])):
        yield event


async def _texts(feeds: _Feeds, job: Job) -> AsyncIterator[str]:
    """The pieces of the job's answer up to its end; an answer with a schema comes whole."""
    changed, n_sent = feeds.follow(job), 0
    while True:
        ended = job.outcome is not None
        text = job.text if ended or job.request.response_schema is None else ""
        if text[n_sent:]:
            yield text[n_sent:]
            n_sent = len(text)
        if ended:
            return
        async with changed:
            if job.outcome is None and (not text or len(job.text) == n_sent):
                await changed.wait()


def _of_job(document: Document, job: Job) -> dict[str, Any]:
    if job.outcome is None:
        # While its end is being stored its client must not hear of it yet.
        state = job.state if job.state in OPEN_STATES else "running"
        return response_object(document, state, job.text, {})
    return response_object(document, job.outcome.state, job.text, asdict(job.outcome))


async def _stored(runtime: Runtime, document: Document, job_id: str) -> dict[str, Any]:
    job = runtime.async_jobs.get(job_id)
    if job is not None:
        return _of_job(document, job)
    row = await runtime.db.call(runtime.db.ledger.job, job_id)
    if row is None:
        raise ApiError(404, "That response is gone.")
    return response_object(document, row["state"], row["text"] or "", row)


async def _cancel(runtime: Runtime, job_id: str) -> None:
    job = runtime.async_jobs.get(job_id)
    if job is None:
        await runtime.elsewhere.cancel(job_id)
    elif job.outcome is None and job.state in OPEN_STATES:
        await runtime.dispatcher.cancel(job)
        await job.done.wait()


async def _find(runtime: Runtime, principal: Principal, response_id: str) -> dict[str, Any]:
    store = runtime.db.batches
    row = await runtime.db.call(store.response, response_id, principal.tenant_id)
    if row is None:
        raise ApiError(404, f"No such response: {response_id!r}.", param="response_id")
    return row


def _encode(event: dict[str, Any]) -> str:
    return f"event: {event['type']}\ndata: {json.dumps(event)}\n\n"
