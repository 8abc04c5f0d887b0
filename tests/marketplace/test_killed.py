"""`kill -9` of any process under 50 streams: what was accepted is done once and billed once.

Gateway, orchestrator, engine agent and PostgreSQL are processes; the model is simulated, so that
every answer is known beforehand.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from marketplace.money import Price
from marketplace.store.books import REVENUE, Books
from marketplace.store.connect import open_database, reading, writing
from marketplace.store.schema import jobs, reservations, responses, usage
from tests.marketplace.market import GATEWAYS, Market, Moment, settled
from tests.marketplace.simulated_engine import MODEL, N_SLOTS, continued, prompt_of, tokens_of
from tests.marketplace.site import eventually, new_key
from tests.orchestrator import postgres

N_STREAMS = 50
N_TOKENS = 40
PRICE = Price.from_usd(0.01, 0.03)


@pytest.fixture
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """A database's URL, and the socket's folder of the PostgreSQL that is there to be killed."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'market.db'}", ""
        return
    with postgres.cluster() as folder:
        yield f"postgresql://airan@/postgres?host={folder}", folder


@pytest.fixture
async def market(database: tuple[str, str], tmp_path: Path) -> AsyncIterator[Market]:
    market = Market(tmp_path, *database)
    try:
        await market.start("control", "engine", "gateway")
        await eventually(market.ready, 60)
        yield market
    finally:
        await market.close()
        print(market.logs())


class Client:
    """One request, asked for until its answer is there, as the documentation says."""

    def __init__(self, market: Market, key: str, number: int) -> None:
        self._market, self.number, self.text = market, number, ""
        self._ask = {"role": "user", "content": f"Story number {number}."}
        self._headers = {"Authorization": f"Bearer {key}", "Idempotency-Key": f"mine-{number}"}
        self.response_id, self._seen = "", -1

    @property
    def _http(self) -> httpx.AsyncClient:
        return self._market.http_for(self.number)

    @property
    def expected(self) -> str:
        return continued(tokens_of(prompt_of([self._ask])), N_TOKENS)

    async def run(self) -> str:
        """The answer of a chat completion, a response in the background, or an invocation."""
        attempt = (self._chat, self._response, self._invocation)[self.number % 3]
        while not await attempt():
            await eventually(lambda: self._market.is_ready(self._http), 60)
        return self.text

    async def _chat(self) -> bool:
        self.text = ""
        body = {"model": MODEL, "messages": [self._ask], "max_tokens": N_TOKENS, "stream": True}
        done = False
        async for event in self._events("POST", "/v1/chat/completions", json=body):
            for choice in event.get("choices", ()):
                self.text += choice["delta"].get("content", "")
                done = done or choice["finish_reason"] == "length"
        return done

    async def _response(self) -> bool:
        body = {"model": MODEL, "input": [self._ask], "max_output_tokens": N_TOKENS}
        body |= {"background": True, "stream": True}
        if not self.response_id:
            events = self._events("POST", "/v1/responses", json=body)
        else:
            after = {"stream": True, "starting_after": self._seen}
            events = self._events("GET", f"/v1/responses/{self.response_id}", params=after)
        async for event in events:
            if "response" in event:
                self.response_id = event["response"]["id"]
            self._seen = event["sequence_number"]
            if event["type"] == "response.output_text.delta":
                self.text += event["delta"]
            if event["type"] in ("response.completed", "response.incomplete"):
                return True
        return False

    async def _invocation(self) -> bool:
        path = f"/v2/nvcf/pexec/functions/{MODEL}"
        asked: dict[str, Any] = {"json": {"messages": [self._ask], "max_tokens": N_TOKENS}}
        method, headers = "POST", self._headers | {"NVCF-POLL-SECONDS": "0"}
        if self.response_id:
            method, path, asked = "GET", f"/v2/nvcf/pexec/status/{self.response_id}", {}
            headers["NVCF-POLL-SECONDS"] = "5"
        try:
            answer = await self._http.request(method, path, headers=headers, **asked)
        except httpx.TransportError:
            return False
        assert answer.status_code in (200, 202, 409, 429, 503), answer.text
        if answer.status_code == 200:
            self.text = answer.json()["choices"][0]["message"]["content"]
        elif answer.status_code == 202:
            self.response_id = answer.headers["nvcf-reqid"]
        return answer.status_code == 200

    async def _events(self, method: str, path: str, **asked: Any) -> AsyncIterator[dict[str, Any]]:
        http = self._http
        try:
            async with http.stream(method, path, headers=self._headers, **asked) as answer:
                if answer.status_code != 200:
                    # 429: a slow machine does not make the tier's time while the engine is away.
                    assert answer.status_code in (409, 429, 503), (await answer.aread()).decode()
                    return
                async for line in answer.aiter_lines():
                    if line.startswith("data: {"):
                        yield json.loads(line[6:])
        except httpx.TransportError:
            return


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("name", "database"),
    [
        ("gateway", "sqlite"),
        ("gateway", "postgresql"),
        ("engine", "sqlite"),
        ("control", "sqlite"),
        ("database", "postgresql"),
    ],
    indirect=["database"],
)
async def test_every_accepted_job_is_done_once_and_billed_once(market: Market, name: str) -> None:
    key = await new_key(market.url)
    clients = [Client(market, key, number) for number in range(N_STREAMS)]
    running = [asyncio.create_task(client.run()) for client in clients]
    # Half of those that have an engine are under way, and the others wait for one.
    await eventually(lambda: sum(len(one.text) > 4 for one in clients) >= N_SLOTS, 60)
    assert not all(task.done() for task in running)
    killed = await market.kill(name)
    texts = await asyncio.wait_for(asyncio.gather(*running), 120)
    assert texts == [client.expected for client in clients]
    await eventually(lambda: settled(market.database_url), 60)
    check_books(market.database_url, clients, killed)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
