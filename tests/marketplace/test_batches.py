"""Files and batches by the official client, over the real engine, through a gateway's restart."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio
from openai.types import Batch, FileObject

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

pytestmark = pytest.mark.asyncio(loop_scope="module")
CHAT = "/v1/chat/completions"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def agent(model_path: Path) -> AsyncIterator[str]:
    async with running_agent(model_path, FakeControl()) as url:
        yield url


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def url(agent: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    folder = tmp_path_factory.mktemp("batches")
    async with running_gateway(gateway_settings(folder, agent)) as url:
        yield url


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with client_of(url, await new_key(url)) as client:
        yield client


def client_of(url: str, key: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)


def a_line(custom_id: str, endpoint: str = CHAT, **changes: Any) -> dict[str, Any]:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
    return {"custom_id": custom_id, "method": "POST", "url": endpoint, "body": body | changes}


async def upload(client: openai.AsyncOpenAI, *lines: Any) -> FileObject:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    return await client.files.create(file=("in.jsonl", text.encode()), purpose="batch")


async def start(client: openai.AsyncOpenAI, *lines: Any) -> Batch:
    file = await upload(client, *lines)
    return await client.batches.create(
        input_file_id=file.id, endpoint=CHAT, completion_window="24h"
    )


async def ended(client: openai.AsyncOpenAI, batch: Batch) -> Batch:
    async def end() -> Batch | None:
        found = await client.batches.retrieve(batch.id)
        open_states = ("validating", "in_progress", "finalizing", "cancelling")
        return None if found.status in open_states else found

    return await eventually(end, 30)


async def read_lines(client: openai.AsyncOpenAI, file_id: str | None) -> list[dict[str, Any]]:
    assert file_id is not None
    text = (await client.files.content(file_id)).text
    return [json.loads(line) for line in text.splitlines()]


async def test_a_file_comes_back_as_it_went_and_can_be_deleted(
    client: openai.AsyncOpenAI,
) -> None:
    content = bytes(range(256)) + b"\r\n--x\r\n"
    file = await client.files.create(file=("raw.jsonl", content), purpose="batch")
    FileObject.model_validate(file.model_dump(), strict=True)
    assert (file.bytes, file.filename) == (len(content), "raw.jsonl")
    assert (await client.files.content(file.id)).content == content
    assert (await client.files.delete(file.id)).deleted
    with pytest.raises(openai.NotFoundError):
        await client.files.retrieve(file.id)


async def test_files_are_listed_page_by_page(client: openai.AsyncOpenAI) -> None:
    made = {(await upload(client, "{}")).id for _ in range(3)}
    listed = [file.id async for file in client.files.list(limit=2)]
    assert made <= set(listed)
    assert len(listed) == len(set(listed))


async def test_another_tenant_sees_neither_files_nor_batches(
    url: str, client: openai.AsyncOpenAI
) -> None:
    batch = await start(client, a_line("a"))
    await ended(client, batch)
    async with client_of(url, await new_key(url, "rival")) as rival:
        assert [file async for file in rival.files.list()] == []
        assert [one async for one in rival.batches.list()] == []
        for call in (rival.files.retrieve, rival.files.content, rival.files.delete):
            with pytest.raises(openai.NotFoundError):
                await call(batch.input_file_id)
        for call in (rival.batches.retrieve, rival.batches.cancel):
            with pytest.raises(openai.NotFoundError):
                await call(batch.id)
        with pytest.raises(openai.BadRequestError):
            await rival.batches.create(
                input_file_id=batch.input_file_id, endpoint=CHAT, completion_window="24h"
            )


async def test_a_batch_answers_its_good_lines_and_reports_the_bad_ones(
    client: openai.AsyncOpenAI,
) -> None:
    lines = [a_line("good"), a_line("hot", temperature=9), a_line("lost", model="no-such")]
    batch = await ended(client, await start(client, *lines))
    Batch.model_validate(batch.model_dump(), strict=True)
    assert batch.status == "completed"
    assert batch.request_counts is not None
    assert batch.request_counts.model_dump() == {"total": 3, "completed": 1, "failed": 2}
    (good,) = await read_lines(client, batch.output_file_id)
    assert good["custom_id"] == "good"
    assert good["response"]["status_code"] == 200
    assert good["response"]["body"]["service_tier"] == "flex"
    bad = await read_lines(client, batch.error_file_id)
    assert [(line["custom_id"], line["response"]["status_code"]) for line in bad] == [
        ("hot", 400),
        ("lost", 404),
    ]


async def test_a_malformed_line_fails_the_batch_with_its_number(
    client: openai.AsyncOpenAI,
) -> None:
    wrong = [a_line("a"), "{no json", a_line("a"), a_line("b", "/v1/completions")]
    batch = await ended(client, await start(client, *wrong))
    assert batch.status == "failed"
    assert batch.errors is not None
    assert batch.errors.data is not None
    assert [(error.line, error.code) for error in batch.errors.data] == [
        (2, "invalid_json_line"),
        (3, "duplicate_custom_id"),
        (4, "mismatched_url"),
    ]


async def test_a_cancelled_batch_names_the_lines_left_out(client: openai.AsyncOpenAI) -> None:
    batch = await start(client, *[a_line(f"n{i}", max_tokens=1500) for i in range(12)])
    assert (await client.batches.cancel(batch.id)).status == "cancelling"
    batch = await ended(client, batch)
    assert batch.status == "cancelled"
    left = await read_lines(client, batch.error_file_id)
    assert {line["error"]["code"] for line in left} == {"batch_cancelled"}
    done = await ended(client, await start(client, a_line("x")))
    with pytest.raises(openai.ConflictError):
        await client.batches.cancel(done.id)


async def test_a_restart_of_the_gateway_does_every_line_once(agent: str, tmp_path: Path) -> None:
    settings = gateway_settings(tmp_path, agent)
    async with running_gateway(settings) as url:
        key = await new_key(url)
        async with client_of(url, key) as client:
            batch = await start(client, *[a_line(f"n{i}", max_tokens=40) for i in range(10)])

            async def some_done() -> bool:
                counts = (await client.batches.retrieve(batch.id)).request_counts
                return counts is not None and counts.completed >= 1

            await eventually(some_done, 30)
    async with running_gateway(settings) as url, client_of(url, key) as client:
        batch = await ended(client, batch)
        assert batch.status == "completed"
        answers = await read_lines(client, batch.output_file_id)
        assert [answer["custom_id"] for answer in answers] == [f"n{i}" for i in range(10)]
        usage = await admin_get(url, "usage")
        assert usage["data"][0]["requests"] == 10


async def test_a_file_wants_a_form_and_the_purpose_batch(
    url: str, client: openai.AsyncOpenAI
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await client.files.create(file=b"x", purpose="fine-tune")
    assert refused.value.param == "purpose"
    headers = {"Authorization": f"Bearer {client.api_key}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=30) as http:
        for path in ("/v1/files", "/v1/completions"):
            answer = await http.post(path, content=b"x", headers={"content-type": "text/plain"})
            assert answer.status_code == 415
            assert answer.json()["error"]["type"] == "invalid_request_error"
            assert answer.headers["x-request-id"]
