"""An overload, in simulated time: tenants of all tiers before one engine that is too slow for them.

The engine has one processor, which the requests at work share; its pace changes and its lease
comes and goes, and nobody tells the dispatcher.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import random
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from marketplace.dispatch import TierUnreachableError
from marketplace.dispatch.queue import TIERS, Tier
from marketplace.engines.base import SamplingParams, TokenChunk
from marketplace.jobs import Job
from tests.marketplace.bench_of_engines import Bench, SimulatedEngine, Timeline

PREFILL_S, TOKEN_S = 0.006, 0.02
"""Seconds of the processor for a token of a prompt, and of an answer."""
_PIECE = 32
"""Prompt tokens that are worked on at once."""
_TOKENS_A_CHUNK = 4

Pace = Callable[[float], float]
"""By how much everything takes longer, so many seconds after the begin."""


def steady(_: float) -> float:
    """Never."""
    return 1.0


class SharedEngine(SimulatedEngine):
    """All requests at work get equally much of one processor."""

    def __init__(self, timeline: Timeline, pace: Pace) -> None:
        super().__init__(timeline, PREFILL_S, TOKEN_S)
        self._line, self._pace = timeline, pace
        self._begun_s = timeline.clock.monotonic_s()
        self._n_active = 0

    async def generate(
        self,
        prompt_token_ids: Sequence[int],
        params: SamplingParams,
        *,
        slot: int,
        adapter: str = "",
    ) -> AsyncIterator[TokenChunk]:
        self._n_active += 1
        prompt, held = list(prompt_token_ids), self._cached.get(slot, [])
        both = zip(held, prompt, strict=False)
        n_held = sum(1 for _ in itertools.takewhile(lambda two: two[0] == two[1], both))
        self._cached[slot] = held = prompt[:n_held]
        try:
            left = len(prompt) - n_held
            while left > 0:
                piece, left = min(left, _PIECE), left - _PIECE
                await self._work(piece * PREFILL_S)
                held += prompt[len(held) : len(held) + piece]
            done = 0
            while done < params.max_tokens:
                n = min(_TOKENS_A_CHUNK if done else 1, params.max_tokens - done)
                await self._work(n * TOKEN_S)
                done += n
                tokens = (0,) * n
                held += tokens
                last = "length" if done == params.max_tokens else None
                yield TokenChunk("x" * n, tokens, done, last)
        finally:
            self._n_active -= 1

    async def _work(self, processor_s: float) -> None:
        pace = self._pace(self._line.clock.monotonic_s() - self._begun_s)
        await self._line.sleep(processor_s * self._n_active * pace)


@dataclass(frozen=True)
class Sent:
    """A request and when it comes."""

    at_s: float
    tenant: str
    tier: Tier
    n_prompt: int
    n_answer: int


@dataclass
class Outcomes:
    """What became of one tier's requests."""

    waits_s: list[float] = field(default_factory=list)
    """Of those accepted, until the first token."""
    refused: list[float | None] = field(default_factory=list)
    """What those refused were told in Retry-After."""

    def late(self, target_s: float) -> int:
        """Accepted, and not served in time."""
        return sum(wait_s > target_s for wait_s in self.waits_s)


SHARES: tuple[tuple[str, Tier, float], ...] = (
    ("alarms", "priority", 0.15),
    ("assistant", "default", 0.35),
    ("search", "default", 0.35),
    ("reports", "flex", 0.15),
)


def requests(seed: int, *, per_s: float, duration_s: float) -> list[Sent]:
    """Requests of four tenants, by time; lengths vary as those of conversations do."""
    draw, found, at_s = random.Random(seed), [], 0.0
    while (at_s := at_s + draw.expovariate(per_s)) < duration_s:
        tenant, tier, _ = draw.choices(SHARES, [share for _, _, share in SHARES])[0]
        n_prompt = min(400, max(8, round(draw.lognormvariate(4.0, 0.7))))
        n_answer = min(100, max(1, round(draw.lognormvariate(2.4, 0.8))))
        found.append(Sent(at_s, tenant, tier, n_prompt, n_answer))
    return found


class Player:
    """Sends requests while the engine's lease goes every so often, and comes again."""

    def __init__(self, bench: Bench, *, every_s: float = 10.0, away_s: float = 1.4) -> None:
        self._bench = bench
        self._begun_s = bench.now_s
        self._every_s, self._away_s = every_s, away_s
        self._next = (every_s or math.inf, False)
        self.jobs: list[Job] = []
        self.of: dict[Tier, Outcomes] = {tier: Outcomes() for tier in TIERS}

    async def play(self, sent: Sequence[Sent]) -> dict[Tier, Outcomes]:
        """What came of them, by tier."""
        for one in sent:
            await self._until(one.at_s)
            await self._send(one)
        at_s = sent[-1].at_s
        while any(job.outcome is None for job in self.jobs):
            await self._until(at_s := at_s + 5.0)
        for job in self.jobs:
            assert job.ttft_ms is not None
            self.of[job.request.service_tier].waits_s.append(job.ttft_ms / 1e3)
        return self.of

    async def _until(self, at_s: float) -> None:
        while self._next[0] <= at_s:
            switch_s, ready = self._next
            await self._pass(switch_s)
            phase, n = ("ready", 4) if ready else ("no_lease", 0)
            self._bench.change(0, phase=phase, max_concurrent=n)
            pause_s = self._every_s - self._away_s if ready else self._away_s
            self._next = (switch_s + pause_s, not ready)
        await self._pass(at_s)

    async def _pass(self, at_s: float) -> None:
        await self._bench.run(max(0.0, self._begun_s + at_s - self._bench.now_s))

    async def _send(self, one: Sent) -> None:
        job = await self._bench.job(
            "",
            tenant=one.tenant,
            prompt=chr(1000 + len(self.jobs)) * one.n_prompt,
            service_tier=one.tier,
            max_tokens=one.n_answer,
        )
        try:
            await self._bench.dispatcher.submit(job)
        except TierUnreachableError as error:
            self.of[one.tier].refused.append(error.retry_after_s)
        else:
            self.jobs.append(job)


async def warm_up(bench: Bench) -> None:
    """So that something was measured."""
    for n_prompt, n_answer in ((24, 8), (48, 8), (96, 16), (160, 16)):
        await bench.submit("", tenant="warm-up", prompt="x" * n_prompt, max_tokens=n_answer)
        await bench.run()
    for _ in range(4):
        await bench.submit("", tenant="warm-up", prompt="x" * 60, max_tokens=16)
    await bench.run()


async def add_shared_engine(bench: Bench, pace: Pace = steady) -> None:
    """An engine of four slots."""
    await bench.add_engine(n_slots=4)
    bench.dispatcher.pool.engines[-1].client = SharedEngine(bench.timeline, pace)
    await asyncio.sleep(0)
