"""Text completions, log probabilities, JSON answers and embeddings, by the official client."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
import pytest_asyncio
from openai.types import Completion
from openai.types.chat import ChatCompletion

from marketplace.gateway.embeddings_api import encoded
from tests.marketplace.site import (
    MODEL,
    FakeControl,
    gateway_settings,
    new_key,
    running_agent,
    running_gateway,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")
GREEDY: dict[str, Any] = {"model": MODEL, "temperature": 0}
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(
    model_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[openai.AsyncOpenAI]:
    folder = tmp_path_factory.mktemp("completions")
    async with (
        running_agent(model_path, FakeControl()) as agent_url,
        running_gateway(gateway_settings(folder, agent_url)) as url,
        openai.AsyncOpenAI(
            base_url=f"{url}/v1", api_key=await new_key(url), max_retries=0
        ) as client,
    ):
        yield client


async def test_several_prompts_are_answered_in_their_order_and_streamed_alike(
    client: openai.AsyncOpenAI,
) -> None:
    asked = GREEDY | {"prompt": ["One, two, three,", "The sky is"], "max_tokens": 6}
    plain = await client.completions.create(**asked)
    Completion.model_validate(plain.model_dump(), strict=True)
    assert [choice.index for choice in plain.choices] == [0, 1]
    texts, usage = ["", ""], None
    async for chunk in await client.completions.create(
        **asked, stream=True, stream_options={"include_usage": True}
    ):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == [choice.text for choice in plain.choices]
    assert usage is not None
    assert usage.completion_tokens == 12
    assert usage.total_tokens == plain.usage.total_tokens


async def test_token_ids_are_a_prompt_and_unknown_ones_are_refused(
    client: openai.AsyncOpenAI,
) -> None:
    answer = await client.completions.create(**GREEDY, prompt=[1, 2, 3], max_tokens=2)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 3
    with pytest.raises(openai.BadRequestError):
        await client.completions.create(**GREEDY, prompt=[10_000_000], max_tokens=2)


async def test_log_probabilities_belong_to_the_text_of_a_completion(
    client: openai.AsyncOpenAI,
) -> None:
    answer = await client.completions.create(
        **GREEDY, prompt="One, two, three,", max_tokens=8, logprobs=2, stop="five"
    )
    choice = answer.choices[0]
    assert choice.logprobs is not None
    assert choice.logprobs.tokens
    assert choice.text.startswith("".join(choice.logprobs.tokens)[: len(choice.text)])
    assert all(len(top) <= 2 for top in choice.logprobs.top_logprobs)
    assert choice.logprobs.text_offset[0] == 0


async def test_log_probabilities_of_a_stream_are_those_of_the_plain_chat(
    client: openai.AsyncOpenAI,
) -> None:
    asked: dict[str, Any] = GREEDY | {
        "messages": [{"role": "user", "content": "Say hello."}],
        "max_tokens": 6,
        "logprobs": True,
        "top_logprobs": 3,
    }
    plain = await client.chat.completions.create(**asked)
    ChatCompletion.model_validate(plain.model_dump(), strict=True)
    content = plain.choices[0].logprobs.content
    assert [len(token.top_logprobs) for token in content] == [3] * 6
    # Greedy decoding takes the likeliest token each time.
    assert all(token.token == token.top_logprobs[0].token for token in content)
    streamed = []
    async for chunk in await client.chat.completions.create(**asked, stream=True):
        if chunk.choices and chunk.choices[0].logprobs:
            streamed += chunk.choices[0].logprobs.content
    assert [token.token for token in streamed] == [token.token for token in content]


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_keeps_to_its_json_schema(client: openai.AsyncOpenAI, stream: bool) -> None:
    answer = await client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Tell me a joke, no JSON please."}],
        max_tokens=80,
        seed=1,
        stream=stream,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "person", "schema": PERSON},
        },
    )
    if stream:
        text = "".join(
            [chunk.choices[0].delta.content or "" async for chunk in answer if chunk.choices]
        )
    else:
        text = answer.choices[0].message.content
    person = json.loads(text)
    assert set(person) == {"name", "age"}
    assert isinstance(person["age"], int)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"echo": True}, "echo"),
        ({"n": 2}, "n"),
        ({"best_of": 3}, "best_of"),
        ({"logprobs": 6}, "logprobs"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"suffix": "end"}, "suffix"),
    ],
)
async def test_what_a_completion_cannot_have_is_refused_by_name(
    client: openai.AsyncOpenAI, change: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await client.completions.create(**({"model": MODEL, "prompt": "Hi"} | change))
    assert refused.value.param == param


@pytest.mark.parametrize("schema", [{"type": "person"}, {"oneOf": []}, {"properties": 3}])
async def test_a_schema_that_cannot_be_held_is_refused(
    client: openai.AsyncOpenAI, schema: dict[str, Any]
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "Hi"}],
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "person", "schema": schema},
            },
        )
    assert refused.value.param == "response_format"


@pytest.mark.parametrize("tier", ["auto", "default", "flex", "priority"])
async def test_the_service_tier_is_echoed(client: openai.AsyncOpenAI, tier: Any) -> None:
    answer = await client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Hi"}],
        max_tokens=1,
        service_tier=tier,
    )
    assert answer.service_tier == ("default" if tier == "auto" else tier)


async def test_a_chat_model_says_that_it_has_no_embeddings(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="does not support embeddings"):
        await client.embeddings.create(model=MODEL, input="hello")


async def test_base64_embeddings_are_little_endian_float32() -> None:
    assert encoded([1.0, -2.0], "base64") == "AACAPwAAAMA="
    assert encoded([1.0, -2.0], "float") == [1.0, -2.0]
