"""Idempotency-Key: what is repeated under a key runs once and is billed once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio

from marketplace.store.connect import open_database, writing
from marketplace.store.idempotency import KEPT_S, IdempotencyKeys, StoredAnswer
from marketplace.store.takeover import inherit
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

CHAT = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Name a colour."}],
    "temperature": 0.0,
    "max_tokens": 6,
}
# A greedy answer to this is as long as it may be: it runs until somebody has looked.
LONG = {"messages": [{"role": "user", "content": "Write a very long story."}], "max_tokens": 150}
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(
    model_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[str, str]]:
    """A gateway with a real engine and a key for it."""
    folder = tmp_path_factory.mktemp("gateway")
    async with (
        running_agent(model_path, FakeControl()) as agent_url,
        running_gateway(gateway_settings(folder, agent_url)) as url,
    ):
        yield url, await new_key(url)


async def post(
    served: tuple[str, str], idempotency_key: str, path: str = "/v1/chat/completions", **extra: Any
) -> httpx.Response:
    url, key = served
    headers = {"Authorization": f"Bearer {key}", "Idempotency-Key": idempotency_key}
    async with httpx.AsyncClient(base_url=url, timeout=30) as http:
        return await http.post(path, headers=headers, **extra)


async def n_received(served: tuple[str, str]) -> int:
    return int((await admin_get(served[0], "stats"))["requests"]["received"])


async def test_a_repeated_request_runs_once_and_gets_the_same_answer(
    served: tuple[str, str],
) -> None:
    before = await n_received(served)
    first = await post(served, "once", json=CHAT)
    # The order of JSON's keys is no difference.
    again = await post(served, "once", json=dict(reversed(CHAT.items())))
    assert (first.status_code, again.status_code) == (200, 200)
    assert again.content == first.content
    assert again.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first.headers
    assert await n_received(served) == before + 1


async def test_a_repeated_stream_is_replayed_as_a_stream(served: tuple[str, str]) -> None:
    url, key = served
    before = await n_received(served)
    texts = []
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key) as client:
        for _ in range(2):
            stream = await client.chat.completions.create(
                **CHAT, stream=True, extra_headers={"Idempotency-Key": "stream"}
            )
            chunks = [chunk async for chunk in stream]
            texts.append([chunk.choices[0].delta.content for chunk in chunks])
    assert texts[0] == texts[1]
    assert len(texts[0]) > 3
    assert await n_received(served) == before + 1


async def test_a_repetition_while_the_first_runs_is_not_retried_blindly(
    served: tuple[str, str],
) -> None:
    url, key = served
    long = CHAT | LONG
    first = asyncio.create_task(post(served, "busy", json=long))

    async def running() -> bool:
        counts = (await admin_get(url, "stats"))["requests"]
        return bool(counts["running"] or counts["waiting"])

    await eventually(running)
    requests: list[httpx.Request] = []

    async def note(request: httpx.Request) -> None:
        requests.append(request)

    http = httpx.AsyncClient(event_hooks={"request": [note]})
    async with openai.AsyncOpenAI(
        base_url=f"{url}/v1", api_key=key, max_retries=3, http_client=http
    ) as client:
        with pytest.raises(openai.ConflictError) as conflict:
            await client.chat.completions.create(**long, extra_headers={"Idempotency-Key": "busy"})
    assert conflict.value.code == "idempotency_key_in_use"
    assert conflict.value.response.headers["retry-after"] == "1"
    assert len(requests) == 1
    assert (await first).status_code == 200


async def test_a_key_belongs_to_one_body_one_address_and_one_tenant(
    served: tuple[str, str],
) -> None:
    assert (await post(served, "mine", json=CHAT)).status_code == 200
    other = await post(served, "mine", json=CHAT | {"max_tokens": 7})
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_key_reused")
    elsewhere = await post(served, "mine", "/v1/completions", json=CHAT)
    assert elsewhere.status_code == 422
    neighbour = (served[0], await new_key(served[0], "neighbour"))
    theirs = await post(neighbour, "mine", json=CHAT)
    assert theirs.status_code == 200
    assert "idempotent-replayed" not in theirs.headers


async def test_a_file_is_uploaded_once_though_each_form_has_a_boundary_of_its_own(
    served: tuple[str, str],
) -> None:
    form: dict[str, Any] = {"data": {"purpose": "batch"}, "files": {"file": ("a.jsonl", b"{}\n")}}
    first = await post(served, "file", "/v1/files", **form)
    again = await post(served, "file", "/v1/files", **form)
    assert first.status_code == 200
    assert again.json()["id"] == first.json()["id"]


async def test_a_response_whose_client_left_may_be_asked_for_again(served: tuple[str, str]) -> None:
    asked = {"model": MODEL, "input": "Write a very long story.", "temperature": 0}
    asked |= {"max_output_tokens": LONG["max_tokens"]}
    before = (await admin_get(served[0], "stats"))["requests"]["cancelled"]
    leaving = asyncio.create_task(post(served, "left", "/v1/responses", json=asked))

    async def running() -> bool:
        counts = (await admin_get(served[0], "stats"))["requests"]
        return bool(counts["running"] or counts["waiting"])

    async def cancelled() -> bool:
        return bool((await admin_get(served[0], "stats"))["requests"]["cancelled"] > before)

    await eventually(running)
    leaving.cancel()
    await eventually(cancelled)
    again = await post(served, "left", "/v1/responses", json=asked)
    assert (again.status_code, again.json()["status"]) in ((200, "completed"), (200, "incomplete"))


@pytest.mark.parametrize("key", ["", "x" * 256, "with space"])
async def test_a_key_that_is_none_is_refused(served: tuple[str, str], key: str) -> None:
    answer = await post(served, key, json=CHAT)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "Idempotency-Key")


async def test_an_answer_that_shows_a_secret_is_not_stored(served: tuple[str, str]) -> None:
    admin = (served[0], ADMIN_KEY)
    body = {"tenant": "acme", "name": "shown-once"}
    first = await post(admin, "secret", "/admin/v1/keys", json=body)
    again = await post(admin, "secret", "/admin/v1/keys", json=body)
    assert first.status_code == 201
    assert (again.status_code, again.json()["error"]["code"]) == (
        409,
        "idempotency_answer_not_kept",
    )
    names = [row["name"] for row in (await admin_get(served[0], "keys"))["data"]]
    assert names.count("shown-once") == 1


async def test_a_run_that_failed_may_be_repeated(model_path: Path, tmp_path: Path) -> None:
    settings = gateway_settings(tmp_path, "http://127.0.0.1:9", engine_wait_s=0.2)
    async with running_gateway(settings) as url:
        served = url, await new_key(url)
        assert (await post(served, "failed", json=CHAT)).status_code == 503
        again = await post(served, "failed", json=CHAT)
        assert again.status_code == 503
        assert "idempotent-replayed" not in again.headers
    # The key outlives the gateway, and so does what it knows about its body.
    async with (
        running_agent(model_path, FakeControl()) as agent_url,
        running_gateway(gateway_settings(tmp_path, agent_url)) as url,
    ):
        served = url, served[1]
        other = await post(served, "failed", json=CHAT | {"max_tokens": 7})
        assert other.status_code == 422
        assert (await post(served, "failed", json=CHAT)).status_code == 200
    async with running_gateway(settings) as url:
        replayed = await post((url, served[1]), "failed", json=CHAT)
        assert replayed.headers["idempotent-replayed"] == "true"


async def test_a_key_is_kept_for_a_day_on_either_database(database_url: str) -> None:
    engine = open_database(database_url)
    keys = IdempotencyKeys(engine)
    answer = StoredAnswer(200, (("content-type", "application/json"),), b"{}")
    assert keys.claim("t", "k", "f", 0.0).kind == "run"
    assert keys.claim("t", "k", "f", 1.0).kind == "busy"
    keys.keep("t", "k", answer)
    # A second end, of a run that was thought dead, changes nothing.
    keys.reopen("t", "k", 2)
    assert keys.claim("t", "k", "f", KEPT_S - 1).answer == answer
    assert keys.claim("t", "k", "other", KEPT_S - 1).kind == "differs"
    assert keys.claim("t", "k", "other", KEPT_S).kind == "run"
    with writing(engine) as db:
        inherit(db, "the next one", None, KEPT_S)
    assert keys.claim("t", "k", "other", KEPT_S + 1).kind == "run"
    keys.reopen("t", "k", 5)
    assert keys.claim("t", "k", "other", KEPT_S + 2).attempt == 5
    keys.purge(3 * KEPT_S)
    assert keys.claim("t", "k", "f", KEPT_S + 3).kind == "run"
    engine.dispose()
