"""Two gateways on one database and one engine: a client may turn to either."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from fastapi import FastAPI

from marketplace.gateway import ModelOffer, Price, build_app
from marketplace.gateway.runtime import Runtime
from marketplace.store.connect import open_database, reading, writing
from marketplace.store.schema import events, jobs, usage
from tests.marketplace.simulated_engine import (
    MODEL,
    N_CONTEXT,
    continued,
    prompt_of,
    simulated_agent,
    tokens_of,
)
from tests.marketplace.site import eventually, gateway_settings, new_key, running_app

TOKEN_S = 0.03
N_TOKENS = 40
OFFER = ModelOffer(MODEL, N_CONTEXT, Price.from_usd(0.01, 0.03))


@dataclass
class Pair:
    """Two gateways, each of which can be stopped."""

    database_url: str
    apps: list[FastAPI]
    http: list[httpx.AsyncClient]
    stacks: list[AsyncExitStack]

    def runtime(self, number: int) -> Runtime:
        runtime = self.apps[number].state.runtime
        assert isinstance(runtime, Runtime)
        return runtime

    async def stop(self, number: int) -> None:
        await self.stacks[number].aclose()

    def rows(self, *columns: Any) -> list[tuple[Any, ...]]:
        engine = open_database(self.database_url)
        try:
            with reading(engine) as db:
                return [tuple(row) for row in db.execute(sa.select(*columns))]
        finally:
            engine.dispose()


@pytest.fixture
async def pair(postgres_url: str, tmp_path: Path) -> AsyncIterator[Pair]:
    found = Pair(postgres_url, [], [], [])
    async with AsyncExitStack() as everything:
        agent = await everything.enter_async_context(simulated_agent(TOKEN_S))
        for number in range(2):
            stack = await everything.enter_async_context(AsyncExitStack())
            settings = gateway_settings(tmp_path / str(number), agent)
            settings = replace(settings, models=(OFFER,), database_url=postgres_url)
            app = build_app(settings)
            url = await stack.enter_async_context(running_app(app))
            http = httpx.AsyncClient(base_url=url, timeout=30)
            found.http.append(await everything.enter_async_context(http))
            found.apps.append(app)
            found.stacks.append(stack)
        key = await new_key(str(found.http[0].base_url))
        for http in found.http:
            http.headers["Authorization"] = f"Bearer {key}"
        await eventually(lambda: all(map(ready, found.apps)))
        await eventually(lambda: all(app.state.runtime.company.siblings for app in found.apps))
        yield found


def ready(app: FastAPI) -> bool:
    engines = app.state.runtime.dispatcher.pool.engines
    return any(engine.state.phase == "ready" for engine in engines)


def asked(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def expected(text: str) -> str:
    return continued(tokens_of(prompt_of(asked(text))), N_TOKENS)


def response(text: str, **more: Any) -> dict[str, Any]:
    body = {"model": MODEL, "input": asked(text), "max_output_tokens": N_TOKENS}
    return body | {"background": True} | more


async def streamed(
    http: httpx.AsyncClient, response_id: str, after: int = -1
) -> list[dict[str, Any]]:
    params = {"stream": True, "starting_after": after}
    async with http.stream("GET", f"/v1/responses/{response_id}", params=params) as answer:
        assert answer.status_code == 200
        lines = [line async for line in answer.aiter_lines()]
    return [json.loads(line[6:]) for line in lines if line.startswith("data: {")]


def text_of(events: list[dict[str, Any]]) -> str:
    deltas = [one for one in events if one["type"] == "response.output_text.delta"]
    return "".join(str(one["delta"]) for one in deltas)


async def test_a_response_begun_at_one_is_followed_at_the_other(pair: Pair) -> None:
    first, second = pair.http
    made = (await first.post("/v1/responses", json=response("A story."))).json()
    seen = (await second.get(f"/v1/responses/{made['id']}")).json()
    assert seen["status"] in ("queued", "in_progress")
    there = await streamed(second, made["id"])
    here = await streamed(first, made["id"])
    assert text_of(there) == text_of(here) == expected("A story.")
    assert len([one for one in there if one["type"] == "response.output_text.delta"]) > 1
    assert there[-1]["type"] == here[-1]["type"] == "response.incomplete"
    half = there[len(there) // 2]["sequence_number"]
    rest = await streamed(second, made["id"], half)
    assert rest == [one for one in here if one["sequence_number"] > half] or text_of(rest)
    assert len(pair.rows(usage.c.job_id)) == 1


async def test_what_runs_at_one_is_cancelled_at_the_other(pair: Pair) -> None:
    first, second = pair.http
    made = (await first.post("/v1/responses", json=response("Long."))).json()
    await eventually(lambda: pair.runtime(0).dispatcher.running)
    ended = (await second.post(f"/v1/responses/{made['id']}/cancel")).json()
    assert ended["status"] == "cancelled"
    assert not pair.runtime(0).dispatcher.running
    path = f"/v2/nvcf/pexec/functions/{MODEL}"
    body = {"messages": asked("Call."), "max_tokens": N_TOKENS}
    accepted = await first.post(path, json=body, headers={"NVCF-POLL-SECONDS": "0"})
    status = f"/v2/nvcf/pexec/status/{accepted.headers['nvcf-reqid']}"
    assert (await second.delete(status)).status_code in (200, 204)
    assert not pair.runtime(0).dispatcher.running
    assert {state for (state,) in pair.rows(jobs.c.state)} == {"cancelled"}


async def test_an_invocation_at_one_is_waited_for_at_the_other(pair: Pair) -> None:
    first, second = pair.http
    body = {"messages": asked("Call."), "max_tokens": N_TOKENS}
    path = f"/v2/nvcf/pexec/functions/{MODEL}"
    accepted = await first.post(path, json=body, headers={"NVCF-POLL-SECONDS": "0"})
    job_id = accepted.headers["nvcf-reqid"]
    place = await second.get(f"/v2/nvcf/queues/{job_id}/position")
    assert place.json()["positionInQueue"] in (0, 1)
    headers = {"NVCF-POLL-SECONDS": "20"}
    answer = await second.get(f"/v2/nvcf/pexec/status/{job_id}", headers=headers)
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["content"] == expected("Call.")


async def test_the_same_key_at_both_is_one_job(pair: Pair) -> None:
    async def ask(http: httpx.AsyncClient) -> str:
        body = {"model": MODEL, "messages": asked("Once."), "max_tokens": N_TOKENS}
        while True:
            answer = await http.post(
                "/v1/chat/completions", json=body, headers={"Idempotency-Key": "once"}
            )
            if answer.status_code == 200:
                return str(answer.json()["choices"][0]["message"]["content"])
            assert answer.status_code == 409
            await asyncio.sleep(0.05)

    assert await asyncio.gather(*map(ask, pair.http)) == [expected("Once.")] * 2
    assert len(pair.rows(usage.c.job_id)) == 1


async def test_a_batch_at_one_is_cancelled_at_the_other(pair: Pair) -> None:
    first, second = pair.http
    made = await batch_at(first, 30)
    await eventually(lambda: pair.runtime(0).dispatcher.running)
    assert (await second.post(f"/v1/batches/{made}/cancel")).json()["status"] == "cancelling"

    async def ended() -> bool:
        return bool((await second.get(f"/v1/batches/{made}")).json()["status"] == "cancelled")

    await eventually(ended)
    assert not pair.runtime(0).dispatcher.running


async def batch_at(http: httpx.AsyncClient, n_lines: int) -> str:
    lines = [
        {
            "custom_id": str(n),
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": MODEL, "messages": asked(f"Line {n}."), "max_tokens": N_TOKENS},
        }
        for n in range(n_lines)
    ]
    content = "\n".join(map(json.dumps, lines)).encode()
    file = ("lines.jsonl", content)
    sent = await http.post("/v1/files", data={"purpose": "batch"}, files={"file": file})
    body = {"input_file_id": sent.json()["id"], "endpoint": "/v1/chat/completions"}
    made = await http.post("/v1/batches", json=body | {"completion_window": "24h"})
    assert made.status_code == 200, made.text
    return str(made.json()["id"])


async def test_what_one_leaves_at_its_end_goes_on_at_the_other(pair: Pair) -> None:
    first, second = pair.http
    made = (await first.post("/v1/responses", json=response("Handed over."))).json()
    batch = await batch_at(first, 6)
    job = pair.runtime(0)
    await eventually(lambda: len(job.dispatcher.running) > 1)
    following = asyncio.create_task(streamed(second, made["id"]))
    await asyncio.sleep(0.3)
    await pair.stop(0)
    assert text_of(await following) == expected("Handed over.")

    async def completed() -> dict[str, Any] | None:
        found = (await second.get(f"/v1/batches/{batch}")).json()
        return found if found["status"] == "completed" else None

    done = await eventually(completed)
    output = await second.get(f"/v1/files/{done['output_file_id']}/content")
    answers = [json.loads(line) for line in output.text.splitlines()]
    texts = {
        one["custom_id"]: one["response"]["body"]["choices"][0]["message"]["content"]
        for one in answers
    }
    assert texts == {str(n): expected(f"Line {n}.") for n in range(6)}
    assert {state for (state,) in pair.rows(jobs.c.state)} == {"completed"}
    assert len(pair.rows(usage.c.job_id)) == 7


async def test_one_of_them_tells_of_the_engines(pair: Pair) -> None:
    assert [pair.runtime(n).company.leads for n in range(2)] == [True, False]
    kinds = [kind for (kind,) in pair.rows(events.c.kind)]
    assert kinds.count("engine.ready") <= 2
    await pair.stop(0)
    await eventually(lambda: pair.runtime(1).company.leads)


async def test_a_job_that_cannot_be_read_holds_up_no_other(pair: Pair) -> None:
    first, second = pair.http
    made = (await first.post("/v1/responses", json=response("Handed over."))).json()
    engine = open_database(pair.database_url)
    with writing(engine) as db:
        row = dict(db.execute(sa.select(jobs)).mappings().one())
        strange = {"id": "strange", "request": "from the future", "created_s": 0.0}
        db.execute(sa.insert(jobs).values(row | strange))
    engine.dispose()
    await pair.stop(0)
    assert text_of(await streamed(second, made["id"])) == expected("Handed over.")
