"""Function calls, judged by the official client."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletion
from openai.types.responses import Response, ResponseFunctionToolCall

from airan.core.errors import InvalidInputError
from marketplace.chat import parse_chat_request
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
WANTED = {"city": "Rome", "days": 2}
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
    host = SayingHost(f"Let me look.\n{CALL}", token_s=0.002)
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
            with pytest.raises(openai.BadRequestError, match=r"SmolLM2.*no tools") as raised:
                await client.chat.completions.create(**ASK, tools=TOOLS, tool_choice=choice)
            assert raised.value.param == "tools"
        plain = await client.chat.completions.create(
            **ASK, tools=TOOLS, tool_choice="none", max_tokens=4
        )
        assert plain.choices[0].message.content


FLAT = [{"type": "function", **tool["function"]} for tool in TOOLS]


async def test_responses_have_calls_as_items_and_go_on_after_their_results(
    tmp_path: Path,
) -> None:
    host = SayingHost(f"Let me look.\n{CALL}", token_s=0.002)
    asked: dict[str, Any] = {"model": ASK["model"], "input": "Weather?", "tools": FLAT}
    async with selling(tmp_path, host) as (_, client):
        plain = await client.responses.create(**asked)
        Response.model_validate(plain.model_dump(), strict=True)
        assert plain.output_text == "Let me look."
        assert [item.type for item in plain.output] == ["message", "function_call"]
        call = plain.output[1]
        assert isinstance(call, ResponseFunctionToolCall)
        assert (call.name, json.loads(call.arguments)) == ("get_weather", WANTED)
        async with client.responses.stream(**asked) as stream:
            events = [event async for event in stream]
            final = await stream.get_final_response()
        assert [item.type for item in final.output] == ["message", "function_call"]
        pieces = [e.delta for e in events if e.type == "response.function_call_arguments.delta"]
        done = [e for e in events if e.type == "response.function_call_arguments.done"]
        assert len(pieces) > 5
        assert "".join(pieces) == done[0].arguments == call.arguments
        numbers = [event.sequence_number for event in events]
        assert numbers == sorted(set(numbers))
        host.answer = "It is sunny."
        output = {"type": "function_call_output", "call_id": call.call_id, "output": "Sunny."}
        after = await client.responses.create(
            model=ASK["model"], input=[output], previous_response_id=plain.id, tools=FLAT
        )
        assert after.output_text == "It is sunny."
        messages = json.loads(host.prompts[-1].split("\n")[0])["messages"]
        assert [message["role"] for message in messages] == ["user", "assistant", "tool"]
        assert messages[1]["tool_calls"][0]["id"] == messages[2]["tool_call_id"] == call.call_id
        # The same, with all of the conversation in the request.
        items = [{"role": "user", "content": "Weather?"}, call.model_dump(), output]
        whole = await client.responses.create(model=ASK["model"], input=items, tools=FLAT)
        assert whole.output_text == "It is sunny."
        output["call_id"] = "call_of_nobody"
        with pytest.raises(openai.BadRequestError) as raised:
            await client.responses.create(model=ASK["model"], input=[*items[:2], output])
        assert raised.value.param == "input"


async def test_a_background_response_is_read_again_from_any_event(tmp_path: Path) -> None:
    host = SayingHost(f"Look.\n{CALL}", token_s=0.005)
    async with selling(tmp_path, host) as (_, client):
        stream = await client.responses.create(
            model=ASK["model"], input="Weather?", tools=FLAT, background=True, stream=True
        )
        events = [event.model_dump() async for event in stream]
        response_id = events[0]["response"]["id"]
        for start in (2, 7, 30, 41):
            again = await client.responses.retrieve(response_id, stream=True, starting_after=start)
            rest = [event.model_dump() async for event in again]
            assert rest[0]["sequence_number"] > start
            assert rest[-1] == events[-1]
            deltas = "".join(e["delta"] for e in rest if e["type"].endswith("arguments.delta"))
            assert json.dumps(WANTED).endswith(deltas)
        shown = await client.responses.retrieve(response_id)
        assert [item.type for item in shown.output] == ["message", "function_call"]


async def test_a_batch_of_forced_calls_is_answered(tmp_path: Path) -> None:
    host = SayingHost('{"name": "get_time", "arguments": {}}')
    body = ASK | {"tools": TOOLS, "tool_choice": "required"}
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    async with selling(tmp_path, host) as (_, client):
        content = json.dumps(line).encode()
        file = await client.files.create(file=("in.jsonl", content), purpose="batch")
        batch = await client.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        )

        async def completed() -> Any:
            shown = await client.batches.retrieve(batch.id)
            return shown if shown.status == "completed" else None

        done = await eventually(completed)
        result = json.loads((await client.files.content(done.output_file_id)).text)
        choice = result["response"]["body"]["choices"][0]
        assert choice["finish_reason"] == "tool_calls"
        assert choice["message"]["tool_calls"][0]["function"]["name"] == "get_time"


async def test_an_invocation_of_a_model_calls_functions(tmp_path: Path) -> None:
    async with selling(tmp_path, SayingHost(CALL)) as (url, client):
        headers = {"Authorization": f"Bearer {client.api_key}", "NVCF-POLL-SECONDS": "20"}
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=30) as http:
            path = f"/v2/nvcf/pexec/functions/{ASK['model']}"
            done = await http.post(path, json=ASK | {"tools": TOOLS})
        choice = done.json()["choices"][0]
        assert choice["finish_reason"] == "tool_calls"
        assert choice["message"]["content"] is None
        arguments = choice["message"]["tool_calls"][0]["function"]["arguments"]
        assert json.loads(arguments) == WANTED


def function(**changes: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", **changes}}


ASSISTANT = {
    "role": "assistant",
    "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
}
RESULT = {"role": "tool", "tool_call_id": "a", "content": "x"}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"tools": {}}, "tools"),
        ({"tools": [function()] * 129}, "tools"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"tools": [{"type": "function"}]}, "tools.0.function"),
        ({"tools": [function(name="a b")]}, "tools.0.function.name"),
        ({"tools": [function(name="a" * 65)]}, "tools.0.function.name"),
        ({"tools": [function(name=1)]}, "tools.0.function.name"),
        ({"tools": [function(), function()]}, "tools.1.function.name"),
        ({"tools": [function(extra=1)]}, "tools.0.function.extra"),
        ({"tools": [function(strict="yes")]}, "tools.0.function.strict"),
        ({"tools": [function(description=1)]}, "tools.0.function.description"),
        ({"tools": [function(parameters=[])]}, "tools.0.function.parameters"),
        ({"tools": [function(parameters={"type": "array"})]}, "tools.0.function.parameters"),
        ({"tools": [function(parameters={"properties": 1})]}, "tools.0.function.parameters"),
        (
            {"tools": [function(parameters={"properties": {"a": {"type": "x"}}})]},
            "tools.0.function.parameters",
        ),
        ({"tools": [function(parameters={"required": "a"})]}, "tools.0.function.parameters"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [function()], "tool_choice": "some"}, "tool_choice"),
        ({"tools": [function()], "tool_choice": NAMED}, "tool_choice"),
        ({"tools": [function()], "tool_choice": {"type": "function"}}, "tool_choice"),
        ({"tools": [function()], "parallel_tool_calls": 1}, "parallel_tool_calls"),
        ({"tools": [function()], "logprobs": True}, "logprobs"),
        ({"messages": [RESULT]}, "messages.0.tool_call_id"),
        ({"messages": [ASSISTANT, RESULT | {"tool_call_id": "b"}]}, "messages.1.tool_call_id"),
        ({"messages": [ASSISTANT, RESULT, RESULT]}, "messages.2.tool_call_id"),
        ({"messages": [ASSISTANT, ASK["messages"][0]]}, "messages.1"),
        ({"messages": [ASSISTANT]}, "messages"),
        ({"messages": [ASSISTANT | {"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "assistant"}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": "", "tool_call_id": "a"}]}, "messages.0.tool"),
    ],
)
def test_what_is_wrong_with_functions_is_refused_by_name(
    change: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidInputError) as raised:
        parse_chat_request(ASK | change)
    assert raised.value.field.startswith(field)


def test_the_schema_of_a_forced_call_holds_definitions_apart() -> None:
    point = {"type": "object", "properties": {"next": {"$ref": "#/$defs/P"}, "$ref": {"const": 1}}}
    parameters = {"properties": {"at": {"$ref": "#/$defs/P"}}, "$defs": {"P": point}}
    tools = [function(parameters=parameters), function(name="g", parameters=parameters)]
    schema = parse_chat_request(ASK | {"tools": tools, "tool_choice": "required"}).response_schema
    assert schema is not None
    assert set(schema["$defs"]) == {"f.P", "g.P"}
    at = schema["anyOf"][1]["properties"]["arguments"]["properties"]["at"]
    assert at == {"$ref": "#/$defs/g.P"}
    assert schema["$defs"]["g.P"]["properties"]["next"] == at


@pytest.mark.parametrize("arguments", ["", "[1]", "not JSON", '{"city": "Ro', '{"a": NaN}'])
async def test_whatever_a_conversation_says_of_calls_is_no_failure_of_ours(
    model_path: Path, tmp_path: Path, arguments: str
) -> None:
    call = {"name": "get_weather", "arguments": arguments}
    said = {"role": "assistant", "tool_calls": [{"id": "a", "type": "function", "function": call}]}
    odd: list[Any] = [
        None,
        {},
        {"properties": {"a": {"minLength": "x"}, "b": True, "c": {"$ref": "#/none"}}},
        {"properties": {"a": {"type": "string", "pattern": "("}, "tools": {"not": {}}}},
    ]
    tools = [function(description=None, parameters=one) for one in odd]
    for n, tool in enumerate(tools):
        tool["function"]["name"] = f"f{n}"
    asked = {"messages": [*ASK["messages"], said, RESULT], "max_tokens": 2}
    async with selling(tmp_path, templated(model_path)) as (_, client):
        answer = await client.chat.completions.create(**ASK | asked, tools=tools)
        assert answer.choices[0].finish_reason in ("stop", "length")
        await client.chat.completions.create(**ASK | asked)
        for tool in tools[:2]:
            await client.chat.completions.create(
                **ASK | asked, tools=[tool], tool_choice="required"
            )
        for tool in tools[2:]:
            with pytest.raises(openai.BadRequestError):
                await client.chat.completions.create(
                    **ASK | asked, tools=[tool], tool_choice="required"
                )


async def test_functions_need_a_template_also_where_only_the_conversation_has_them(
    model_path: Path, tmp_path: Path
) -> None:
    async with selling(tmp_path, templated(model_path, "")) as (_, client):
        messages = [*ASK["messages"], ASSISTANT, RESULT]
        with pytest.raises(openai.BadRequestError, match="no tools") as raised:
            await client.chat.completions.create(**ASK | {"messages": messages})
        assert raised.value.param == "messages"


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        (
            {"tools": [function(parameters={"oneOf": [{}]})], "tool_choice": "required"},
            "tools.0.function.parameters",
        ),
        ({"tools": TOOLS, "response_format": {"type": "json_object"}}, "response_format"),
    ],
)
async def test_what_our_own_engines_cannot_do_with_functions_is_refused(
    tmp_path: Path, asked: dict[str, Any], param: str
) -> None:
    async with selling(tmp_path, SayingHost("x")) as (_, client):
        with pytest.raises(openai.BadRequestError) as raised:
            await client.chat.completions.create(**ASK, **asked)
        assert raised.value.param == param
