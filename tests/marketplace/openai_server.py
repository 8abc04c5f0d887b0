"""A small OpenAI-compatible server over real HTTP, as others would run one; tests break it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from marketplace.asgi import QuietServer, bind

CALLED = ('{"cit', 'y": "Pa', 'ris"}')
"""The arguments of its function calls, in pieces."""
WORDS = [f"w{n} " for n in range(100)]


class OpenAiServer:
    """Answers with numbered words and counts them; `fail` makes it answer so instead."""

    def __init__(self) -> None:
        self.fail: Response | None = None
        self.breaks_after: int | None = None
        self.waits_after: int | None = None
        """Words after which it says nothing more."""
        self.calls_break_after: int | None = None
        """Pieces of an answer with function calls after which it breaks off."""
        self.usage: dict[str, int] | None = None
        """What it reports instead of what it counts."""
        self.keys: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self.open_streams = 0
        self.app = FastAPI()
        self.app.post("/v1/chat/completions")(self.chat)
        self.app.post("/v1/completions")(self.chat)
        self.app.get("/v1/models")(self.models)

    async def models(self) -> dict[str, Any]:
        return {"object": "list", "data": []}

    async def chat(self, request: Request) -> Response:
        self.keys.append(request.headers.get("authorization", ""))
        if self.fail is not None:
            return self.fail
        self.bodies.append(body := await request.json())
        return StreamingResponse(self.stream(body), media_type="text/event-stream")

    async def stream(self, body: dict[str, Any]) -> AsyncIterator[str]:
        breaks_after, self.breaks_after = self.breaks_after, None
        limit = body.get("max_tokens", 50)
        words = WORDS[_begun(body) :][:limit]
        self.open_streams += 1
        try:
            if body.get("tools") and body.get("tool_choice") != "none":
                for part in self.call(body):
                    yield part
                return
            for n, word in enumerate(words):
                if n == breaks_after:
                    return
                if n == self.waits_after:
                    await asyncio.Event().wait()
                piece = {"text": word} if "prompt" in body else {"delta": {"content": word}}
                yield event({"choices": [piece | {"finish_reason": None}]})
                await asyncio.sleep(0)
            reason = "length" if len(words) == body.get("max_tokens") else "stop"
            yield event({"choices": [{"delta": {}, "finish_reason": reason}]})
            n_prompt = len(_prompt(body).split())
            usage = {"prompt_tokens": n_prompt, "completion_tokens": len(words)}
            yield event({"choices": [], "usage": self.usage or usage}) + "data: [DONE]\n\n"
        finally:
            self.open_streams -= 1

    def call(self, body: dict[str, Any]) -> list[str]:
        """A stream that calls the first two functions."""
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": "I call. "}]
        for index, tool in enumerate(body["tools"][:2]):
            function = {"name": tool["function"]["name"], "arguments": ""}
            head = {"index": index, "id": f"theirs-{index}", "type": "function"}
            deltas.append({"tool_calls": [head | {"function": function}]})
            for piece in CALLED:
                part = {"index": index, "function": {"arguments": piece}}
                deltas.append({"tool_calls": [part]})
        choices = [{"delta": delta, "finish_reason": None} for delta in deltas]
        choices = choices[: self.calls_break_after]
        if self.calls_break_after is None:
            choices.append({"delta": {}, "finish_reason": "tool_calls"})
        self.calls_break_after = None
        usage = {"prompt_tokens": 40, "completion_tokens": 9}
        last = event({"choices": [], "usage": usage}) + "data: [DONE]\n\n"
        ended = choices[-1]["finish_reason"] is not None
        return [event({"choices": [one]}) for one in choices] + ([last] if ended else [])


def _prompt(body: dict[str, Any]) -> str:
    if "prompt" in body:
        return str(body["prompt"])
    return " ".join(message["content"] for message in body["messages"])


def _begun(body: dict[str, Any]) -> int:
    """Words it is to go on after."""
    if "prompt" in body or body["messages"][-1]["role"] != "assistant":
        return 0
    return len(body["messages"][-1]["content"].split())


def event(values: dict[str, Any]) -> str:
    return f"data: {json.dumps(values)}\n\n"


def failure(status: int, message: str = "no", **headers: str) -> Response:
    return JSONResponse({"error": {"message": message}}, status, headers)


@contextlib.asynccontextmanager
async def serving(app: FastAPI) -> AsyncIterator[str]:
    listener = bind("127.0.0.1", 0, "the test's server", "none")
    listener.listen()
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
    server = QuietServer(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    finally:
        server.should_exit = True
        await task
