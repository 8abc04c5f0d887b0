"""Clients that leave: their work ends at the engine, and what is to outlive them goes on."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import pytest_asyncio

from marketplace.gateway import build_app
from tests.marketplace.site import (
    MODEL,
    FakeControl,
    admin_get,
    eventually,
    gateway_settings,
    new_key,
    running_agent,
    running_app,
    running_gateway,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")
# Greedy answers to these are as long as they may be; drawn ones now and then end by themselves
# before their client has left.
GREEDY = {"model": MODEL, "temperature": 0}
CHAT = {
    **GREEDY,
    "messages": [{"role": "user", "content": "Write a very long story."}],
    "max_tokens": 1900,
}
TEXT = {**GREEDY, "prompt": ["Once upon a time", "In the beginning"], "max_tokens": 1900}
RESPONSE = {**GREEDY, "input": "Write a very long story.", "max_output_tokens": 1900}
STREAM = {"stream": True}
PATIENCE_S = 12.0
REQUESTS = {
    "chat": ("/v1/chat/completions", CHAT, 1),
    "chat stream": ("/v1/chat/completions", CHAT | STREAM, 1),
    "completions": ("/v1/completions", TEXT, 2),
    "completions stream": ("/v1/completions", TEXT | STREAM, 2),
    "response": ("/v1/responses", RESPONSE, 1),
    "response stream": ("/v1/responses", RESPONSE | STREAM, 1),
}


@dataclass
class Site:
    url: str
    key: str
    agent_url: str
    app: Any = None

    async def request(
        self, path: str, body: dict[str, Any], **headers: str
    ) -> asyncio.StreamWriter:
        """Sends a request; its answer is left to lie. Closing what this gives is to leave."""
        address = urlsplit(self.url)
        _, writer = await asyncio.open_connection(address.hostname, address.port)
        content = json.dumps(body).encode()
        head = [f"POST {path} HTTP/1.1", f"Host: {address.netloc}"]
        fields = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        fields |= {"Content-Length": str(len(content))} | headers
        head += [f"{name}: {value}" for name, value in fields.items()]
        writer.write("\r\n".join([*head, "", ""]).encode() + content)
        await writer.drain()
        return writer

    async def request_and_leave(self, path: str, body: dict[str, Any], n_jobs: int = 1) -> None:
        """Sends a request to the application itself, and is gone as soon as it was read. Returns
        when it was accepted, as so many jobs, and the application has had time to notice."""
        messages = [{"type": "http.request", "body": json.dumps(body).encode()}]
        headers = [(b"authorization", f"Bearer {self.key}".encode())]
        scope = {"type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}}
        scope |= {"method": "POST", "path": path, "headers": headers, "query_string": b""}

        async def receive() -> dict[str, Any]:
            return messages.pop() if messages else {"type": "http.disconnect"}

        async def send(_: object) -> None:
            # A socket whose other end does not read takes nothing.
            await asyncio.Event().wait()

        before = (await self.counts())["received"]
        answering = asyncio.create_task(self.app(scope, receive, send))

        async def accepted() -> bool:
            return (await self.counts())["received"] >= before + n_jobs

        await eventually(accepted)
        await asyncio.wait({answering}, timeout=1.0)
        answering.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await answering

    async def counts(self) -> dict[str, int]:
        return dict((await admin_get(self.url, "stats"))["requests"])

    async def busy_slots(self) -> int:
        """Requests that llama.cpp itself works on."""
        async with httpx.AsyncClient(timeout=30) as http:
            engine = (await http.get(f"{self.agent_url}/state")).json()["url"]
            slots = (await http.get(f"{engine}/slots")).json()
        return sum(bool(slot["is_processing"]) for slot in slots)

    async def engine_works_on(self, n: int) -> None:
        async def works() -> bool:
            return await self.busy_slots() == n

        # The whole answer would take several times as long.
        await eventually(works, PATIENCE_S)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    folder = tmp_path_factory.mktemp("gateway")
    async with (
        running_agent(model_path, FakeControl()) as agent_url,
        running_app(app := build_app(gateway_settings(folder, agent_url))) as url,
    ):
        yield Site(url, await new_key(url), agent_url, app)


@pytest.mark.parametrize("name", REQUESTS)
async def test_a_client_that_leaves_ends_its_request_at_the_engine(site: Site, name: str) -> None:
    path, body, n_jobs = REQUESTS[name]
    before = await site.counts()
    writer = await site.request(path, body)
    await site.engine_works_on(n_jobs)
    writer.close()
    await site.engine_works_on(0)

    async def over() -> bool:
        # The engine is free a moment before the end is on record.
        after = await site.counts()
        assert after["completed"] == before["completed"]
        at_rest = (after["running"], after["waiting"]) == (0, 0)
        return at_rest and after["cancelled"] == before["cancelled"] + n_jobs

    await eventually(over, PATIENCE_S)


@pytest.mark.parametrize("name", REQUESTS)
async def test_a_client_that_left_before_its_answer_begins_leaves_no_work_behind(
    site: Site, name: str
) -> None:
    path, body, n_jobs = REQUESTS[name]
    before = await site.counts()
    await site.request_and_leave(path, body, n_jobs)

    async def over() -> bool:
        now = await site.counts()
        ended = now["cancelled"] == before["cancelled"] + n_jobs
        return ended and not now["running"] and not now["waiting"]

    await eventually(over, PATIENCE_S)
    await site.engine_works_on(0)


async def test_a_request_that_waits_for_an_engine_is_ended_too(
    site: Site, model_path: Path, tmp_path: Path
) -> None:
    control = FakeControl()
    async with (
        running_agent(model_path, control, max_concurrent=1) as agent_url,
        running_gateway(gateway_settings(tmp_path, agent_url)) as url,
    ):
        small = Site(url, await new_key(url), agent_url)
        first = await small.request("/v1/chat/completions", CHAT | STREAM)
        await small.engine_works_on(1)
        second = await small.request("/v1/chat/completions", CHAT | STREAM)

        async def waiting(n: int) -> bool:
            return (await small.counts())["waiting"] == n

        await eventually(lambda: waiting(1))
        second.close()
        await eventually(lambda: waiting(0), PATIENCE_S)

        async def ended() -> bool:
            counts = await small.counts()
            assert counts["running"] == 1
            return counts["cancelled"] == 1

        await eventually(ended, PATIENCE_S)
        first.close()
        await small.engine_works_on(0)


async def test_what_is_to_outlive_its_client_goes_on(site: Site) -> None:
    short = {"max_tokens": 12}
    before = await site.counts()
    path = f"/v2/nvcf/pexec/functions/{MODEL}"
    await site.request_and_leave(path, CHAT | short)
    background = {"background": True, "max_output_tokens": 16}
    await site.request_and_leave("/v1/responses", RESPONSE | background)
    await site.request_and_leave("/v1/responses", RESPONSE | background | STREAM)

    async def done() -> bool:
        now = await site.counts()
        return now["completed"] == before["completed"] + 3

    await eventually(done)
    assert (await site.counts())["cancelled"] == before["cancelled"]


async def test_a_request_whose_client_left_may_be_repeated_under_its_key(site: Site) -> None:
    key = {"Idempotency-Key": "left"}
    body = CHAT | {"max_tokens": 1800}
    writer = await site.request("/v1/chat/completions", body, **key)
    await site.engine_works_on(1)
    writer.close()
    await site.engine_works_on(0)

    async def at_rest() -> bool:
        counts = await site.counts()
        return (counts["running"], counts["waiting"]) == (0, 0)

    async def runs_again() -> bool:
        headers = {"Authorization": f"Bearer {site.key}"} | key
        async with httpx.AsyncClient(base_url=site.url, timeout=60, headers=headers) as http:
            asking = asyncio.create_task(http.post("/v1/chat/completions", json=body))

            async def told_or_running() -> bool:
                return asking.done() or await site.busy_slots() == 1

            await eventually(told_or_running)
            if not asking.done():
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
                return True
        # Until the end of the first is stored, its key is taken.
        assert asking.result().status_code == 409
        return False

    await eventually(at_rest)
    await eventually(runs_again)
    await site.engine_works_on(0)
    await eventually(at_rest)
