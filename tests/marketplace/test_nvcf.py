"""Asynchronous work: polled for, durable, billed once, whatever is killed meanwhile."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.marketplace.site import (
    MODEL,
    FakeControl,
    admin_get,
    eventually,
    gateway_settings,
    new_key,
    running_gateway,
)

ROOT = Path(__file__).parents[2]
INVOKE = f"/v2/nvcf/pexec/functions/{MODEL}"
STORY = {"messages": [{"role": "user", "content": "Tell me a story."}], "temperature": 0}


@asynccontextmanager
async def gateway_process(state_dir: Path, agent_url: str) -> AsyncIterator[tuple[Any, str]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).with_name("gateway_process.py")),
        str(state_dir),
        agent_url,
        stdout=asyncio.subprocess.PIPE,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )
    try:
        yield process, (await process.stdout.readline()).decode().strip()
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def call(url: str, key: str, method: str, path: str, poll_s: str, **extra: Any) -> Any:
    headers = {"Authorization": f"Bearer {key}", "NVCF-POLL-SECONDS": poll_s}
    async with httpx.AsyncClient(base_url=url, timeout=40) as http:
        return await http.request(method, path, headers=headers, **extra)


async def test_a_result_in_time_is_answered_at_once(agent_url: str, tmp_path: Path) -> None:
    async with running_gateway(gateway_settings(tmp_path, agent_url)) as url:
        key = await new_key(url)
        done = await call(url, key, "POST", INVOKE, "30", json=STORY | {"max_tokens": 4})
        assert (done.status_code, done.headers["nvcf-status"]) == (200, "fulfilled")
        assert done.json()["usage"]["completion_tokens"] == 4
        again = await call(
            url, key, "GET", f"/v2/nvcf/pexec/status/{done.headers['nvcf-reqid']}", "0"
        )
        assert again.json() == done.json()
        other = await new_key(url, "other-tenant")
        path = f"/v2/nvcf/pexec/status/{done.headers['nvcf-reqid']}"
        assert (await call(url, other, "GET", path, "0")).status_code == 404


async def test_work_that_takes_longer_is_pending_and_then_fulfilled(
    agent_url: str, tmp_path: Path
) -> None:
    async with running_gateway(gateway_settings(tmp_path, agent_url)) as url:
        key = await new_key(url)
        sent = await call(url, key, "POST", INVOKE, "0", json=STORY | {"max_tokens": 150})
        assert sent.status_code == 202
        assert sent.headers["nvcf-status"] in ("pending-evaluation", "in-progress")
        path = f"/v2/nvcf/pexec/status/{sent.headers['nvcf-reqid']}"
        assert (await call(url, key, "GET", path, "0")).status_code == 202
        assert (await call(url, key, "GET", path, "30")).status_code == 200


@pytest.mark.parametrize(
    ("body", "poll_s", "status", "param"),
    [
        (STORY | {"stream": True}, "0", 400, "stream"),
        (STORY, "soon", 400, "NVCF-POLL-SECONDS"),
        (STORY, "900", 400, "NVCF-POLL-SECONDS"),
        (STORY, "nan", 400, "NVCF-POLL-SECONDS"),
        ({}, "0", 400, "messages"),
    ],
)
async def test_wrong_invocations_are_explained(
    tmp_path: Path, body: Any, poll_s: str, status: int, param: str
) -> None:
    async with running_gateway(gateway_settings(tmp_path, "http://127.0.0.1:9")) as url:
        key = await new_key(url)
        answer = await call(url, key, "POST", INVOKE, poll_s, json=body)
        assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)


async def test_work_is_accepted_though_no_engine_is_there_and_done_when_one_comes(
    agent_url: str, control: FakeControl, tmp_path: Path
) -> None:
    async with running_gateway(gateway_settings(tmp_path, "http://127.0.0.1:9")) as url:
        key = await new_key(url)
        sent = await call(url, key, "POST", INVOKE, "0", json=STORY | {"max_tokens": 6})
        assert sent.status_code == 202
    async with running_gateway(gateway_settings(tmp_path, agent_url)) as url:
        path = f"/v2/nvcf/pexec/status/{sent.headers['nvcf-reqid']}"
        done = await call(url, key, "GET", path, "30")
        assert done.json()["usage"]["completion_tokens"] == 6


async def test_a_killed_gateway_forgets_no_accepted_work_and_bills_it_once(
    agent_url: str, control: FakeControl, tmp_path: Path
) -> None:
    body = STORY | {"max_tokens": 80}
    async with gateway_process(tmp_path, agent_url) as (process, url):
        key = await new_key(url)
        sent = await call(url, key, "POST", INVOKE, "0", json=body)
        assert sent.status_code == 202
        streaming = asyncio.create_task(read_stream(url, key))

        async def checkpointed() -> bool:
            return (await admin_get(url, "stats"))["tokens"]["output"] > 70

        await eventually(checkpointed, 30)
        process.kill()
        with pytest.raises(httpx.HTTPError):
            await streaming
    async with gateway_process(tmp_path, agent_url) as (process, url):
        await control.revoke()
        control.offer()
        path = f"/v2/nvcf/pexec/status/{sent.headers['nvcf-reqid']}"
        done = await call(url, key, "GET", path, "40")
        assert done.status_code == 200
        stats, usage = await admin_get(url, "stats"), await admin_get(url, "usage")
        whole = await call(url, key, "POST", INVOKE, "40", json=body)
        assert done.json()["choices"] == whole.json()["choices"]
        counts = stats["requests"]
        # The streamed one lost its connection: on record as failed, and not billed.
        assert (counts["received"], counts["completed"], counts["failed"]) == (2, 1, 1)
        assert stats["tokens"]["lost"] == 0
        spent = done.json()["usage"]
        assert usage["data"][0]["requests"] == 1
        expected = 10 * spent["prompt_tokens"] + 30 * spent["completion_tokens"]
        assert usage["total_micro_usd"] == expected


async def read_stream(url: str, key: str) -> None:
    body = STORY | {"model": MODEL, "max_tokens": 400, "stream": True}
    headers = {"Authorization": f"Bearer {key}"}
    async with (
        httpx.AsyncClient(base_url=url, timeout=40, headers=headers) as http,
        http.stream("POST", "/v1/chat/completions", json=body) as response,
    ):
        async for _ in response.aiter_lines():
            pass
