"""Engines for tests of function calls: a real model under a template that has tools, and a
simulated one that says what the test wants."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from airan.core.clock import SystemClock
from marketplace.engines.agent import EngineAgent, EngineAgentSettings
from marketplace.engines.agent_server import serve_agent
from marketplace.engines.host import LlamaHost, LlamaSettings
from marketplace.gateway import ModelOffer, Price
from tests.marketplace.simulated_engine import SimulatedHost, tokens_of
from tests.marketplace.site import (
    MODEL,
    FakeControl,
    gateway_settings,
    new_key,
    running_gateway,
)

N_CONTEXT = 2048
HERMES = (
    "{%- if tools %}{{- '<|im_start|>system\\nCall these functions:\\n<tools>' }}"
    "{%- for tool in tools %}{{- '\\n' }}{{- tool | tojson }}{%- endfor %}"
    "{{- '\\n</tools>\\nAnswer with JSON in <tool_call></tool_call>.<|im_end|>\\n' }}{%- endif %}"
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' + (message.content or '') }}"
    "{%- if message.tool_calls %}{%- for call in message.tool_calls %}"
    '{{- \'<tool_call>\\n{"name": "\' + call.function.name + \'", "arguments": \' }}'
    "{{- call.function.arguments | tojson }}{{- '}\\n</tool_call>' }}{%- endfor %}{%- endif %}"
    "{{- '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "enum": ["Paris", "Rome"]},
                "days": {"type": "integer", "minimum": 1, "maximum": 9},
            },
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object"}}}
ASK: dict[str, Any] = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "How is the weather in Paris?"}],
    "temperature": 0,
}


class SayingHost(SimulatedHost):
    """Says `answer`, a letter a token, and goes on after what of it is in the prompt already."""

    def __init__(self, answer: str, token_s: float = 0.0) -> None:
        super().__init__(token_s)
        self.answer = answer
        self.prompts: list[str] = []

    async def _template(self, request: Request) -> Response:
        body = await request.json()
        return JSONResponse({"prompt": json.dumps(body) + "\n"})

    async def _events(self, body: dict[str, Any]) -> AsyncIterator[str]:
        prompt = bytes(body["prompt"]).decode()
        self.prompts.append(prompt)
        me, n_cuts = object(), self._n_cuts
        self._busy.add(me)
        try:
            begun = prompt[prompt.index("\n") + 1 :]
            rest = self.answer.removeprefix(begun)[: body["n_predict"]]
            for number, letter in enumerate(rest, 1):
                await asyncio.sleep(self.token_s)
                if self._n_cuts != n_cuts:
                    return
                yield event(letter, tokens_of(letter), number)
            yield event("", [], len(rest), stop=True, stop_type="eos")
        finally:
            self._busy.discard(me)


def event(text: str, tokens: list[int], number: int, **more: Any) -> str:
    message = {"content": text, "tokens": tokens, "tokens_predicted": number, "stop": False}
    return f"data: {json.dumps(message | more)}\n\n"


def templated(path: Path, template: str = HERMES) -> LlamaHost:
    """The real model under another template."""
    return LlamaHost(LlamaSettings(path, N_CONTEXT, 4, 1, chat_template=template))


@asynccontextmanager
async def selling(
    folder: Path, host: Any, control: FakeControl | None = None
) -> AsyncIterator[tuple[str, openai.AsyncOpenAI]]:
    """A gateway before that engine, and a client of it."""
    settings = EngineAgentSettings(
        "engine-0", MODEL, Path(), 0, n_ctx=N_CONTEXT, max_concurrent=4, background=False
    )
    agent = EngineAgent(settings, control or FakeControl(), SystemClock(), host)
    stop, port = asyncio.Event(), asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(
        serve_agent(agent, settings.host, 0, stop, on_port=port.set_result)
    )
    offer = ModelOffer(MODEL, N_CONTEXT, Price.from_usd(0.01, 0.03))
    market = gateway_settings(folder, f"http://127.0.0.1:{await port}")
    try:
        async with running_gateway(replace(market, models=(offer,))) as url:
            key = await new_key(url)
            async with openai.AsyncOpenAI(
                base_url=f"{url}/v1", api_key=key, max_retries=0
            ) as client:
                yield url, client
    finally:
        stop.set()
        await serving
