"""OpenAI's Responses interface by the official client, over the real engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import openai
import pytest
import pytest_asyncio
from openai.types.responses import Response

from tests.marketplace.site import (
    MODEL,
    FakeControl,
    eventually,
    gateway_settings,
    new_key,
    running_agent,
    running_gateway,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def agent(model_path: Path) -> AsyncIterator[str]:
    async with running_agent(model_path, FakeControl()) as url:
        yield url


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(
    agent: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[openai.AsyncOpenAI]:
    folder = tmp_path_factory.mktemp("responses")
    async with (
        running_gateway(gateway_settings(folder, agent)) as url,
        client_of(url, await new_key(url)) as client,
    ):
        yield client


def client_of(url: str, key: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)


async def test_an_answer_is_kept_continued_and_deleted(client: openai.AsyncOpenAI) -> None:
    first = await client.responses.create(
        model=MODEL,
        input="My name is Ada.",
        instructions="Be brief.",
        temperature=0,
        max_output_tokens=16,
    )
    Response.model_validate(first.model_dump(), strict=True)
    assert first.output_text
    assert (await client.responses.retrieve(first.id)).output_text == first.output_text
    asked = [{"role": "user", "content": [{"type": "input_text", "text": "Who am I?"}]}]
    second = await client.responses.create(
        model=MODEL, input=asked, previous_response_id=first.id, max_output_tokens=16
    )
    assert second.usage is not None
    assert first.usage is not None
    assert second.usage.input_tokens > first.usage.input_tokens
    await client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(first.id)


async def test_a_stream_has_openais_events_in_order(client: openai.AsyncOpenAI) -> None:
    stream = await client.responses.create(
        model=MODEL, input="Say hello.", max_output_tokens=16, stream=True
    )
    events = [event async for event in stream]
    numbers = [event.sequence_number for event in events]
    assert numbers == sorted(set(numbers))
    kinds = [event.type.removeprefix("response.") for event in events]
    assert kinds[:4] == ["created", "in_progress", "output_item.added", "content_part.added"]
    assert kinds[-4:-1] == ["output_text.done", "content_part.done", "output_item.done"]
    assert kinds[-1] in ("completed", "incomplete")
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == events[-1].response.output_text


async def test_what_is_not_to_be_stored_cannot_be_retrieved(client: openai.AsyncOpenAI) -> None:
    answer = await client.responses.create(
        model=MODEL, input="Hi", max_output_tokens=16, store=False
    )
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(answer.id)


async def test_a_background_response_is_cancelled(client: openai.AsyncOpenAI) -> None:
    begun = await client.responses.create(
        model=MODEL,
        input="Write a very long story.",
        temperature=0,
        max_output_tokens=1900,
        background=True,
    )
    assert begun.status in ("queued", "in_progress")
    assert (await client.responses.cancel(begun.id)).status == "cancelled"


async def test_a_background_stream_resumes_over_a_restart_without_loss(
    agent: str, tmp_path: Path
) -> None:
    settings = gateway_settings(tmp_path, agent)
    text, number, response_id = "", -1, ""
    async with running_gateway(settings) as url:
        key = await new_key(url)
        async with client_of(url, key) as client:
            stream = await client.responses.create(
                model=MODEL,
                input="Tell a story.",
                temperature=0,
                max_output_tokens=120,
                background=True,
                stream=True,
            )
            async for event in stream:
                number = event.sequence_number
                if event.type == "response.created":
                    response_id = event.response.id
                if event.type == "response.output_text.delta":
                    text += event.delta
                    if len(text) > 20:
                        break
            await stream.close()
    async with running_gateway(settings) as url, client_of(url, key) as client:
        async for event in await client.responses.retrieve(
            response_id, stream=True, starting_after=number
        ):
            assert event.sequence_number > number
            number = event.sequence_number
            if event.type == "response.output_text.delta":
                text += event.delta

        async def ended() -> bool:
            return (await client.responses.retrieve(response_id)).status in (
                "completed",
                "incomplete",
            )

        await eventually(ended)
        assert (await client.responses.retrieve(response_id)).output_text == text


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"background": True, "store": False}, "store"),
        ({"temperature": 7}, "temperature"),
        ({"conversation": "conv_1"}, "conversation"),
    ],
)
async def test_what_a_response_cannot_have_is_refused_by_name(
    client: openai.AsyncOpenAI, change: dict, param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await client.responses.create(**({"model": MODEL, "input": "Hi"} | change))
    assert refused.value.param == param
