"""A job's answer as a stream of server-sent events, and waiting for one without a stream."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from marketplace.chat import completion_id, logprobs_object, usage_object
from marketplace.gateway.errors import from_outcome
from marketplace.gateway.runtime import Runtime
from marketplace.jobs import FeedItem, Job, Waiting
from marketplace.store.ledger import Outcome
from marketplace.tool_calls import Called, ToolReader, delta_of
from marketplace.tool_calls import Event as ToolEvent

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]
_KEEP_ALIVE = b": waiting\n\n"
_DONE = b"data: [DONE]\n\n"


class ChatStream(Response):
    """An ASGI response. Its end reaches the engine: a client that goes away cancels its job."""

    def __init__(self, runtime: Runtime, job: Job) -> None:
        super().__init__()
        self._runtime = runtime
        self._job = job
        start = {
            "id": completion_id(job.id),
            "object": "chat.completion.chunk",
            "created": int(job.created_s),
            "model": job.request.model,
            "service_tier": job.request.service_tier,
        }
        if job.request.include_usage:
            start["usage"] = None
        self._start = start
        # All chunks but the text are the same: the text is all that is encoded for each.
        head, tail = json.dumps(
            self._chunk([_choice({"content": "\0"}, None)]), ensure_ascii=False
        ).split('"\\u0000"')
        self._head, self._tail = "data: " + head, tail + "\n\n"
        self._n_logprobs_sent = 0
        tools = job.request.tools
        self._reader = ToolReader(tools, job.id) if tools is not None and tools.active else None
        self._calls = False

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        """Sends the answer as it grows."""
        listener = asyncio.create_task(self._listen(receive))
        gone = False
        try:
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            opening = {"role": "assistant", "content": "" if self._reader is None else None}
            await _send_body(send, self._event(self._chunk([_choice(opening, None)])))
            while not gone:
                items = [await self._job.feed.get()]
                while not self._job.feed.empty():
                    items.append(self._job.feed.get_nowait())
                body, done = self._encode(items)
                await _send_body(send, body)
                if done:
                    break
                gone = listener.done()
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            listener.cancel()
            if self._job.outcome is None:
                self._runtime.spawn(self._runtime.dispatcher.cancel(self._job))

    async def _listen(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        # Wakes the sender, which may be waiting for an engine.
        self._job.feed.put_nowait(Waiting())

    def _encode(self, items: list[FeedItem]) -> tuple[bytes, bool]:
        parts: list[bytes] = []
        for item in items:
            if isinstance(item, str) and self._reader is not None:
                parts += map(self._tool_event, self._reader.feed(item))
            elif isinstance(item, str) and self._job.request.n_logprobs is not None:
                parts.append(self._text_with_logprobs(item))
            elif isinstance(item, str):
                parts.append((self._head + json.dumps(item) + self._tail).encode())
            elif isinstance(item, Outcome):
                parts.append(self._end(item))
                return b"".join(parts), True
            else:
                parts.append(_KEEP_ALIVE)
        return b"".join(parts), False

    def _text_with_logprobs(self, text: str) -> bytes:
        tokens = self._job.answer_logprobs()
        fresh, self._n_logprobs_sent = tokens[self._n_logprobs_sent :], len(tokens)
        choice = _choice({"content": text}, None)
        choice["logprobs"] = logprobs_object(fresh, self._job.request.n_logprobs or 0)
        return self._event(self._chunk([choice]))

    def _tool_event(self, event: ToolEvent) -> bytes:
        self._calls = self._calls or isinstance(event, Called)
        return self._event(self._chunk([_choice(delta_of(event), None)]))

    def _end(self, outcome: Outcome) -> bytes:
        if outcome.state != "completed":
            return self._event(from_outcome(outcome).body())
        job = self._job
        parts = [] if self._reader is None else list(map(self._tool_event, self._reader.end()))
        reason = outcome.finish_reason
        if self._calls and reason == "stop":
            reason = "tool_calls"
        last = self._chunk([_choice({}, reason)])
        last["airan"] = {"preemptions": job.preemptions, "resumed": job.resumed}
        parts.append(self._event(last))
        if job.request.include_usage:
            usage = usage_object(outcome.input_tokens, outcome.output_tokens, job.preemptions)
            parts.append(self._event(self._chunk([]) | {"usage": usage}))
        return b"".join([*parts, _DONE])

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self._start, "choices": choices}

    @staticmethod
    def _event(values: dict[str, Any]) -> bytes:
        return f"data: {json.dumps(values)}\n\n".encode()


class JobStream(StreamingResponse):
    """A stream of server-sent events. A client that goes away, be it before the first of them,
    cancels the jobs."""

    def __init__(self, runtime: Runtime, jobs: Sequence[Job], events: AsyncIterator[str]) -> None:
        super().__init__(events, media_type="text/event-stream")
        self._runtime, self._jobs = runtime, jobs

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the events."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            for job in self._jobs:
                if job.outcome is None:
                    self._runtime.spawn(self._runtime.dispatcher.cancel(job))


async def wait_for_job(runtime: Runtime, request: Request, job: Job) -> None:
    """Waits until the job ended; a client that goes away cancels it."""
    done = asyncio.create_task(job.done.wait())
    gone = asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait({done, gone}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        done.cancel()
        gone.cancel()
        if job.outcome is None:
            runtime.spawn(runtime.dispatcher.cancel(job))
    await job.done.wait()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _send_body(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})


def _choice(delta: dict[str, Any], finish_reason: str | None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
