"""A gateway that stands still for so long that another one takes its work over, and then wakes."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import httpx
import pytest
import sqlalchemy as sa

from marketplace.store.connect import open_database, reading
from marketplace.store.schema import gateways, jobs, usage
from tests.marketplace.market import Market
from tests.marketplace.simulated_engine import MODEL
from tests.marketplace.site import eventually, new_key
from tests.marketplace.test_killed import database, market

__all__ = ["database", "market"]
N_BEFORE, N_MEANWHILE = 12, 20
GIVEN_UP = 70
"""The exit code of a gateway that finds another one to have its work."""


@pytest.fixture
async def engine(database: tuple[str, str], market: Market) -> AsyncIterator[sa.Engine]:
    assert market.database_url == database[0]
    engine = open_database(database[0])
    yield engine
    engine.dispose()


def states(engine: sa.Engine) -> Counter[str]:
    with reading(engine) as db:
        return Counter(db.execute(sa.select(jobs.c.state)).scalars())


def n_rows(engine: sa.Engine, table: sa.Table) -> int:
    with reading(engine) as db:
        return int(db.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())


async def ask(http: httpx.AsyncClient, key: str, text: str) -> int:
    body = {"model": MODEL, "input": text, "max_output_tokens": 20, "background": True}
    try:
        answer = await http.post(
            "/v1/responses", json=body, headers={"Authorization": f"Bearer {key}"}
        )
    except httpx.TransportError:
        return 0
    return answer.status_code


@pytest.mark.timeout(180)
@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
async def test_what_it_accepts_before_it_knows_is_not_lost(
    market: Market, engine: sa.Engine
) -> None:
    await market.start("second")
    await eventually(lambda: n_rows(engine, gateways) == 2, 60)
    key = await new_key(market.url)
    before = [await ask(market.http, key, f"Story {n}.") for n in range(N_BEFORE)]
    assert set(before) == {200}
    async with AsyncExitStack() as connections:
        # One each: they wait in the kernel, and are all there when it wakes.
        clients = [
            await connections.enter_async_context(
                httpx.AsyncClient(base_url=market.url, timeout=90)
            )
            for _ in range(N_MEANWHILE)
        ]
        market.signal("gateway", signal.SIGSTOP)
        late = [asyncio.create_task(ask(one, key, f"Late {n}.")) for n, one in enumerate(clients)]
        await eventually(lambda: n_rows(engine, gateways) == 1, 60)
        market.signal("gateway", signal.SIGCONT)
        n_accepted = (await asyncio.gather(*late)).count(200)
    assert await market.ended("gateway") == GIVEN_UP
    done = Counter({"completed": N_BEFORE + n_accepted})
    await eventually(lambda: states(engine) == done, 60)
    assert n_rows(engine, usage) == N_BEFORE + n_accepted
