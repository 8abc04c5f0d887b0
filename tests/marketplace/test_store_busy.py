"""PostgreSQL is there, and too busy for one tenant's work: a row of whose is locked, a connection
is cut off, a transaction is rolled back. What was accepted is stored as soon as it can be, once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import sqlalchemy as sa

from airan.core.errors import UnavailableError
from marketplace.store.books import Books
from marketplace.store.connect import open_database, reading
from marketplace.store.database import Database
from marketplace.store.schema import jobs, reservations, usage
from tests.marketplace.books import NOW_S
from tests.marketplace.simulated_engine import (
    MODEL,
    continued,
    prompt_of,
    simulated_market,
    tokens_of,
)
from tests.marketplace.site import eventually, new_key

N_TOKENS = 30
ASK = {"role": "user", "content": "A story."}
EXPECTED = continued(tokens_of(prompt_of([ASK])), N_TOKENS)
WAITING = ": waiting"


class Server:
    """A PostgreSQL, as its other users see it."""

    def __init__(self, url: str, socket: str) -> None:
        self.url = url
        self._engine = open_database(url)
        self._log = Path(socket) / "log"
        self._n_before = self.n_timeouts(0)

    def close(self) -> None:
        self._engine.dispose()

    def n_timeouts(self, n_before: int | None = None) -> int:
        """Transactions that gave up waiting for a lock, since this one is here."""
        n = self._log.read_text().count("canceling statement due to lock timeout")
        return n - (self._n_before if n_before is None else n_before)

    @contextmanager
    def locked(self, tenant: str) -> Iterator[None]:
        """Somebody keeps the tenant's row."""
        with psycopg.connect(self.url) as db:
            db.execute("SELECT id FROM tenants WHERE name = %s FOR UPDATE", [tenant])
            yield
            db.rollback()

    def cut_off(self) -> int:
        """Ends the connections that wait for a lock; how many those were."""
        with psycopg.connect(self.url) as db:
            found = db.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE wait_event_type = 'Lock' AND datname = current_database()"
            )
            return len(found.fetchall())

    def states(self) -> list[str]:
        with reading(self._engine) as db:
            return sorted(db.execute(sa.select(jobs.c.state)).scalars())

    def check(self, n_jobs: int) -> None:
        """So many were completed, each billed once, and nothing is left over."""
        assert self.states() == ["completed"] * n_jobs
        with reading(self._engine) as db:
            billed = sorted(db.execute(sa.select(usage.c.job_id)).scalars())
            assert billed == sorted(db.execute(sa.select(jobs.c.id)).scalars())
            assert db.execute(sa.select(reservations)).first() is None
        assert Books(self._engine).check()["problems"] == []


class Client:
    """A tenant's, that asks for one answer in each way."""

    def __init__(self, http: httpx.AsyncClient, key: str) -> None:
        self._http, self._headers = http, {"Authorization": f"Bearer {key}"}
        self.lines: list[str] = []

    def _body(self, **more: object) -> dict[str, object]:
        return {"model": MODEL, "messages": [ASK], "max_tokens": N_TOKENS, **more}

    async def plain(self) -> str:
        url = "/v1/chat/completions"
        answer = await self._http.post(url, json=self._body(), headers=self._headers)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["choices"][0]["message"]["content"])

    async def stream(self) -> str:
        url, body = "/v1/chat/completions", self._body(stream=True)
        async with self._http.stream("POST", url, json=body, headers=self._headers) as answer:
            assert answer.status_code == 200
            async for line in answer.aiter_lines():
                self.lines += [line] if line else []
        assert self.lines[-1] == "data: [DONE]"
        events = [json.loads(line[6:]) for line in self.lines if line.startswith("data: {")]
        return "".join(event["choices"][0]["delta"].get("content", "") for event in events)

    async def begin(self) -> httpx.Response:
        body = {"model": MODEL, "input": [ASK], "max_output_tokens": N_TOKENS, "background": True}
        return await self._http.post("/v1/responses", json=body, headers=self._headers)

    async def background(self) -> str:
        response = (await self.begin()).json()
        while response["status"] in ("queued", "in_progress"):
            await asyncio.sleep(0.05)
            path = f"/v1/responses/{response['id']}"
            response = (await self._http.get(path, headers=self._headers)).json()
        return str(response["output"][0]["content"][0]["text"])


@pytest.fixture
def server(postgres_url: str, postgres_socket: str) -> Iterator[Server]:
    server = Server(postgres_url, postgres_socket)
    yield server
    server.close()


