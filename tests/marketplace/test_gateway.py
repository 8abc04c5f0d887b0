"""The gateway's HTTP interface, over uvicorn and the real engine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio

from tests.marketplace.site import (
    ADMIN_KEY,
    MODEL,
    FakeControl,
    admin_get,
    eventually,
    gateway_settings,
    new_key,
    running_agent,
    running_gateway,
)

HELLO = [{"role": "user", "content": "Say hello."}]
CHAT = {"model": MODEL, "messages": HELLO, "max_tokens": 5}
TOO_MUCH = CHAT | {"max_tokens": 4000}
TOO_LARGE = CHAT | {"user": "x" * (1 << 20)}
# A greedy answer to this does not end by itself before its client leaves.
LONG = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Write a very long story."}],
    "max_tokens": 1900,
    "temperature": 0,
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(
    model_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[str, str]]:
    """A gateway over an engine, shared by the module: its address and a key."""
    folder = tmp_path_factory.mktemp("gateway")
    async with (
        running_agent(model_path, FakeControl()) as agent_url,
        running_gateway(gateway_settings(folder, agent_url)) as url,
        httpx.AsyncClient(base_url=url, timeout=30) as http,
    ):

        async def ready() -> bool:
            return bool((await http.get("/readyz")).json()["status"] == "ready")

        await eventually(ready)
        yield url, await new_key(url)


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def client(served: tuple[str, str]) -> AsyncIterator[openai.AsyncOpenAI]:
    url, key = served
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client:
        yield client


async def send(
    served: tuple[str, str], method: str, path: str, key: str | None = None, **parameters: Any
) -> httpx.Response:
    url, own_key = served
    headers = {"Authorization": f"Bearer {own_key if key is None else key}"}
    headers |= parameters.pop("headers", {})
    async with httpx.AsyncClient(base_url=url, timeout=30) as http:
        return await http.request(method, path, headers=headers, **parameters)


async def test_the_openai_client_lists_and_gets_models(client: openai.AsyncOpenAI) -> None:
    assert [model.id for model in (await client.models.list()).data] == [MODEL]
    assert (await client.models.retrieve(MODEL)).owned_by == "airan"


async def test_a_stream_and_a_plain_answer_agree_and_are_metered_alike(
    served: tuple[str, str], client: openai.AsyncOpenAI
) -> None:
    before = await admin_get(served[0], "usage")
    asked = {"model": MODEL, "messages": HELLO, "max_tokens": 12, "temperature": 0}
    plain = await client.chat.completions.create(**asked)
    stream = await client.chat.completions.create(
        **asked, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == plain.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].usage.completion_tokens == plain.usage.completion_tokens
    assert chunks[-2].choices[0].finish_reason == plain.choices[0].finish_reason
    assert len({chunk.id for chunk in chunks}) == 1
    # The bill is written before the client learns of the end: no waiting here.
    after = await admin_get(served[0], "usage")
    per_job = 10 * plain.usage.prompt_tokens + 30 * plain.usage.completion_tokens
    assert after["total_micro_usd"] - before["total_micro_usd"] == 2 * per_job


async def test_a_stop_sequence_ends_the_answer_before_itself(client: openai.AsyncOpenAI) -> None:
    asked = {"model": MODEL, "messages": HELLO, "max_tokens": 20, "temperature": 0}
    whole = (await client.chat.completions.create(**asked)).choices[0].message.content
    stop = whole[4:9]
    cut = (await client.chat.completions.create(**asked, stop=[stop])).choices[0]
    assert (cut.message.content, cut.finish_reason) == (whole[: whole.index(stop)], "stop")


async def test_without_a_limit_the_answer_may_fill_the_context(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Answer with one word: yes or no?"}],
        temperature=0,
    )
    assert answer.choices[0].finish_reason == "stop"


async def test_errors_arrive_as_the_openai_clients_exceptions(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as not_found:
        await client.chat.completions.create(model="gpt-9", messages=HELLO)
    assert (not_found.value.code, not_found.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as too_long:
        await client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "word " * 3000}]
        )
    assert too_long.value.code == "context_length_exceeded"
    assert "2048" in too_long.value.message
    with pytest.raises(openai.BadRequestError) as tools:
        await client.chat.completions.create(
            model=MODEL,
            messages=HELLO,
            tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}],
        )
    assert tools.value.param == "tools"
    with pytest.raises(openai.AuthenticationError) as wrong_key:
        await client.with_options(api_key="ak-wrong").models.list()
    assert wrong_key.value.code == "invalid_api_key"


ERRORS = [
    ("GET", "/v1/nothing", None, 404, "not_found", None),
    ("GET", "/v1/chat/completions", None, 405, "method_not_allowed", None),
    ("POST", "/v1/models", b"{}", 405, "method_not_allowed", None),
    ("GET", "/v1/models/gpt-9", None, 404, "model_not_found", "model"),
    ("POST", "/v1/chat/completions", b"{no json", 400, "invalid_json", None),
    ("POST", "/v1/chat/completions", b"", 400, "invalid_json", None),
    ("POST", "/v1/chat/completions", b"\xff\xfe", 400, "invalid_json", None),
    ("POST", "/v1/chat/completions", b"[" * 100_000, 400, "invalid_json", None),
    ("POST", "/v1/chat/completions", b'{"temperature": NaN}', 400, "invalid_json", None),
    ("POST", "/v1/chat/completions", b"[1]", 400, "invalid_value", "body"),
    ("POST", "/v1/chat/completions", b"{}", 400, "invalid_value", "model"),
    ("POST", "/v1/chat/completions", CHAT | {"n": 2}, 400, "invalid_value", "n"),
    ("POST", "/v1/chat/completions", CHAT | {"max_tokens": -1}, 400, "invalid_value", "max_tokens"),
    ("POST", "/v1/chat/completions", TOO_MUCH, 400, "context_length_exceeded", "messages"),
    ("POST", "/v1/chat/completions", TOO_LARGE, 413, "request_too_large", None),
    ("GET", "/v2/nvcf/pexec/status/none", None, 404, "not_found", None),
]


@pytest.mark.parametrize(("method", "path", "body", "status", "code", "param"), ERRORS)
async def test_every_error_is_openais_error_object(
    served: tuple[str, str], method: str, path: str, body: Any, status: int, code: str, param: Any
) -> None:
    content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    answer = await send(served, method, path, content=content)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["code"], error["param"]) == (code, param)
    assert error["message"]
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize("header", ["", "Bearer", "Basic abc", "Bearer ak-wrong"])
@pytest.mark.parametrize("path", ["/v1/models", "/v2/nvcf/pexec/status/x"])
async def test_a_missing_or_wrong_key_is_refused(
    served: tuple[str, str], header: str, path: str
) -> None:
    answer = await send(served, "GET", path, headers={"Authorization": header})
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")


async def test_a_body_that_grows_too_large_is_refused_though_it_declares_no_length(
    served: tuple[str, str],
) -> None:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b" " * 65536

    answer = await send(served, "POST", "/v1/chat/completions", content=parts())
    assert answer.status_code == 413


async def test_request_ids_are_kept_or_made(served: tuple[str, str]) -> None:
    kept = await send(served, "GET", "/healthz", headers={"x-request-id": "mine-1"})
    assert kept.headers["x-request-id"] == "mine-1"
    made = [(await send(served, "GET", "/healthz")).headers["x-request-id"] for _ in range(2)]
    assert made[0] != made[1]


async def test_probes_and_metrics_tell_how_things_stand(served: tuple[str, str]) -> None:
    ready = await send(served, "GET", "/readyz")
    assert (ready.status_code, ready.json()["status"]) == (200, "ready")
    assert (await send(served, "GET", "/healthz")).json() == {"status": "ok"}
    metrics = (await send(served, "GET", "/metrics")).text
    assert "airan_marketplace_engines_ready 1.0" in metrics
    assert "airan_marketplace_time_to_first_token_seconds_bucket" in metrics


async def test_a_revoked_key_is_refused_at_once(served: tuple[str, str]) -> None:
    made = await send(served, "POST", "/admin/v1/keys", ADMIN_KEY, json={"tenant": "acme"})
    key = made.json()["key"]
    assert (await send(served, "GET", "/v1/models", key)).status_code == 200
    revoked = await send(served, "DELETE", f"/admin/v1/keys/{made.json()['id']}", ADMIN_KEY)
    assert revoked.status_code == 200
    assert (await send(served, "GET", "/v1/models", key)).status_code == 401


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/admin/v1/tenants", {"name": "acme"}, 400),
        ("POST", "/admin/v1/tenants", {"name": 3}, 400),
        ("POST", "/admin/v1/tenants", [], 400),
        ("POST", "/admin/v1/keys", {"tenant": "nobody"}, 404),
        ("DELETE", "/admin/v1/keys/none", None, 404),
        ("GET", "/admin/v1/events?after=x", None, 400),
    ],
)
async def test_wrong_admin_requests_are_explained(
    served: tuple[str, str], method: str, path: str, body: Any, status: int
) -> None:
    answer = await send(served, method, path, ADMIN_KEY, json=body)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]
    assert (await send(served, method, path, json=body)).status_code == 401


async def test_a_client_that_goes_away_stops_the_engine_and_pays_for_what_it_got(
    served: tuple[str, str],
) -> None:
    url, key = served
    before = await admin_get(url, "stats")
    body = LONG | {"stream": True}
    async with httpx.AsyncClient(base_url=url, timeout=30) as http:
        headers = {"Authorization": f"Bearer {key}"}
        async with http.stream(
            "POST", "/v1/chat/completions", json=body, headers=headers
        ) as response:
            async for line in response.aiter_lines():
                if '"content": "' in line and '"content": ""' not in line:
                    break

    async def cancelled() -> dict[str, Any] | None:
        stats = await admin_get(url, "stats")
        requests = stats["requests"]
        done = requests["cancelled"] > before["requests"]["cancelled"] and not requests["running"]
        return stats if done else None

    after = await eventually(cancelled)
    generated = after["tokens"]["output"] - before["tokens"]["output"]
    assert 0 < generated < 1000
    assert after["revenue_usd"] > before["revenue_usd"]


async def test_a_plain_request_whose_client_goes_away_is_cancelled_too(
    served: tuple[str, str],
) -> None:
    url, key = served
    before = (await admin_get(url, "stats"))["requests"]
    headers = {"Authorization": f"Bearer {key}"}

    async def runs() -> bool:
        return bool((await admin_get(url, "stats"))["requests"]["running"] == 1)

    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=60) as http:
        asking = asyncio.create_task(http.post("/v1/chat/completions", json=LONG))
        await eventually(runs)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking

    async def cancelled() -> bool:
        requests = (await admin_get(url, "stats"))["requests"]
        return requests["cancelled"] == before["cancelled"] + 1 and requests["running"] == 0

    await eventually(cancelled)


async def test_concurrent_requests_all_end_and_are_all_billed(
    served: tuple[str, str], client: openai.AsyncOpenAI
) -> None:
    before = await admin_get(served[0], "stats")
    answers = await asyncio.gather(
        *(client.chat.completions.create(**CHAT, temperature=0) for _ in range(12))
    )
    after = await admin_get(served[0], "stats")
    assert len({answer.choices[0].message.content for answer in answers}) >= 1
    assert after["requests"]["completed"] - before["requests"]["completed"] == 12
    n_output = sum(answer.usage.completion_tokens for answer in answers)
    assert after["tokens"]["output"] - before["tokens"]["output"] == n_output


async def test_without_an_engine_requests_are_answered_503(tmp_path: Path) -> None:
    settings = gateway_settings(tmp_path, "http://127.0.0.1:9", engine_wait_s=0.3)
    async with running_gateway(settings) as url:
        served = url, await new_key(url)
        answer = await send(served, "POST", "/v1/chat/completions", json=CHAT)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_unavailable")
        assert answer.headers["retry-after"]
        ready = await send(served, "GET", "/readyz")
        assert (ready.status_code, ready.json()["status"]) == (503, "unavailable")
