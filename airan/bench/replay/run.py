"""Runs a replay and makes rows of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from airan.bench.replay.bills import settle_accounts
from airan.bench.replay.client import Client, Seen
from airan.bench.replay.engine import N_CTX
from airan.bench.replay.report import Result
from airan.bench.replay.revoker import Revocations, revoke_regularly
from airan.bench.replay.site import ReplaySite, add_tenants, running_site
from airan.bench.replay.tenants import TENANTS, WARM_UP, Tenant
from airan.bench.replay.trace import Planned, TraceOptions, plan_replay
from airan.core.errors import InvalidInputError, UnavailableError

_DRAIN_S = 900.0
_WARM_UP_LENGTHS = ((24, 8), (48, 8), (96, 16), (160, 16), (64, 16), (64, 16), (32, 24), (32, 24))


@dataclass(frozen=True)
class ReplayOptions:
    """What is replayed, on what, and how often the lease goes.

    Raises:
        InvalidInputError: a figure is out of range.
    """

    model: str
    model_path: Path
    trace: TraceOptions = field(default_factory=TraceOptions)
    revoke_every_s: float = 10.0
    """0: never."""
    held_s: float = 1.0
    """How long the radio keeps the GPU, once the lease has ended."""
    notice_ms: int = 1000
    n_threads: int = 1
    """Of llama.cpp."""
    tenants: tuple[Tenant, ...] = TENANTS

    def __post_init__(self) -> None:
        for name in ("revoke_every_s", "held_s"):
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise InvalidInputError(
                    name, f"is {getattr(self, name)}", remedy="give 0 or more seconds"
                )
        if not 100 <= self.notice_ms <= 60_000:
            raise InvalidInputError(
                "notice_ms", f"is {self.notice_ms}", remedy="give 100 to 60000 milliseconds"
            )


def measure(options: ReplayOptions, say: Callable[[str], None]) -> Result:
    """Replays the trace once.

    Raises:
        ConfigError: the trace cannot be read, or has no request in the window.
        UnavailableError: a part of the site does not start, or a lease does not come or go.
    """
    planned = plan_replay(options.trace, options.tenants, N_CTX)
    # Each revocation is wanted here: the log need not tell of it.
    for name in ("airan.orchestrator", "httpx"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="airan-replay-") as folder:
        return asyncio.run(_replay(options, planned, Path(folder), say))


async def _replay(
    options: ReplayOptions, planned: list[Planned], folder: Path, say: Callable[[str], None]
) -> Result:
    say("starting orchestrator, engine and gateway")
    model = (options.model, options.model_path)
    async with running_site(folder, model, options.n_threads, options.notice_ms) as site:
        keys = await add_tenants(site.admin, options.model, (*options.tenants, WARM_UP))
        client = Client(site.url, options.model, keys, options.trace.seed)
        async with contextlib.aclosing(client):
            say("warming up")
            warm = await _warm_up(client)
            found = Revocations()
            load_before = os.getloadavg()[0]
            client.begin()
            async with _revoking(options, site, found):
                seen = await _send_all(client, planned, say)
            wall_s = client.now_s()
        account = await settle_accounts(site.admin, [*warm, *seen])
    return Result(seen, account, found, wall_s, load_before)


async def _warm_up(client: Client) -> list[Seen]:
    """So that admission knows the engine's speed, and we the length of the chat template."""
    client.begin()
    first = await client.send(Planned(-1, 0.0, WARM_UP, 1, 1, False))
    if not first.complete:
        raise UnavailableError(f"the first request of the warm-up fails: {first.problem}")
    # One of its tokens was the one word.
    client.n_template = first.usage_prompt - 1
    plans = [
        Planned(-2 - number, 0.0, WARM_UP, n_prompt + client.n_template, n_answer, False)
        for number, (n_prompt, n_answer) in enumerate(_WARM_UP_LENGTHS)
    ]
    rest = [await client.send(one) for one in plans[:2]]
    rest += await asyncio.gather(*(client.send(replace(one)) for one in plans[2:]))
    return [first, *rest]


@asynccontextmanager
async def _revoking(
    options: ReplayOptions, site: ReplaySite, found: Revocations
) -> AsyncIterator[None]:
    """Revocations go on while the body runs; their failure ends it."""
    if not options.revoke_every_s:
        yield
        return
    try:
        async with asyncio.TaskGroup() as tasks:
            revoking = tasks.create_task(
                revoke_regularly(
                    site.control, site.policy, options.revoke_every_s, options.held_s, found
                )
            )
            yield
            revoking.cancel()
    except* UnavailableError as failed:
        raise failed.exceptions[0] from failed


async def _send_all(
    client: Client, planned: list[Planned], say: Callable[[str], None]
) -> list[Seen]:
    tasks = [asyncio.create_task(client.send(one)) for one in planned]
    until_s = planned[-1].at_s + _DRAIN_S
    try:
        while not all(task.done() for task in tasks) and client.now_s() < until_s:
            n_done = sum(task.done() for task in tasks)
            n_due = sum(one.at_s <= client.now_s() for one in planned)
            say(f"{client.now_s():.0f} s: {n_due} of {len(planned)} sent, {n_done} ended")
            await asyncio.wait(tasks, timeout=1.0)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return [
        _unended(one) if task.cancelled() else task.result()
        for one, task in zip(planned, tasks, strict=True)
    ]


def _unended(planned: Planned) -> Seen:
    """A stream that did not end: for what it had, nobody waits any more."""
    return Seen(planned, status=200, problem=f"no end within {_DRAIN_S:g} s of the last request")