async def test_what_a_killed_gateway_had_is_done_once_by_the_other(market: Market) -> None:
    await market.start("second")
    await eventually(lambda: market.is_ready(market.http_for(1)), 60)
    key = await new_key(market.url)
    clients = [Client(market, key, number) for number in range(N_STREAMS)]
    running = [asyncio.create_task(client.run()) for client in clients]
    await eventually(lambda: sum(len(one.text) > 4 for one in clients) >= N_SLOTS // 2, 60)
    # And does not come back.
    killed = await market.stop("gateway")
    texts = await asyncio.wait_for(asyncio.gather(*running), 120)
    assert texts == [client.expected for client in clients]
    await eventually(lambda: settled(market.database_url), 60)
    check_books(market.database_url, clients, killed)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
async def test_of_three_one_dies_while_another_comes_back_and_the_last_stands_still(
    market: Market,
) -> None:
    await market.start("second", "third")
    for number in range(len(GATEWAYS)):
        await eventually(lambda number=number: market.is_ready(market.http_for(number)), 60)
    key = await new_key(market.url)
    clients = [Client(market, key, number) for number in range(N_STREAMS)]
    running = [asyncio.create_task(client.run()) for client in clients]
    await eventually(lambda: sum(len(one.text) > 4 for one in clients) >= N_SLOTS // 2, 60)
    killed = [await market.kill("gateway"), await market.stop("second")]
    market.signal("third", signal.SIGSTOP)
    await eventually(market.ready, 60)
    market.signal("third", signal.SIGCONT)
    assert not all(task.done() for task in running)
    texts = await asyncio.wait_for(asyncio.gather(*running), 120)
    assert texts == [client.expected for client in clients]
    await eventually(lambda: settled(market.database_url), 60)
    check_books(market.database_url, clients, *killed)


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
async def test_a_response_asked_for_again_after_a_crash_is_the_one_that_was_begun(
    market: Market,
) -> None:
    first, again = await broken_off(market)
    await market.kill("gateway")
    await eventually(market.ready, 60)
    # The client has lost the response's id with the rest, and knows but its own key.
    assert await again.run() == again.expected
    assert again.response_id == first.response_id
    check_rows(market.database_url, 1)


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
async def test_a_response_whose_row_was_not_written_before_the_crash_has_one_job(
    market: Market,
) -> None:
    _, again = await broken_off(market)
    await market.stop("gateway")
    engine = open_database(market.database_url)
    with writing(engine) as db:
        db.execute(sa.delete(responses))
    engine.dispose()
    await market.start("gateway")
    await eventually(market.ready, 60)
    assert await again.run() == again.expected
    check_rows(market.database_url, 1)


async def broken_off(market: Market) -> tuple[Client, Client]:
    """A client that left amid a response, and itself with nothing but its key."""
    key = await new_key(market.url)
    first, again = Client(market, key, 1), Client(market, key, 1)
    asking = asyncio.create_task(first.run())
    await eventually(lambda: len(first.text) > 4)
    asking.cancel()
    return first, again


def check_rows(url: str, n_jobs: int) -> None:
    engine = open_database(url)
    with reading(engine) as db:
        assert [row.state for row in db.execute(sa.select(jobs))] == ["completed"] * n_jobs
        assert len(db.execute(sa.select(usage)).all()) == n_jobs
    engine.dispose()


def check_books(url: str, clients: list[Client], *kills: Moment) -> None:
    engine = open_database(url)
    try:
        with reading(engine) as db:
            rows = db.execute(sa.select(jobs)).mappings().all()
            billed = db.execute(sa.select(usage)).mappings().all()
            assert db.execute(sa.select(reservations)).first() is None
        books = Books(engine).check()
    finally:
        engine.dispose()
    completed = {row["id"]: row for row in rows if row["state"] == "completed"}
    # A request that was answered in the very moment of the kill: its client did not hear of it, and
    # asked anew.
    unheard = [
        row
        for row in completed.values()
        if row["kind"] == "sync" and any(kill.is_near(row["updated_s"]) for kill in kills)
    ]
    assert N_STREAMS <= len(completed) <= N_STREAMS + len(unheard)
    # What a gateway's end broke off was not billed; what outlives it has one job, which went on.
    assert {row["state"] for row in rows if row["kind"] == "sync"} <= {"completed", "failed"}
    stored = [row["text"] for row in rows if row["kind"] == "async"]
    assert sorted(stored) == sorted(one.expected for one in clients if one.number % 3)
    assert sorted(row["job_id"] for row in billed) == sorted(completed)
    for row in billed:
        assert (row["output_tokens"], row["amount_micro_usd"]) == (N_TOKENS, cost(row))
    assert books["problems"] == []
    assert books["balances"][REVENUE] == -sum(map(cost, completed.values()))


def cost(row: Any) -> int:
    return PRICE.amount_micro_usd(row["input_tokens"], N_TOKENS)
