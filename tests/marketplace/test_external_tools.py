"""Function calls of external models pass through as they are, judged by the official client."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion

from tests.marketplace.openai_server import CALLED, WORDS, OpenAiServer
from tests.marketplace.site import admin_get
from tests.marketplace.test_external import CHAT, selling
from tests.marketplace.tool_engines import CLOCK, WEATHER

NAMED = {"type": "function", "function": {"name": "get_time"}}
# None of our own engines can be held to this.
ODD = {"type": "object", "properties": {"n": {"type": "integer", "multipleOf": 3}}}
TOOLS = [WEATHER, {"type": "function", "function": {**CLOCK["function"], "parameters": ODD}}]
ASK: dict[str, Any] = {key: CHAT[key] for key in ("model", "messages")} | {"tools": TOOLS}
ARGUMENTS = "".join(CALLED)


@pytest.fixture
def server() -> OpenAiServer:
    return OpenAiServer()


def check(completion: ChatCompletion) -> None:
    choice = completion.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "I call. "
    calls = choice.message.tool_calls or []
    assert [(call.id, call.function.name, call.function.arguments) for call in calls] == [
        ("theirs-0", "get_weather", ARGUMENTS),
        ("theirs-1", "get_time", ARGUMENTS),
    ]


@pytest.mark.parametrize("choice", ["auto", "required", NAMED])
async def test_calls_pass_through_and_are_paid_for_as_reported(
    server: OpenAiServer, tmp_path: Path, choice: Any
) -> None:
    async with selling(server, tmp_path) as (url, client):
        asked = ASK | {"tool_choice": choice, "parallel_tool_calls": True}
        check(await client.chat.completions.create(**asked))
        assert server.bodies[0]["tools"] == TOOLS
        assert server.bodies[0]["tool_choice"] == choice
        assert server.bodies[0]["parallel_tool_calls"] is True
        assert "response_format" not in server.bodies[0]
        pieces: list[str] = []
        async with client.chat.completions.stream(
            **asked, stream_options={"include_usage": True}
        ) as stream:
            async for event in stream:
                if event.type == "tool_calls.function.arguments.delta":
                    pieces.append(event.arguments_delta)
            final = await stream.get_final_completion()
        check(final)
        assert [piece for piece in pieces if piece] == [*CALLED, *CALLED]
        assert final.usage is not None
        assert (final.usage.prompt_tokens, final.usage.completion_tokens) == (40, 9)
        assert (await admin_get(url, "stats"))["tokens"] == {"input": 80, "output": 18, "lost": 0}


async def test_results_of_calls_pass_through(server: OpenAiServer, tmp_path: Path) -> None:
    async with selling(server, tmp_path) as (_, client):
        first = await client.chat.completions.create(**ASK)
        said = first.choices[0].message.model_dump(exclude_none=True)
        results = [
            {"role": "tool", "tool_call_id": call["id"], "content": "Sunny."}
            for call in said["tool_calls"]
        ]
        messages = [*CHAT["messages"], said, *results]
        await client.chat.completions.create(**ASK | {"messages": messages})
        sent = server.bodies[1]["messages"]
        assert sent[1]["tool_calls"] == said["tool_calls"]
        assert sent[2:] == results


async def test_a_request_that_wants_no_calls_gets_text(
    server: OpenAiServer, tmp_path: Path
) -> None:
    async with selling(server, tmp_path) as (_, client):
        answer = await client.chat.completions.create(**ASK, tool_choice="none", max_tokens=2)
        assert answer.choices[0].message.content == "".join(WORDS[:2])
        assert server.bodies[0]["tool_choice"] == "none"


async def test_responses_have_the_calls_of_external_models(
    server: OpenAiServer, tmp_path: Path
) -> None:
    flat = [{"type": "function", **tool["function"]} for tool in TOOLS]
    async with selling(server, tmp_path) as (_, client):
        said = await client.responses.create(model="words", input="one two", tools=flat)
        assert [item.type for item in said.output] == ["message", *["function_call"] * 2]
        assert server.bodies[0]["tools"] == TOOLS


@pytest.mark.parametrize("continues", [True, False])
async def test_a_call_that_broke_off_ends_with_an_error_and_no_bill(
    server: OpenAiServer, tmp_path: Path, continues: bool
) -> None:
    server.calls_break_after = 3
    async with selling(server, tmp_path, continues_text=continues) as (url, client):
        with pytest.raises(openai.APIError, match="cannot go on in the middle"):
            await client.chat.completions.create(**ASK)
        assert (await admin_get(url, "stats"))["revenue_usd"] == 0
        check(await client.chat.completions.create(**ASK))
