"""PostgreSQL is killed under the store: what is insisted on is kept, in order, and done once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from airan.core.errors import UnavailableError
from marketplace.store.database import Database
from marketplace.store.idempotency import IdempotencyKeys
from marketplace.store.ledger import Outcome
from marketplace.store.schema import jobs, usage
from tests.marketplace.books import NOW_S, PRICE, Ask, Shop
from tests.orchestrator import postgres


@pytest.fixture
def cluster() -> Iterator[str]:
    """The socket's folder of a PostgreSQL that is there to be killed."""
    with postgres.cluster() as folder:
        yield folder


def url_of(cluster: str) -> str:
    return f"postgresql://airan@/postgres?host={cluster}"


@pytest.fixture
def shop(database_url: str) -> Iterator[Shop]:
    shop = Shop(database_url)
    shop.tenant()
    yield shop
    shop.close()


async def test_what_is_insisted_on_waits_for_the_server_and_all_else_fails(cluster: str) -> None:
    db = Database(url_of(cluster))
    add, event = db.ledger.add_event, ("info", None)
    await db.call(add, "k", "before", NOW_S, *event)
    postgres.kill(cluster)
    waiting = [
        asyncio.create_task(db.insist("t", add, add, "k", name, NOW_S, *event)) for name in "ab"
    ]
    with pytest.raises(UnavailableError):
        await db.call(db.ledger.list_events, 0, 10)
    db.insist_later("t", add, add, "k", "c", NOW_S, *event)
    with pytest.raises(UnavailableError):
        await db.call(add, "k", "lost", NOW_S, *event)
    assert not any(task.done() for task in waiting)
    postgres.start(cluster)
    await asyncio.wait_for(asyncio.gather(*waiting), 20)
    rows = await db.call(db.ledger.list_events, 0, 10)
    assert [row["message"] for row in rows] == ["before", "a", "b", "c"]
    db.close()
    postgres.kill(cluster)
    postgres.start(cluster)


async def test_a_store_that_is_closed_waits_for_no_server(cluster: str) -> None:
    db = Database(url_of(cluster))
    add = db.ledger.add_event
    postgres.kill(cluster)
    waiting = asyncio.create_task(db.insist("t", add, add, "k", "a", NOW_S, "info", None))
    with pytest.raises(UnavailableError):
        await db.call(db.ledger.list_events, 0, 10)
    db.relent()
    with pytest.raises(UnavailableError):
        await asyncio.wait_for(waiting, 10)
    await asyncio.wait_for(asyncio.to_thread(db.close), 10)
    postgres.start(cluster)


async def test_a_mistake_is_not_made_again(cluster: str) -> None:
    db = Database(url_of(cluster))
    row = {"id": "job-1", "kind": "sync", "tenant_id": "nobody", "key_id": "none", "model": "m"}
    row |= {"request": None, "input_tokens": 1}
    add = db.ledger.add_job
    with pytest.raises(UnavailableError):
        await asyncio.wait_for(db.insist("t", add, add, row, NOW_S), 10)
    db.close()


def test_a_job_whose_acceptance_nobody_knows_of_is_accepted_once(shop: Shop) -> None:
    who = shop.principal()
    first = shop.accept(who, 10, 20, job_id="job-1")
    job = {"id": "job-1", "kind": "sync", "tenant_id": who.tenant_id, "key_id": who.key_id}
    job |= {"model": "m", "request": None, "input_tokens": 10}
    ask = Ask(who, "m", "default", 10, 20)
    assert shop.billing.accept_again(job, ask, PRICE, NOW_S) == first
    assert shop.billing.accept_again(job | {"id": "job-2"}, ask, PRICE, NOW_S).job_id == "job-2"
    assert shop.count(jobs) == 2
    # Of another's job, by the same name, it is not said that it was accepted.
    with pytest.raises(sa.exc.IntegrityError):
        shop.billing.accept_again(job, ask, PRICE, NOW_S + 1)


def test_a_job_whose_end_nobody_knows_of_is_billed_once(shop: Shop) -> None:
    shop.accept(shop.principal(), 10, 20, job_id="job-1")
    done = Outcome("completed", 10, 20)
    for _ in range(3):
        assert shop.ledger.finish_again("job-1", done, PRICE, NOW_S + 1)
    assert not shop.ledger.finish_again("job-1", Outcome("failed", 0, 0), PRICE, NOW_S + 1)
    assert not shop.ledger.finish_again("job-2", done, PRICE, NOW_S + 1)
    assert shop.count(usage) == 1
    assert shop.books.check()["problems"] == []


def test_a_key_whose_claim_nobody_knows_of_is_free_again(shop: Shop) -> None:
    keys = IdempotencyKeys(shop.engine)
    assert keys.claim("t", "k", "f", NOW_S).kind == "run"
    keys.withdraw("t", "k", NOW_S - 1)
    assert keys.claim("t", "k", "f", NOW_S + 1).kind == "busy"
    keys.withdraw("t", "k", NOW_S)
    assert keys.claim("t", "k", "f", NOW_S + 2).kind == "run"