@asynccontextmanager
async def clients(server: Server, folder: Path) -> AsyncIterator[tuple[Client, Client]]:
    """Of two tenants, `acme` and `other`."""
    async with (
        simulated_market(folder, 0.02, database_url=server.url) as url,
        httpx.AsyncClient(base_url=url, timeout=60) as http,
    ):
        keys = [await new_key(url, tenant) for tenant in ("acme", "other")]
        first, second = (Client(http, key) for key in keys)
        yield first, second


async def begun(server: Server, client: Client) -> list[asyncio.Task[str]]:
    """Three answers under way."""
    asked = (client.stream(), client.plain(), client.background())
    tasks = [asyncio.create_task(one) for one in asked]
    await eventually(lambda: len(server.states()) == 3 and len(client.lines) > 3)
    return tasks


async def test_a_job_whose_tenant_is_locked_ends_when_the_lock_is_gone(
    server: Server, tmp_path: Path
) -> None:
    async with clients(server, tmp_path) as (client, other):
        tasks = await begun(server, client)
        with server.locked("acme"):
            # PostgreSQL gives up after 5 s, and after 0.25 s each further time.
            await eventually(lambda: server.n_timeouts() >= 3)
            assert not any(task.done() for task in tasks)
            assert WAITING in client.lines
            # Nobody knows how long that lasts: what has to be stored first is not accepted.
            assert (await asyncio.wait_for(client.begin(), 4)).status_code == 503
            assert await other.plain() == EXPECTED
            assert server.states().count("completed") == 1
        assert await asyncio.wait_for(asyncio.gather(*tasks), 10) == [EXPECTED] * 3
        server.check(4)


async def test_a_job_whose_connection_is_cut_off_within_its_end_ends_once(
    server: Server, tmp_path: Path
) -> None:
    async with clients(server, tmp_path) as (client, _):
        tasks = await begun(server, client)
        with server.locked("acme"):
            await eventually(server.cut_off)
            await eventually(server.cut_off)
        assert await asyncio.wait_for(asyncio.gather(*tasks), 10) == [EXPECTED] * 3
        server.check(3)


@pytest.mark.parametrize("state", ["40001", "40P01", "53100", "55P03", "57014"])
async def test_what_passes_is_tried_again_in_order_and_holds_up_nobody_else(
    postgres_url: str, state: str
) -> None:
    db = Database(postgres_url)
    add, done = db.ledger.add_event, list[str]()
    n_refused = 2

    def refuse(name: str) -> None:
        nonlocal n_refused
        n_refused -= 1
        if n_refused >= 0:
            with db._engine.begin() as connection:
                connection.exec_driver_sql(f"DO $$ BEGIN RAISE SQLSTATE '{state}'; END $$")
        done.append(name)

    def keep(name: str) -> None:
        add("k", name, NOW_S, "info", None)
        done.append(name)

    async def insist(whose: str, work: Any, name: str) -> None:
        await db.insist(whose, work, work, name)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(insist("a", refuse, "first"))
        tasks.create_task(insist("a", keep, "second"))
        tasks.create_task(insist("b", keep, "other"))
        tasks.create_task(db.call(keep, "whose"))
    assert done == ["other", "whose", "first", "second"]
    db.close()


async def test_what_never_passes_is_told(postgres_url: str) -> None:
    db = Database(postgres_url)

    def refuse() -> None:
        with db._engine.begin() as connection:
            connection.exec_driver_sql("SELECT 1 / 0")

    with pytest.raises(UnavailableError):
        await asyncio.wait_for(db.insist("a", refuse, refuse), 10)
    db.close()


async def test_a_store_that_is_closed_waits_for_no_lock(server: Server) -> None:
    db = Database(server.url)
    db.accounts.create_tenant("acme", NOW_S, "postpaid")

    def lock() -> None:
        with db._engine.begin() as connection:
            connection.exec_driver_sql("SET LOCAL lock_timeout = '50ms'")
            connection.exec_driver_sql("SELECT id FROM tenants FOR UPDATE")

    with server.locked("acme"):
        waiting = asyncio.create_task(db.insist("a", lock, lock))
        await eventually(lambda: server.n_timeouts() >= 2)
        assert not waiting.done()
        db.relent()
        with pytest.raises(UnavailableError):
            await asyncio.wait_for(waiting, 10)
        await asyncio.wait_for(asyncio.to_thread(db.close), 10)
