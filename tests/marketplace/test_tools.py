"""Function calls, judged by the official client."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion

from tests.marketplace.site import FakeControl, admin_get, eventually
from tests.marketplace.tool_engines import (
    ASK,
    CLOCK,
    WEATHER,
    SayingHost,
    selling,
    templated,
)

TOOLS = [WEATHER, CLOCK]
NAMED = {"type": "function", "function": {"name": "get_weather"}}
CALL = (
    '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome", "days": 2}}\n</tool_call>'
)


def check_weather(arguments: str) -> dict[str, Any]:
    """What the function's schema asks."""
    values = json.loads(arguments)
    assert set(values) == {"city", "days"}
    assert values["city"] in ("Paris", "Rome")
    assert 1 <= values["days"] <= 9
    return dict(values)


async def streamed(client: openai.AsyncOpenAI, **asked: Any) -> ChatCompletion:
    """The answer as the official client's streaming helper puts it together."""
    async with client.chat.completions.stream(**ASK | asked) as stream:
        async for _ in stream:
            pass
        return await stream.get_final_completion()


@pytest.mark.parametrize("choice", ["required", NAMED])
async def test_a_forced_call_keeps_to_the_functions_schema(
    model_path: Path, tmp_path: Path, choice: Any
) -> None:
    tools = [WEATHER] if choice == "required" else TOOLS
    async with selling(tmp_path, templated(model_path)) as (_, client):
        asked = {"tools": tools, "tool_choice": choice}
        answer = await client.chat.completions.create(**ASK, **asked)
        ChatCompletion.model_validate(answer.model_dump(), strict=True)
        choice = answer.choices[0]
        assert choice.finish_reason == "tool_calls"
        assert choice.message.content is None
        (call,) = choice.message.tool_calls
        assert (call.type, call.function.name) == ("function", "get_weather")
        check_weather(call.function.arguments)
        again = (await streamed(client, **asked)).choices[0]
        assert again.finish_reason == "tool_calls"
        assert again.message.tool_calls[0].function.arguments == call.function.arguments
        # The conversation goes on with the call's result.
        messages = [
            *ASK["messages"],
            choice.message.model_dump(exclude_none=True),
            {"role": "tool", "tool_call_id": call.id, "content": "Sunny."},
        ]
        last = await client.chat.completions.create(
            **ASK | {"messages": messages, "max_tokens": 8}, tools=tools, tool_choice="none"
        )
        assert last.choices[0].message.content


async def test_a_call_that_the_model_chose_is_read_and_streamed(tmp_path: Path) -> None:
    host = SayingHost(f"Let me look.\n{CALL}")
    async with selling(tmp_path, host) as (_, client):
        answer = await client.chat.completions.create(**ASK, tools=TOOLS)
        message = answer.choices[0].message
        assert message.content == "Let me look."
        assert json.loads(message.tool_calls[0].function.arguments) == {"city": "Rome", "days": 2}
        assert answer.choices[0].finish_reason == "tool_calls"
        assert '"get_weather"' in host.prompts[0]
        pieces = []
        stream = await client.chat.completions.create(**ASK, tools=TOOLS, stream=True)
        async for chunk in stream:
            pieces += chunk.choices[0].delta.tool_calls or []
        assert [piece.index for piece in pieces] == [0] * len(pieces)
        assert pieces[0].function.name == "get_weather"
        assert all(piece.function.name is None and piece.id is None for piece in pieces[1:])
        assert len(pieces) > 5
        whole = (await streamed(client, tools=TOOLS)).choices[0]
        assert whole.message.tool_calls[0].function.arguments == '{"city": "Rome", "days": 2}'
        assert whole.message.content == "Let me look."
        # Without a choice of functions the same is plain text.
        plain = await client.chat.completions.create(**ASK, tools=TOOLS, tool_choice="none")
        assert plain.choices[0].message.content == f"Let me look.\n{CALL}"
        assert plain.choices[0].message.tool_calls is None


@pytest.mark.parametrize("choice", ["auto", "required"])
async def test_a_call_is_whole_over_a_revocation_in_the_middle_of_it(
    tmp_path: Path, choice: str
) -> None:
    text = CALL if choice == "auto" else '{"name": "get_time", "arguments": {"a": "bcdefghijk"}}'
    control, host = FakeControl(), SayingHost(text, token_s=0.02)
    async with selling(tmp_path, host, control) as (url, client):
        asked = {"tools": TOOLS, "tool_choice": choice}
        whole = (await streamed(client, **asked)).choices[0]
        reading = asyncio.create_task(streamed(client, **asked))
        await eventually(lambda: len(host.prompts) == 2)
        await asyncio.sleep(0.02 * (len(text) - 15))
        await control.revoke()
        control.offer()
        again = await reading
        assert len(host.prompts) == 3
        assert again.choices[0].finish_reason == "tool_calls"
        stats = await admin_get(url, "stats")
        assert (stats["requests"]["preempted"], stats["tokens"]["lost"]) == (1, 0)
        assert again.choices[0].message.content == whole.message.content
        first, second = (one.message.tool_calls[0].function for one in (whole, again.choices[0]))
        assert (first.name, first.arguments) == (second.name, second.arguments)


async def test_a_model_whose_template_has_no_tools_is_named(
    model_path: Path, tmp_path: Path
) -> None:
    async with selling(tmp_path, templated(model_path, "")) as (_, client):
        for choice in ("auto", "required"):
            with pytest.raises(openai.BadRequestError, match="SmolLM2.*no tools") as raised:
                await client.chat.completions.create(**ASK, tools=TOOLS, tool_choice=choice)
            assert raised.value.param == "tools"
        plain = await client.chat.completions.create(
            **ASK, tools=TOOLS, tool_choice="none", max_tokens=4
        )
        assert plain.choices[0].message.content
