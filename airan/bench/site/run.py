"""A site is started, put under load, left alone for a while, and then its processes are killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from airan.bench.replay.admin import Admin
from airan.bench.replay.revoker import Revocations, revoke_once
from airan.bench.replay.tenants import PRICES
from airan.bench.rows import hardware
from airan.bench.site import victims
from airan.bench.site.account import SiteAccount, settle
from airan.bench.site.feed import FeedReader
from airan.bench.site.load import BACKGROUND, STREAMS, LoadOptions, SteadyLoad
from airan.bench.site.slots import (
    ChannelTimes,
    Records,
    channel_times,
    gear_shares,
    slots_a_second,
    slots_after,
)
from airan.bench.site.started import StartedSite, config_for, keep_logs, started
from airan.bench.site.steps import Step, StepResult, result_of
from airan.bench.site.victims import Victim
from airan.core.config import SiteConfig
from airan.core.errors import AiranError, InvalidInputError
from airan.site.cores import keep_to_cores
from airan.site.engine import NAME
from airan.site.gpu_host import on_gpu as gpu_config
from airan.site.services import journal_file
from airan.site.slot_journal import RECORD, JournalReader
from orchestrator.api.client import ControlClient

_READ_S = 0.5
_POLL_S = 0.05
_STEADY_S, _STEADY_SLOTS = 1.0, 10
_FEED_S = 1.5
"""The dashboard asks once a second."""
_DRAIN_S = 180.0
_PATIENCE_S = 30.0
REVOCATIONS = "revocations"
Say = Callable[[str], None]
_Done = tuple[bool, dict[str, Any]]
"""Whether all works again, and further figures."""


@dataclass(frozen=True)
class SiteOptions:
    """What is measured.

    Attributes:
        on_gpu: `airan up --gpu`.
        load: of the tenants.
        kills: of `victims.NAMES`; what a site does not have is left out.
        quiet_s: how long nothing is killed, at first.
        n_revocations: ordinary ones, each holding the GPU for `held_s`.
        start_s, back_s: how long the site may take to start, and to come back from a kill.
        logs: where the services' logs are copied to in the end; None: nowhere.

    Raises:
        InvalidInputError: out of range.
    """

    on_gpu: bool = False
    load: LoadOptions = field(default_factory=LoadOptions)
    kills: tuple[str, ...] = victims.NAMES
    quiet_s: float = 20.0
    n_revocations: int = 3
    held_s: float = 1.0
    start_s: float = 300.0
    back_s: float = 180.0
    logs: Path | None = None

    def __post_init__(self) -> None:
        load = self.load
        if unknown := set(self.kills) - set(victims.NAMES):
            known = ", ".join(victims.NAMES)
            raise InvalidInputError(
                "kill", f"{min(unknown)!r} is none of its victims", remedy=f"use {known}"
            )
        for name, value, least in (
            ("streams", load.n_streams, 1),
            ("answer-tokens", load.answer_tokens, 16),
            ("batch-lines", load.batch_lines, 1),
            ("quiet", self.quiet_s, 1.0),
            ("revocations", self.n_revocations, 0),
        ):
            if value < least:
                raise InvalidInputError(name, f"must be at least {least}, got {value}")


@dataclass(frozen=True)
class Quiet:
    """A stretch in which nothing was killed.

    Attributes:
        length_s: of it.
        channels: the slots of both directions.
        tokens_per_s: that reached the clients.
        gears: by gear the part of the slots that ran in it; none where there are no gears.
    """

    length_s: float
    channels: list[ChannelTimes]
    tokens_per_s: float
    gears: dict[int, float]


@dataclass
class SiteReport:
    """What came of it.

    Attributes:
        hardware: on what.
        started: when, ISO 8601.
        options: what was measured.
        slots_s, ready_s: from the site's start until slots ended in time, and until it served.
        quiet: None: it did not come to that.
        steps: in their order.
        account: None: it did not come to that.
        n_overwritten: records of slots that were gone before they were read.
        error: why it ended early.
    """

    hardware: str
    started: str
    options: SiteOptions
    slots_s: float | None = None
    ready_s: float | None = None
    quiet: Quiet | None = None
    steps: list[StepResult] = field(default_factory=list)
    account: SiteAccount | None = None
    n_overwritten: int = 0
    error: str = ""

    @property
    def is_ok(self) -> bool:
        """All came back, and nothing was lost or billed wrongly."""
        return (
            not self.error
            and all(one.is_back for one in self.steps)
            and self.account is not None
            and self.account.is_clean
        )


def measure(
    config: SiteConfig,
    options: SiteOptions,
    say: Say,
    on_part: Callable[[SiteReport], None] = lambda _report: None,
) -> SiteReport:
    """Measures a site of this configuration, in a folder of its own.

    Args:
        config: of it, but for its folder and ports.
        options: what is measured.
        say: is told what happens now.
        on_part: gets the report so far, in which streams that have not ended count as broken.

    Raises:
        ConfigError: `on_gpu`, and something of that is missing.
    """
    where = hardware()
    # Sockets need a short path.
    with tempfile.TemporaryDirectory(prefix="airan-", dir="/tmp") as folder:
        mine = config_for(config, Path(folder) / "s")
        if options.on_gpu:
            where = f"{gpu_config(mine).node.gpu}, {where}"
        now = datetime.now(UTC).isoformat("T", "seconds")
        report = SiteReport(where, now, options)
        try:
            asyncio.run(_measure(mine, report, say, on_part))
        except AiranError as error:
            report.error = str(error)
        finally:
            if options.logs is not None:
                keep_logs(mine.state_dir, options.logs)
    return report


async def _measure(
    config: SiteConfig, report: SiteReport, say: Say, on_part: Callable[[SiteReport], None]
) -> None:
    options = report.options
    starting = started(config, on_gpu=options.on_gpu, limit_s=options.start_s, say=say)
    async with starting as site, _Bench.of(site, options, say) as bench:
        report.slots_s, report.ready_s = site.slots_s, site.ready_s
        # The clients are no part of the site, and none of Layer 1's business.
        keep_to_cores(site.runtime.config, "clients", os.getpid())
        async with bench.load.running():
            report.quiet = await bench.quiet()
            on_part(report)
            for victim in victims.victims(site.runtime, bench.journal):
                if victim.kind in options.kills:
                    await bench.step(victim.name, partial(bench.kill, victim))
                    report.steps = bench.results()
                    on_part(report)
            if options.n_revocations:
                await bench.step(REVOCATIONS, bench.revoke)
            say("letting the streams end")
        say("waiting for the background's work")
        background = await bench.load.end_background(_DRAIN_S)
        report.account = await settle(bench.admin, bench.load.seen, background)
        report.steps = bench.results()
        report.n_overwritten = bench.journal.n_overwritten


class _Bench:
    """A site under load, and what is seen of it."""

    def __init__(self, site: StartedSite, options: SiteOptions, say: Say) -> None:
        runtime = site.runtime
        self.options, self._say = options, say
        self.journal = JournalReader(journal_file(runtime))
        self.admin = Admin(runtime.gateway_url, runtime.admin_key)
        self.feed = FeedReader(runtime.dashboard_url)
        self.steps: list[Step] = []
        self.pace = 0.0
        self._control = ControlClient(runtime.control_address)
        self._model, self._url = runtime.config.model.name, runtime.gateway_url
        self._taken: list[Records] = []
        self.load: SteadyLoad

    @classmethod
    @asynccontextmanager
    async def of(cls, site: StartedSite, options: SiteOptions, say: Say) -> AsyncIterator[_Bench]:
        bench = cls(site, options, say)
        async with bench.admin, bench._control:
            for tier, price in PRICES.items():
                await bench.admin.set_price(bench._model, tier, price)
            keys = {
                one.name: await bench.admin.add_tenant(one.name, one.weight)
                for one in (STREAMS, BACKGROUND)
            }
            bench.load = SteadyLoad(bench._url, bench._model, keys, options.load)
            reading = [asyncio.create_task(bench.feed.run()), asyncio.create_task(bench._read())]
            try:
                async with contextlib.aclosing(bench.load):
                    yield bench
            finally:
                for task in reading:
                    task.cancel()
                await asyncio.gather(*reading, return_exceptions=True)
                bench.journal.close()

    @property
    def records(self) -> Records:
        """All slots so far."""
        self._taken = [np.concatenate(self._taken)] if self._taken else [np.zeros(0, RECORD)]
        return self._taken[0]

    async def _read(self) -> None:
        while True:
            self._taken.append(self.journal.take())
            await asyncio.sleep(_READ_S)

    async def quiet(self) -> Quiet:
        """Waits for tokens, and then looks on."""
        self._say("waiting for the first tokens")
        await self._until_tokens(0.0, self.options.back_s)
        await self.load.begin_batch()
        self._say(f"{self.options.quiet_s:g} s in which nothing is killed")
        from_s = time.monotonic()
        await asyncio.sleep(self.options.quiet_s)
        until_s = time.monotonic()
        await asyncio.sleep(_READ_S)
        records = self.records
        inside = records[(records["end_s"] > from_s) & (records["end_s"] <= until_s)]
        self.pace = slots_a_second(inside)
        n_tokens = sum(from_s < at_s <= until_s for at_s in self.load.token_times_s())
        length_s = until_s - from_s
        gears = gear_shares(inside) if self.options.on_gpu else {}
        return Quiet(length_s, channel_times(inside), n_tokens / length_s, gears)

    async def step(self, name: str, work: Callable[[], Awaitable[_Done]]) -> None:
        """Has something done to the site, with a batch under way, and looks until it is over."""
        await self.load.begin_batch()
        self._say(name)
        step = Step(name, time.monotonic(), time.time())
        self.steps.append(step)
        try:
            step.is_back, step.detail = await work()
        except AiranError as error:
            step.is_back, step.detail["error"] = False, str(error)
        await asyncio.sleep(_FEED_S)
        step.until_s = time.monotonic()

    def results(self) -> list[StepResult]:
        """Of all steps so far; a stream that has not ended yet counts as broken."""
        records = self.records
        return [result_of(one, records, self.load, self.feed, self.pace) for one in self.steps]

    async def kill(self, victim: Victim) -> _Done:
        """Kills, and waits until another does the work and slots and tokens flow again."""
        step = self.steps[-1]
        pid = victims.kill(victim)
        step.at_s, step.at_unix_s = time.monotonic(), time.time()
        limit_s = self.options.back_s
        is_back = await self._until(lambda: victim.pid() not in (0, pid), limit_s)
        replaced_s = time.monotonic()
        is_back = is_back and await self._until(victim.is_back, limit_s)
        # Of tokens those count that an engine of the time after made.
        since_s = replaced_s if victim.stops_engine else step.at_s
        is_back = is_back and await self._until_tokens(since_s, limit_s)
        steady = partial(self._is_steady, since_s)
        is_back = is_back and await self._until(steady, limit_s)
        return is_back, {"pid": pid, "replaced_after_s": replaced_s - step.at_s}

    async def revoke(self) -> _Done:
        """The radio takes the GPU, again and again, and gives it back."""
        found, policy = Revocations(), await self._control.get_policy()
        for _ in range(self.options.n_revocations):
            await revoke_once(self._control, policy, self.options.held_s, found, NAME)
            await self._until_tokens(time.monotonic(), _PATIENCE_S)
        steady = partial(self._is_steady, time.monotonic())
        is_back = await self._until(steady, self.options.back_s)
        return is_back, {
            "revocations": found.n,
            "evicted": found.n_evicted,
            "release_s": found.release_s,
            "away_s": found.away_s,
        }

    async def _until_tokens(self, since_s: float, limit_s: float) -> bool:
        return await self._until(lambda: self.load.has_tokens_since(since_s), limit_s)

    def _is_steady(self, from_s: float) -> bool:
        """From that moment on there were slots for a while of which none was lost."""
        length_s = max(_STEADY_S, _STEADY_SLOTS / self.pace) if self.pace else _STEADY_S
        until_s = time.monotonic() - 2 * _READ_S
        records, since_s = self.records, until_s - length_s
        if since_s < from_s:
            return False
        after = slots_after(records, since_s, until_s, self.pace)
        return not (after.late or after.dropped or after.missing)

    async def _until(self, is_so: Callable[[], bool], limit_s: float) -> bool:
        until_s = time.monotonic() + limit_s
        while not is_so():
            if time.monotonic() > until_s:
                return False
            await asyncio.sleep(_POLL_S)
        return True
