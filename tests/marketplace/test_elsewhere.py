"""Jobs that this gateway does not run: another one does, or none."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import sqlalchemy as sa

from marketplace.batch_input import BatchLine
from marketplace.chat import parse_chat_request
from marketplace.gateway import build_app
from marketplace.gateway.batch_runner import BatchRunner, line_job_id
from marketplace.store.connect import open_database, writing
from marketplace.store.schema import jobs
from tests.marketplace.simulated_engine import MODEL, simulated_agent
from tests.marketplace.site import gateway_settings, new_key, running_app
from tests.marketplace.test_siblings import N_TOKENS, OFFER, Pair, asked, expected, pair

__all__ = ["pair"]
CALL = f"/v2/nvcf/pexec/functions/{MODEL}"


async def test_a_job_whose_model_nobody_offers_any_more_can_be_cancelled(
    database_url: str, tmp_path: Path
) -> None:
    async with simulated_agent(0.001) as agent:
        settings = replace(
            gateway_settings(tmp_path, agent), models=(OFFER,), database_url=database_url
        )
        async with (
            running_app(build_app(settings)) as url,
            httpx.AsyncClient(base_url=url, timeout=30) as http,
        ):
            http.headers["Authorization"] = f"Bearer {await new_key(url)}"
            body = {"messages": asked("Call."), "max_tokens": 2}
            answer = await http.post(CALL, json=body, headers={"NVCF-POLL-SECONDS": "20"})
            assert answer.status_code == 200
            add_left(database_url)
            async with asyncio.timeout(10):
                ended = await http.delete("/v2/nvcf/pexec/status/left")
            assert ended.status_code in (200, 204)
    assert state_of(database_url, "left") == "cancelled"


def add_left(database_url: str) -> None:
    """A job as the present one, of a model that is gone and of a gateway that is no more."""
    engine = open_database(database_url)
    with writing(engine) as db:
        row = dict(db.execute(sa.select(jobs)).mappings().one())
        left = {"id": "left", "model": "gone", "gateway_id": "gone", "state": "queued"}
        db.execute(sa.insert(jobs).values(row | left))
    engine.dispose()


def state_of(database_url: str, job_id: str) -> Any:
    engine = open_database(database_url)
    with writing(engine) as db:
        found = db.execute(sa.select(jobs.c.state).where(jobs.c.id == job_id)).scalar_one()
    engine.dispose()
    return found


async def test_a_batchs_line_whose_job_is_at_another_gateway_is_waited_for(pair: Pair) -> None:
    """As when a batch goes on at one gateway, and its jobs at one that has their model."""
    here, there = pair.runtime(0), pair.runtime(1)
    body = {"model": MODEL, "messages": asked("Line."), "max_tokens": N_TOKENS}
    principal = await there.door.authenticate_key(
        pair.http[0].headers["Authorization"].removeprefix("Bearer ")
    )
    line = BatchLine(0, "0", body)
    job = there.job_of(parse_chat_request(body), "async", principal)
    job.id = str(line_job_id("batch_1", line))
    await there.dispatcher.prepare(job, 10.0)
    await there.dispatcher.submit(job)
    there.keep(job)
    runner = pair.apps[0].state.batch_runner
    assert isinstance(runner, BatchRunner)
    assert here.async_jobs == {}
    document = {"id": "batch_1", "endpoint": "/v1/chat/completions"}
    status, answer = await runner.complete_line(document, principal, line)
    assert (status, answer["choices"][0]["message"]["content"]) == (200, expected("Line."))
