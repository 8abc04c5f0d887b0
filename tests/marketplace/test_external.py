"""Models that others serve, sold by a gateway: judged by the official client over real HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest

from airan.core.errors import ConfigError
from marketplace.engines.external import ExternalSettings
from marketplace.engines.external_model import ExternalModel
from marketplace.gateway import GatewaySettings, Price
from tests.marketplace.openai_server import WORDS, OpenAiServer, failure, serving
from tests.marketplace.site import (
    MODEL,
    FakeControl,
    admin_get,
    eventually,
    gateway_settings,
    new_key,
    running_agent,
    running_gateway,
)

KEY = "sk-the-providers-key"
HELLO = [{"role": "user", "content": "Say some words."}]
CHAT: dict[str, Any] = {"model": "words", "messages": HELLO, "max_tokens": 5}


@pytest.fixture
def server() -> OpenAiServer:
    return OpenAiServer()


@asynccontextmanager
async def gateway_over(
    folder: Path, url: str, **changes: Any
) -> AsyncIterator[tuple[str, openai.AsyncOpenAI]]:
    """A gateway whose one model is served at `url`, and a client of it."""
    folder.mkdir(exist_ok=True)
    key_file = folder / "provider.key"
    key_file.write_text(f"{KEY}\n")
    terms = {"max_concurrent": 2, "patience_s": 0.2} | {
        key: changes.pop(key) for key in ("max_concurrent",) if key in changes
    }
    settings = ExternalSettings(url, **{"model": "any", "key_file": key_file} | changes)
    model = ExternalModel("words", settings, 2048, Price.from_usd(1.0, 2.0), **terms)
    gateway = gateway_settings(folder, engine_wait_s=5.0)
    async with running_gateway(replace(gateway, models=(), external=(model,))) as at:
        key = await new_key(at)
        async with openai.AsyncOpenAI(base_url=f"{at}/v1", api_key=key, max_retries=0) as client:
            yield at, client


@asynccontextmanager
async def selling(
    server: OpenAiServer, folder: Path, **changes: Any
) -> AsyncIterator[tuple[str, openai.AsyncOpenAI]]:
    async with serving(server.app) as url, gateway_over(folder, url, **changes) as sold:
        yield sold


async def tokens_of(client: openai.AsyncOpenAI, **changes: Any) -> tuple[str, list[Any]]:
    """The text of a stream, and its chunks."""
    stream = await client.chat.completions.create(**CHAT | {"stream": True} | changes)
    chunks = [chunk async for chunk in stream]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    return text, chunks


async def test_an_answer_is_billed_by_the_usage_that_the_engine_reports(
    server: OpenAiServer, tmp_path: Path
) -> None:
    server.usage = {"prompt_tokens": 11, "completion_tokens": 4}
    async with selling(server, tmp_path) as (url, client):
        assert [model.id async for model in client.models.list()] == ["words"]
        answer = await client.chat.completions.create(**CHAT, seed=7)
        assert answer.choices[0].message.content == "".join(WORDS[:5])
        assert answer.choices[0].finish_reason == "length"
        assert answer.usage is not None
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (11, 4)
        stats = await admin_get(url, "stats")
        assert stats["revenue_usd"] == pytest.approx(11e-3 * 1.0 + 4e-3 * 2.0)
        assert server.bodies[0]["seed"] == 7
        assert set(server.keys) == {f"Bearer {KEY}"}


async def test_usage_that_cannot_be_is_billed_as_the_most_that_can(
    server: OpenAiServer, tmp_path: Path
) -> None:
    server.usage = {"prompt_tokens": 10**9, "completion_tokens": 10**9}
    async with selling(server, tmp_path) as (_, client):
        answer = await client.chat.completions.create(**CHAT)
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 5
        assert answer.usage.prompt_tokens == len("Say some words.") + 256 + 16


async def test_chat_completions_responses_and_streams_of_them_are_answered(
    server: OpenAiServer, tmp_path: Path
) -> None:
    expected = "".join(WORDS[:5])
    async with selling(server, tmp_path) as (_, client):
        text, chunks = await tokens_of(client, stream_options={"include_usage": True})
        assert text == expected
        assert chunks[-1].usage.completion_tokens == 5
        raw = await client.completions.create(model="words", prompt="one two", max_tokens=5)
        assert raw.choices[0].text == expected
        assert raw.usage is not None
        assert raw.usage.prompt_tokens == 2
        said = await client.responses.create(
            model="words", input="one two", max_output_tokens=16, store=False
        )
        assert said.output_text == "".join(WORDS[:16])


async def test_a_batch_is_answered(server: OpenAiServer, tmp_path: Path) -> None:
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": CHAT}
    async with selling(server, tmp_path) as (_, client):
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
        message = result["response"]["body"]["choices"][0]["message"]
        assert message["content"] == "".join(WORDS[:5])


async def test_a_stop_sequence_is_the_engines_and_ours(
    server: OpenAiServer, tmp_path: Path
) -> None:
    async with selling(server, tmp_path) as (_, client):
        answer = await client.chat.completions.create(**CHAT, stop=["w3"])
        assert answer.choices[0].message.content == "".join(WORDS[:3])
        assert answer.choices[0].finish_reason == "stop"
        assert server.bodies[0]["stop"] == ["w3"]
        await eventually(lambda: server.open_streams == 0)


async def test_a_client_that_leaves_stops_the_engine_and_pays_for_what_came(
    server: OpenAiServer, tmp_path: Path
) -> None:
    server.waits_after = 3
    async with selling(server, tmp_path) as (url, client):
        stream = await client.chat.completions.create(**CHAT, stream=True)
        seen = ""
        async for chunk in stream:
            seen += chunk.choices[0].delta.content or ""
            if seen == "".join(WORDS[:3]):
                break
        assert server.open_streams == 1
        await stream.close()
        await eventually(lambda: server.open_streams == 0)

        async def cancelled() -> Any:
            stats = await admin_get(url, "stats")
            return stats if stats["requests"]["cancelled"] else None

        stats = await eventually(cancelled)
        assert stats["tokens"] == {"input": 3, "output": 3, "lost": 0}


async def test_an_answer_that_broke_off_goes_on_where_the_engine_can_and_says_so(
    server: OpenAiServer, tmp_path: Path
) -> None:
    server.breaks_after = 2
    async with selling(server, tmp_path, continues_text=True) as (url, client):
        text, chunks = await tokens_of(client, stream_options={"include_usage": True})
        assert text == "".join(WORDS[:5])
        last = chunks[-2].model_extra["airan"]
        assert last == {"preemptions": 1, "resumed": "text"}
        # What the engine was given to go on after is not billed a second time as a prompt.
        assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == (3, 5)
        assert [body["max_tokens"] for body in server.bodies] == [5, 3]
        assert (await admin_get(url, "stats"))["tokens"]["lost"] == 0


async def test_an_answer_that_broke_off_ends_with_an_error_where_the_engine_cannot_go_on(
    server: OpenAiServer, tmp_path: Path
) -> None:
    server.breaks_after = 2
    async with selling(server, tmp_path) as (url, client):
        with pytest.raises(openai.APIError, match="cannot go on in the middle"):
            await tokens_of(client)
        stats = await admin_get(url, "stats")
        assert stats["requests"]["failed"] == 1
        assert stats["revenue_usd"] == 0
        text, _ = await tokens_of(client)
        assert text == "".join(WORDS[:5])


async def test_an_answer_with_a_schema_that_broke_off_starts_over(
    server: OpenAiServer, tmp_path: Path
) -> None:
    server.breaks_after = 2
    schema = {"name": "any", "schema": {"type": "object"}}
    asked = {"response_format": {"type": "json_schema", "json_schema": schema}}
    async with selling(server, tmp_path) as (url, client):
        text, _ = await tokens_of(client, **asked)
        assert text == "".join(WORDS[:5])
        sent = server.bodies[0]["response_format"]["json_schema"]
        assert sent["schema"] == {"type": "object"}
        assert (await admin_get(url, "stats"))["tokens"] == {"input": 3, "output": 5, "lost": 0}


async def test_an_answer_that_broke_off_before_its_first_word_is_asked_for_again(
    server: OpenAiServer, tmp_path: Path
) -> None:
    server.breaks_after = 0
    async with selling(server, tmp_path) as (_, client):
        text, _ = await tokens_of(client)
        assert text == "".join(WORDS[:5])


@pytest.mark.parametrize("status", [401, 429, 500])
async def test_an_engine_that_fails_gives_a_clean_error_and_no_bill(
    server: OpenAiServer, tmp_path: Path, status: int
) -> None:
    server.fail = failure(status, f"secret of the provider, key {KEY}")
    async with selling(server, tmp_path) as (url, client):
        with pytest.raises(openai.InternalServerError) as raised:
            await client.chat.completions.create(**CHAT)
        assert raised.value.status_code == 503
        assert "the engine for words does not answer" in raised.value.message
        assert "secret" not in raised.value.message
        stats = await admin_get(url, "stats")
        assert stats["requests"]["failed"] == 1
        assert stats["revenue_usd"] == 0


async def test_an_engine_that_dies_under_a_waiting_request_is_given_up(tmp_path: Path) -> None:
    server = OpenAiServer()
    server.waits_after = 0
    async with serving(server.app) as url:
        gateway = gateway_over(tmp_path, url, max_concurrent=1)
        at, client = await gateway.__aenter__()
        asked = [asyncio.create_task(client.chat.completions.create(**CHAT)) for _ in range(2)]
        await eventually(lambda: server.open_streams == 1)
    try:
        for one in asked:
            with pytest.raises(openai.InternalServerError, match="does not answer"):
                await one
        assert (await admin_get(at, "stats"))["requests"]["failed"] == 2
    finally:
        await gateway.__aexit__(None, None, None)


async def test_a_durable_request_is_answered_anew_after_the_gateways_restart(
    server: OpenAiServer, tmp_path: Path
) -> None:
    server.waits_after = 3
    async with serving(server.app) as provider:
        async with gateway_over(tmp_path, provider, continues_text=True) as (_, client):
            asked = await client.responses.create(model="words", input="one two", background=True)
            await eventually(lambda: server.open_streams == 1)
        await eventually(lambda: server.open_streams == 0)
        server.waits_after = None
        async with gateway_over(tmp_path, provider, continues_text=True) as (_, client):

            async def completed() -> Any:
                shown = await client.responses.retrieve(asked.id)
                return shown if shown.status == "completed" else None

            done = await eventually(completed)
            assert done.output_text == "".join(WORDS[:50])
            assert (done.usage.input_tokens, done.usage.output_tokens) == (2, 50)
            assert ["max_tokens" in body for body in server.bodies] == [False, False]


async def test_no_more_requests_go_to_the_engine_at_once_than_it_takes(
    server: OpenAiServer, tmp_path: Path
) -> None:
    server.waits_after = 1
    async with selling(server, tmp_path) as (url, client):
        asked = [asyncio.create_task(client.chat.completions.create(**CHAT)) for _ in range(3)]
        await eventually(lambda: server.open_streams == 2)

        async def one_waits() -> bool:
            return (await admin_get(url, "stats"))["requests"]["waiting"] == 1

        await eventually(one_waits)
        for one in asked:
            one.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        await eventually(lambda: server.open_streams == 0)


@pytest.mark.parametrize(
    ("changes", "parameter"),
    [({"logprobs": True}, "logprobs"), ({"max_tokens": 4000}, "messages")],
)
async def test_what_external_engines_do_not_have_is_refused_by_name(
    server: OpenAiServer, tmp_path: Path, changes: dict[str, Any], parameter: str
) -> None:
    async with selling(server, tmp_path) as (_, client):
        with pytest.raises(openai.BadRequestError) as raised:
            await client.chat.completions.create(**CHAT | changes)
        assert raised.value.param == parameter
        with pytest.raises(openai.BadRequestError) as raised:
            await client.completions.create(model="words", prompt=[1, 2])
        assert raised.value.param == "prompt"
        with pytest.raises(openai.BadRequestError) as raised:
            await client.embeddings.create(model="words", input="one")
        assert raised.value.param == "model"
        assert not server.bodies


async def test_a_refusal_of_the_engine_is_the_clients_and_is_not_billed(
    server: OpenAiServer, tmp_path: Path
) -> None:
    server.fail = failure(400, "too long for me")
    async with selling(server, tmp_path) as (url, client):
        with pytest.raises(openai.BadRequestError, match="too long for me"):
            await client.chat.completions.create(**CHAT)
        assert (await admin_get(url, "stats"))["revenue_usd"] == 0


async def test_one_gateway_sells_the_model_of_another(model_path: Path, tmp_path: Path) -> None:
    """Both ends are airan; the model behind is the real one."""
    async with (
        running_agent(model_path, FakeControl()) as agent_url,
        running_gateway(gateway_settings(tmp_path / "behind", agent_url)) as behind,
    ):
        key_file = tmp_path / "behind.key"
        key_file.write_text(await new_key(behind, "reseller"))
        folder = tmp_path / "front"
        async with gateway_over(folder, f"{behind}/v1", model=MODEL, key_file=key_file) as front:
            url, client = front
            ask = {"temperature": 0.0, "max_tokens": 8, "messages": HELLO}
            answer = await client.chat.completions.create(model="words", **ask)
            direct_key = key_file.read_text()
            direct = openai.AsyncOpenAI(base_url=f"{behind}/v1", api_key=direct_key)
            async with direct:
                same = await direct.chat.completions.create(model=MODEL, **ask)
            assert answer.choices[0].message.content == same.choices[0].message.content
            assert answer.usage is not None
            assert same.usage is not None
            assert answer.usage.prompt_tokens == same.usage.prompt_tokens
            assert answer.usage.completion_tokens == same.usage.completion_tokens
            ours, theirs = await admin_get(url, "stats"), await admin_get(behind, "stats")
            assert 2 * ours["tokens"]["output"] == theirs["tokens"]["output"]


def test_two_models_of_one_name_are_refused(tmp_path: Path) -> None:
    settings = ExternalSettings("https://example.org/v1", "any")
    model = ExternalModel(MODEL, settings, 2048, Price.from_usd(1.0, 2.0))
    gateway: GatewaySettings = replace(gateway_settings(tmp_path), external=(model,))
    with pytest.raises(ConfigError, match="two models are called"):
        _ = gateway.offers
