"""A dispatcher before simulated engines, in simulated time: nothing waits for a real second."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from airan.core.clock import ManualClock
from marketplace.chat import parse_chat_request
from marketplace.dispatch import Dispatcher, ModelOffer
from marketplace.engines.base import EngineState, SamplingParams, TokenChunk
from marketplace.jobs import Job
from marketplace.meter import Meter
from marketplace.money import Price
from marketplace.pool import PooledEngine
from marketplace.principal import Principal
from marketplace.store.database import Database
from marketplace.store.keys import KeySpec

MODEL = "m"
PREFILL_S = 0.001
"""Simulated seconds a prompt token takes."""
TOKEN_S = 0.05
"""Simulated seconds between two tokens of an answer."""


class Timeline:
    """Simulated time: whoever sleeps on it wakes in the order of their alarms."""

    def __init__(self) -> None:
        self.clock = ManualClock(1_000.0)
        self._alarms: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()

    async def sleep(self, seconds: float) -> None:
        future = asyncio.get_running_loop().create_future()
        due_s = self.clock.monotonic_s() + seconds
        heapq.heappush(self._alarms, (due_s, next(self._numbers), future))
        await future

    def wake_next(self, until_s: float) -> bool:
        """Moves to the next alarm; False if there is none by `until_s`."""
        while self._alarms and self._alarms[0][2].done():
            heapq.heappop(self._alarms)
        if not self._alarms or self._alarms[0][0] > until_s:
            return False
        due_s, _, future = heapq.heappop(self._alarms)
        self.clock.advance(max(0.0, due_s - self.clock.monotonic_s()))
        future.set_result(None)
        return True


class SimulatedEngine:
    """Gives tokens at an even pace. Each slot keeps the last prompt it saw, as llama.cpp does."""

    def __init__(self, timeline: Timeline, prefill_s: float, token_s: float) -> None:
        self._timeline = timeline
        self._prefill_s, self._token_s = prefill_s, token_s
        self._cached: dict[int, list[int]] = {}
        self.prefilled_tokens = 0
        """Prompt tokens worked on, those that were still there left out."""
        self.served: list[tuple[int, ...]] = []

    async def generate(
        self,
        prompt_token_ids: Sequence[int],
        params: SamplingParams,
        *,
        slot: int,
        adapter: str = "",
    ) -> AsyncIterator[TokenChunk]:
        prompt = list(prompt_token_ids)
        self.served.append(tuple(prompt))
        cached = self._cached.get(slot, [])
        both = zip(cached, prompt, strict=False)
        n_known = sum(1 for _ in itertools.takewhile(lambda two: two[0] == two[1], both))
        self.prefilled_tokens += len(prompt) - n_known
        self._cached[slot] = prompt[:n_known]
        await self._timeline.sleep((len(prompt) - n_known) * self._prefill_s)
        self._cached[slot] = held = prompt
        for number in range(1, params.max_tokens + 1):
            if number > 1:
                await self._timeline.sleep(self._token_s)
            # The answer's tokens follow from the position: an interrupted one goes on alike.
            token = 10_000 + len(held)
            held.append(token)
            last = "length" if number == params.max_tokens else None
            yield TokenChunk(f" {token}", (token,), number, last)

    async def apply_template(self, messages: Sequence[Mapping[str, str]]) -> str:
        return messages[-1]["content"]

    async def tokenize(
        self, text: str, *, parse_special: bool, add_special: bool = False
    ) -> list[int]:
        return [ord(char) for char in text]

    async def embed(self, token_ids: Sequence[int]) -> list[float]:
        self.served.append(tuple(token_ids))
        await self._timeline.sleep(len(token_ids) * self._prefill_s)
        return [float(token_ids[0]), float(len(token_ids))]

    async def health(self) -> bool:
        return True

    async def aclose(self) -> None:
        return


@dataclass
class Bench:
    """A started dispatcher and what is around it."""

    timeline: Timeline
    database: Database
    dispatcher: Dispatcher
    meter: Meter
    names: dict[str, str] = field(default_factory=dict)
    principals: dict[str, Principal] = field(default_factory=dict)

    @property
    def now_s(self) -> float:
        return self.timeline.clock.monotonic_s()

    async def settle(self) -> None:
        """Lets everything happen that needs no time to pass."""
        for _ in range(3):
            await self.database.call(lambda: None)
            for _ in range(20):
                await asyncio.sleep(0)

    async def run(self, seconds: float = float("inf")) -> None:
        """Lets simulated time pass; without `seconds`, until nothing is left to happen."""
        until_s = self.now_s + seconds
        await self.settle()
        while self.timeline.wake_next(until_s):
            await self.settle()
        if seconds != float("inf"):
            self.timeline.clock.advance(max(0.0, until_s - self.now_s))

    async def add_engine(self, n_slots: int = 1, **changes: Any) -> SimulatedEngine:
        """An engine with a lease."""
        speeds = {"prefill_s": changes.pop("prefill_s", PREFILL_S)}
        speeds["token_s"] = changes.pop("token_s", TOKEN_S)
        number = len(self.dispatcher.pool.engines)
        engine = PooledEngine(f"http://agent-{number}")
        engine.client = client = SimulatedEngine(self.timeline, **speeds)
        self.dispatcher.pool.engines.append(engine)
        state = EngineState(f"engine-{number}", MODEL, "ready", 1, f"lease-{number}", 64)
        state = replace(state, url="", max_concurrent=n_slots, n_slots=n_slots)
        before, engine.state = engine.state, replace(state, url=f"http://{number}", **changes)
        self.dispatcher._engine_changed(engine, before)
        return client

    def change(self, number: int, **changes: Any) -> None:
        """Another state of that engine, as its agent would tell it."""
        engine = self.dispatcher.pool.engines[number]
        before, engine.state = engine.state, replace(engine.state, **changes)
        self.dispatcher._engine_changed(engine, before)

    async def principal(self, tenant: str) -> Principal:
        if tenant not in self.principals:
            await self.database.call(self.database.accounts.create_tenant, tenant, 0.0, "postpaid")
            made = await self.database.call(self.database.keys.create, tenant, KeySpec(), 0.0)
            found = await self.database.call(self.database.keys.authenticate, made["key"], 0.0)
            assert found is not None
            self.principals[tenant] = found
        return self.principals[tenant]

    async def job(
        self, name: str, *, tenant: str = "a", prompt: str = "prompt", **parameters: Any
    ) -> Job:
        """A job ready to be submitted."""
        messages = [{"role": "user", "content": prompt}]
        body = {"model": MODEL, "messages": messages, "max_tokens": 4} | parameters
        kind = body.pop("kind", "sync")
        chat = parse_chat_request(body)
        clock = self.timeline.clock
        who = await self.principal(tenant)
        job = Job(kind, who, chat, clock.now_s(), clock.monotonic_s())
        self.names[job.id] = name
        job.prompt_ids = [ord(char) for char in prompt]
        job.max_tokens = chat.max_tokens or 100
        return job

    async def submit(self, name: str, **parameters: Any) -> Job:
        """A job in line, or running already."""
        job = await self.job(name, **parameters)
        await self.dispatcher.submit(job)
        return job

    def running(self) -> set[str]:
        return {self.names[job.id] for job in self.dispatcher.running}


@asynccontextmanager
async def bench_of_engines(folder: Path, **options: Any) -> AsyncIterator[Bench]:
    """A dispatcher without engines yet."""
    timeline, meter = Timeline(), Meter()
    database = Database(f"sqlite:///{folder / 'market.db'}")
    offers = {MODEL: ModelOffer(MODEL, 4096, Price(1000, 3000))}
    dispatcher = Dispatcher(database, offers, (), meter, timeline.clock, **options)
    dispatcher.start()
    try:
        yield Bench(timeline, database, dispatcher, meter)
    finally:
        await dispatcher.stop()
        database.close()
